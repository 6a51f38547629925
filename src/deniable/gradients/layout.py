"""Which positions of a tensor belong to which unit."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor


class Fold(enum.Enum):
    """How the units lie along their dimension."""

    PLAIN = "one index per unit"
    OUTER = "units outermost: (n * T)"
    INNER = "units innermost: (T * n)"
    WHOLE = "the only unit owns the whole tensor"


@dataclass(frozen=True)
class Layout:
    """The dimension along which units lie, and how."""

    dim: int
    fold: Fold

    def split(self, tensor: Tensor, n: int) -> Tensor:
        """The tensor with units first, `(n, ...)`; the other dimensions keep their order."""
        match self.fold:
            case Fold.PLAIN:
                return tensor.movedim(self.dim, 0)
            case Fold.OUTER:
                return self._unfold(tensor, (n, -1)).movedim(self.dim, 0)
            case Fold.INNER:
                return self._unfold(tensor, (-1, n)).movedim(self.dim + 1, 0)
            case Fold.WHOLE:
                return tensor.unsqueeze(0)

    def _unfold(self, tensor: Tensor, sizes: tuple[int, int]) -> Tensor:
        shape = tensor.shape
        return tensor.reshape(*shape[: self.dim], *sizes, *shape[self.dim + 1 :])

    def split_keeping_rank(self, tensor: Tensor, n: int) -> Tensor:
        """Like `split`, but every slice has as many dimensions as the tensor."""
        split = self.split(tensor, n)
        return split.unsqueeze(self.dim + 1) if self.fold is Fold.PLAIN else split

    def fits(self, tensor: Tensor, n: int, features: int = 0) -> bool:
        """Whether a tensor of this shape can have this layout."""
        if self.fold is Fold.WHOLE:
            return n == 1
        if self.dim >= tensor.ndim - features:
            return False
        size = tensor.shape[self.dim]
        return size == n if self.fold is Fold.PLAIN else size != n and size % n == 0


_LAYOUTS = [
    [Layout(dim, fold) for fold in (Fold.PLAIN, Fold.OUTER, Fold.INNER)] for dim in range(64)
]
WHOLE = Layout(0, Fold.WHOLE)
FIRST = _LAYOUTS[0][0]


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
    return found


def confined(changed: Tensor, layout: Layout, unit: int, n: int) -> bool:
    """Whether a mask of changed positions lies within one unit under a layout."""
    rows = layout.split(changed, n).flatten(1).any(1)
    rows[unit] = False
    return not bool(rows.any())
