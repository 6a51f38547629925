"""How long the rows of a matrix are, however many numbers they hold and however large."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_BLOCK: Final = 1 << 14


def lengths(values: Tensor) -> Tensor:
    """The norm of each row, `(n, size)` -> `(n,)`.

    On the CPU the squares of a row are added up one after another in a few places: for a million
    of them the sum is off by 1e-3, so that long rows go by blocks.

    >>> lengths(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    tensor([5., 2.])
    """
    blocks = torch.split(values, _BLOCK, 1) if values.device.type == "cpu" else (values,)
    norms: list[Tensor] = [torch.linalg.vector_norm(each, dim=1) for each in blocks]
    if len(norms) == 1:
        return norms[0]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms, 1), dim=1)
    return whole


def wide(tensor: Tensor) -> Tensor:
    """In float64, where the device has it: squares of norms may be none that float32 holds."""
    return tensor if tensor.device.type == "mps" else tensor.double()
