"""How long the rows of a matrix are, however many numbers they hold and however large."""

from __future__ import annotations

from collections.abc import Callable
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
    if values.shape[1] <= _BLOCK or values.device.type != "cpu":
        return _norms(values, dim=1)
    blocks = [_norms(each, dim=1) for each in torch.split(values, _BLOCK, 1)]
    return _norms(torch.stack(blocks, 1), dim=1)


def squared_lengths(values: Tensor) -> Tensor:
    """The squared norm of each row, `(n, size)` -> `(n,)`."""
    found = lengths(values)
    return found.mul_(found)


_norms: Callable[..., Tensor] = torch.linalg.vector_norm


def wide(tensor: Tensor) -> Tensor:
    """In float64, where the device has it: squares of norms may be none that float32 holds."""
    return tensor if tensor.device.type == "mps" else tensor.double()
