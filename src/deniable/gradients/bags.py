"""`embedding_bag`, opened up: an embedding of every entry, then each bag's sum, mean or maximum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.errors import CaptureError
from deniable.gradients.layout import Owners
from deniable.gradients.whose import Lost

if TYPE_CHECKING:
    from deniable.gradients.mode import Watch


def embedding_bag(
    watch: Watch,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The same values as `torch.nn.functional.embedding_bag`, with one row a bag.

    Raises:
        CaptureError: an option under which bags change each other's gradients.
    """
    if max_norm is not None or scale_grad_by_freq:
        raise CaptureError(
            f"embedding_bag on parameter {watch.bound.quoted(weight)}: with "
            "max_norm or scale_grad_by_freq the rows of a batch change each other's gradients. "
            "Build it without these options."
        )
    present, bags = torch.ones_like(input, dtype=torch.bool), None
    if offsets is not None:
        index, present = _padded(input, offsets, include_last_offset)
        bags = _owners(watch, input, index, present)
    with watch:
        if offsets is not None:
            input = input[index].masked_fill(~present, 0)
            if bags is not None:
                watch.order.note(input, bags)
            if per_sample_weights is not None:
                per_sample_weights = per_sample_weights[index]
        if padding_idx is not None:
            present = present & (input != padding_idx % weight.shape[0])
        rows = F.embedding(input, weight)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights[..., None]
        if mode == "max":
            lowest = rows.masked_fill(~present[..., None], float("-inf")).amax(1)
            return torch.where(present.any(1)[:, None], lowest, torch.zeros_like(lowest))
        total = torch.where(present[..., None], rows, torch.zeros_like(rows)).sum(1)
        return total if mode == "sum" else total / present.sum(1).clamp_min(1)[:, None]


def _owners(watch: Watch, input: Tensor, index: Tensor, present: Tensor) -> Owners | Lost | None:
    """Whose each bag is, from whose its entries are; None where entries lie in the batch's order.

    An empty bag tells nothing, so with one there must be a bag for each row, in order.
    """
    known, n = watch.order.of(input), watch.forward.rows
    if not isinstance(known, Owners):
        return known if isinstance(known, Lost) else None
    rows = torch.where(present, torch.cat([known.rows, known.rows.new_zeros(1)])[index], -1)
    filled, in_order = present.any(1), torch.arange(len(rows), device=rows.device)
    own = torch.where(filled, rows.amax(1) if rows.shape[1] else -1, in_order)
    if not bool(((rows == own[:, None]) | ~present).all()):
        return Lost("embedding_bag", mixed=True)
    if not bool(filled.all()) and not (len(rows) == n and torch.equal(own, in_order)):
        return Lost("embedding_bag")
    return Owners.found(0, own, n)


def _padded(input: Tensor, offsets: Tensor, include_last: bool) -> tuple[Tensor, Tensor]:
    """Where the entries of each bag lie, `(bags, longest)`, and which of these places are real."""
    ends: Any = (
        offsets[1:] if include_last else torch.cat([offsets[1:], offsets.new_tensor([len(input)])])
    )
    starts = offsets[: len(ends)]
    lengths = ends - starts
    places = torch.arange(int(lengths.max()) if len(lengths) else 0, device=input.device)
    present = places < lengths[:, None]
    return torch.where(present, starts[:, None] + places, 0), present
