"""Which positions of a tensor belong to which unit."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor


class Fold(enum.Enum):
    """How the units lie along their dimension."""

    PLAIN = "one index per unit"
    OUTER = "units outermost: (n * T)"
    INNER = "units innermost: (T * n)"
    BETWEEN = "units in the middle: (T * n * S)"
    WHOLE = "the only unit owns the whole tensor"
    OWNED = "a list says whose each index is"


@dataclass(frozen=True)
class Layout:
    """The dimension along which units lie, and how."""

    dim: int
    fold: Fold

    def split(self, tensor: Tensor, n: int) -> Tensor:
        """The tensor with units first, `(n, ...)`; the other dimensions keep their order."""
        match self.fold:
            case Fold.PLAIN:
                return tensor.movedim(self.dim, 0) if self.dim else tensor
            case Fold.OUTER:
                return self._unfold(tensor, (n, -1)).movedim(self.dim, 0)
            case Fold.INNER:
                return self._unfold(tensor, (-1, n)).movedim(self.dim + 1, 0)
            case Fold.WHOLE:
                return tensor.unsqueeze(0)
            case Fold.BETWEEN | Fold.OWNED:
                raise AssertionError("Between.split, Owners.split")

    def _unfold(self, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
        shape = tensor.shape
        return tensor.reshape(*shape[: self.dim], *sizes, *shape[self.dim + 1 :])

    def split_keeping_rank(self, tensor: Tensor, n: int) -> Tensor:
        """Like `split`, but every slice has as many dimensions as the tensor."""
        split = self.split(tensor, n)
        return split.unsqueeze(self.dim + 1) if self.fold is Fold.PLAIN else split

    def own(self, tensor: Tensor, n: int) -> Tensor:
        """For each unit, a mask of what is its own in the tensor: `(n, ...)`, to be broadcast."""
        if self.fold is Fold.WHOLE:
            return tensor.new_ones((1,) * (tensor.ndim + 1), dtype=torch.bool)
        owners = self.owners(tensor.shape[self.dim], n, tensor.device)
        own = owners == torch.arange(n, device=tensor.device)[:, None]
        return own.view(n, *(-1 if dim == self.dim else 1 for dim in range(tensor.ndim)))

    def fits(self, tensor: Tensor, n: int, features: int = 0) -> bool:
        """Whether a tensor of this shape can have this layout."""
        if self.fold is Fold.WHOLE:
            return n == 1
        if self.dim >= tensor.ndim - features:
            return False
        return self.holds(tensor.shape[self.dim], n)

    def holds(self, size: int, n: int) -> bool:
        """Whether units can lie so along a dimension of this size."""
        return size == n if self.fold is Fold.PLAIN else size != n and size % n == 0

    def owners(self, size: int, n: int, device: torch.device) -> Tensor:
        """Whose each of the `size` indices along the dimension is."""
        units = torch.arange(n, device=device)
        match self.fold:
            case Fold.OUTER:
                return units.repeat_interleave(size // n)
            case Fold.INNER:
                return units.repeat(size // n)
        return units


@dataclass(frozen=True)
class Between(Layout):
    """Units folded with others on both sides: the windows of a picture under attention, say.

    Attributes:
        outside: how many indices lie outside the units.
        inside: how many lie inside.
    """

    outside: int
    inside: int

    def split(self, tensor: Tensor, n: int) -> Tensor:
        """The tensor with units first, `(n, ...)`; the other dimensions keep their order."""
        apart = self._unfold(tensor, (self.outside, n, self.inside)).movedim(self.dim + 1, 0)
        return apart.flatten(self.dim + 1, self.dim + 2)

    def holds(self, size: int, n: int) -> bool:
        """Whether units can lie so along a dimension of this size."""
        return size == self.outside * n * self.inside

    def owners(self, size: int, n: int, device: torch.device) -> Tensor:
        """Whose each of the `size` indices along the dimension is."""
        units = torch.arange(n, device=device)
        return units.repeat_interleave(self.inside).repeat(self.outside)


@dataclass(frozen=True, eq=False)
class Owners(Layout):
    """Whose each index along a dimension is, where a model reordered, picked or packed rows.

    Attributes:
        rows: for each index along `dim` the unit that it belongs to; below 0, none.
    """

    rows: Tensor

    @property
    def in_order(self) -> bool:
        """Whether units lie as in a tensor whose rows were never moved."""
        return self.fold is not Fold.OWNED

    @classmethod
    def found(cls, dim: int, rows: Tensor, n: int) -> Owners:
        """From whose each index is; what lies in order is known as that."""
        for layout in _LAYOUTS[dim]:
            if layout.holds(len(rows), n) and torch.equal(
                rows, layout.owners(len(rows), n, rows.device)
            ):
                return cls(dim, layout.fold, rows)
        return cls(dim, Fold.OWNED, rows)

    def names(self, tensor: Tensor) -> bool:
        """Whether the tensor has an index for each owner."""
        return self.dim < tensor.ndim and tensor.shape[self.dim] == len(self.rows)

    def at(self, dim: int) -> Owners:
        """The same along another dimension, as that of another tensor."""
        return self if dim == self.dim else Owners(dim, self.fold, self.rows)

    def owners(self, size: int, n: int, device: torch.device) -> Tensor:
        """Whose each index along the dimension is."""
        return self.rows

    def split(self, tensor: Tensor, n: int) -> Tensor:
        """Units first, and at `dim + 1` the indices of each, zero where it has fewer than most."""
        if self.in_order:
            return super().split(tensor, n)
        index, real = self._places
        if len(index) != n:
            padding = (0, 0, 0, n - len(index))
            index, real = (torch.nn.functional.pad(each, padding) for each in (index, real))
        moved = tensor.movedim(self.dim, 0)[index]
        mask = real.view(*real.shape, *([1] * (moved.ndim - 2)))
        return torch.where(mask, moved, moved.new_zeros(())).movedim(1, self.dim + 1)

    def split_keeping_rank(self, tensor: Tensor, n: int) -> Tensor:
        """Like `split`, but every slice has as many dimensions as the tensor."""
        return super().split_keeping_rank(tensor, n) if self.in_order else self.split(tensor, n)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The indices of each unit, `(units, most)`, and which of these places are real."""
        owned = (self.rows >= 0).nonzero()[:, 0]
        order = owned[torch.argsort(self.rows[owned], stable=True)]
        counts = torch.bincount(self.rows[owned])
        most = int(counts.max()) if len(counts) else 0
        place = torch.arange(most, device=self.rows.device)
        real = place < counts[:, None]
        first = (counts.cumsum(0) - counts)[:, None]
        found = torch.where(real, first + place, 0)
        return (order[found] if len(order) else found), real


_LAYOUTS = [
    [Layout(dim, fold) for fold in (Fold.PLAIN, Fold.OUTER, Fold.INNER)] for dim in range(64)
]
WHOLE = Layout(0, Fold.WHOLE)


def candidates(tensor: Tensor, n: int, features: int = 0) -> list[Layout]:
    """Every layout that the shape allows; the last `features` dimensions hold no units.

    A batch of one unit owns everything.
    """
    if n == 1:
        return [WHOLE]
    found: list[Layout] = []
    for dim, size in enumerate(tensor.shape[: tensor.ndim - features]):
        if size == n:
            found.append(_LAYOUTS[dim][0])
        elif n and size and size % n == 0:
            found += _LAYOUTS[dim][1:]
            found += _between(dim, size // n)
    return found


@lru_cache(maxsize=1024)
def _between(dim: int, size: int) -> list[Layout]:
    """How units may lie in the middle, with `size` indices outside and inside them together."""
    return [
        Between(dim, Fold.BETWEEN, outside, size // outside)
        for outside in range(2, size // 2 + 1)
        if size % outside == 0
    ]
