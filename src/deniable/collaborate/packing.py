"""Named tensors as one block of bytes, in an order that both ends know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """All tensors one after another, as bytes on the CPU."""
    if not tensors:
        return torch.empty(0, dtype=torch.uint8)
    return torch.cat(
        [each.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8) for each in tensors]
    )


def unpacked(block: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in a block, with names, shapes and dtypes as in `like`, on the CPU.

    Raises:
        ValueError: the block has another length.
    """
    sizes = [each.numel() * each.element_size() for each in like.values()]
    if len(block) != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} bytes, got {len(block)}")
    found = {}
    for (name, each), part in zip(like.items(), torch.split(block, sizes), strict=True):
        whole = part if part.data_ptr() % each.element_size() == 0 else part.clone()
        found[name] = whole.view(each.dtype).view(each.shape)
    return found
