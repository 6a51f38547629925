"""What a tensor held for each unit, one number a unit: two runs compared without keeping them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deniable.gradients.layout import WHOLE, Layout, Owners, candidates

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Trace:
    """One tensor, under every layout that it may have.

    Attributes:
        shape: the tensor's.
        sums: by layout, a number for each unit, and a last one for what is nobody's, with random
            weights. Where no layout is possible everything is nobody's, under the layout `WHOLE`.
        sizes: how large the values behind each sum are; None where sums are of bits, and exact.
        rounding: how far a sum of values may be off, relative to their size.
    """

    shape: torch.Size
    sums: list[tuple[Layout, Tensor]]
    sizes: list[Tensor] | None = None
    rounding: float = 0.0

    @classmethod
    def of(cls, tensor: Tensor, n: int, whose: Owners | None, exact: bool) -> Trace:
        """Of a tensor that a call met.

        Args:
            tensor: the values.
            n: how many units there are.
            whose: their layout, if that is known.
            exact: whether another bit is a difference. Otherwise values may differ by rounding, as
                a row's do when it is computed at another place in the batch.
        """
        layouts: list[Layout] = [whose] if whose is not None else candidates(tensor, n) or [WHOLE]
        if exact:
            return cls(tensor.shape, _sums(_bits(tensor), layouts, n))
        values = _squeezed(tensor)
        return cls(
            tensor.shape,
            _sums(values, layouts, n),
            [each.sqrt() for _, each in _sums(values.square(), layouts, n, weighted=False)],
            torch.finfo(tensor.dtype).eps ** 0.5 if tensor.is_floating_point() else 0.0,
        )

    def comparable(self, other: Trace) -> bool:
        """Whether both had one shape, but for how many indices the units have."""
        a, b = list(self.shape), list(other.shape)
        mine, theirs = self.sums[0][0], other.sums[0][0]
        if isinstance(mine, Owners) and isinstance(theirs, Owners) and len(a) == len(b):
            a[mine.dim] = b[theirs.dim] = 0
        return a == b and len(self.sums) == len(other.sums)

    def moved(self, other: Trace) -> bool:
        """Whether another run left something else here."""
        return any(bool(changed.any()) for _, changed in self._changes(other))

    def confined(self, other: Trace, units: Tensor) -> list[Layout]:
        """The layouts under which only these units differ; `units` is a mask, shape `(n,)`."""
        found = []
        for layout, changed in self._changes(other):
            changed[:-1] &= ~units.to(changed.device)
            if not bool(changed.any()):
                found.append(layout)
        return found

    def _changes(self, other: Trace) -> Iterator[tuple[Layout, Tensor]]:
        for k, ((layout, before), (_, after)) in enumerate(zip(self.sums, other.sums, strict=True)):
            if self.sizes is None or other.sizes is None:
                yield layout, before != after
            else:
                size = torch.maximum(self.sizes[k], other.sizes[k])
                yield layout, (before - after).abs() > self.rounding * size


def _sums(
    values: Tensor, layouts: list[Layout], n: int, weighted: bool = True
) -> list[tuple[Layout, Tensor]]:
    along = {dim: _along(values, dim, weighted) for dim in {layout.dim for layout in layouts}}
    return [(each, _of_units(along[each.dim], each, n, weighted)) for each in layouts]


def _along(values: Tensor, dim: int, weighted: bool) -> Tensor:
    """A number for each index of a dimension."""
    lead = values.movedim(dim, 0).flatten(1) if values.ndim > 1 else values.reshape(-1, 1)
    return (lead * _weights(lead.shape[1], lead) if weighted else lead).sum(1)


def _of_units(each: Tensor, layout: Layout, n: int, weighted: bool) -> Tensor:
    """A number for each unit, and one for what is nobody's."""
    if layout is WHOLE:
        rows = torch.full(each.shape, -1, device=each.device)
        each = each * _weights(len(each), each) if weighted else each
    else:
        rows = layout.owners(len(each), n, each.device)
    return each.new_zeros(n + 1).index_add(0, torch.where(rows < 0, n, rows), each)


def _weights(size: int, like: Tensor) -> Tensor:
    """The same random numbers each time: signs for values, odds against a collision for bits."""
    generator = torch.Generator().manual_seed(0)
    if like.is_floating_point():
        drawn = torch.randint(2, (size,), generator=generator) * 2 - 1
        return drawn.to(like.device, like.dtype)
    return torch.randint(-(2**62), 2**62, (size,), generator=generator).to(like.device)


def _bits(tensor: Tensor) -> Tensor:
    values = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    return values.view(_INTEGERS[values.element_size()])


def _squeezed(tensor: Tensor) -> Tensor:
    """Values in which no infinity and no huge constant (of a mask, say) hides the others."""
    if tensor.is_floating_point() or tensor.is_complex():
        values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        return values.double().asinh().nan_to_num(0.0, 100.0, -100.0)
    return (_bits(tensor).long() * 0x9E3779B1 % 2**32).double() / 2**32
