"""Rows into units: microbatches, users and augmented views are means over several rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from deniable.gradients.contributions import Contribution, Dense
from deniable.gradients.convolution import Convolution
from deniable.gradients.outer import OneHot, Outer


@dataclass(frozen=True)
class Groups:
    """How many consecutive rows make up each unit; a unit's gradient is their mean.

    Attributes:
        sizes: rows of each unit; a unit without rows has gradient zero.
    """

    sizes: Sequence[int]

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(self.sizes)

    @cached_property
    def even(self) -> int | None:
        """The size of every unit, if they are all alike."""
        return self.sizes[0] if len(set(self.sizes)) == 1 and self.sizes[0] else None

    def merge(self, contribution: Contribution) -> Contribution:
        """The gradients of units, from those of rows."""
        match contribution:
            case Dense(values):
                shares = self._shares(values)
                if self.even:
                    return Dense((values * shares).unflatten(0, (-1, self.even)).sum(1))  # type: ignore[no-untyped-call]
                total = values.new_zeros(len(self.sizes), *values.shape[1:])
                owner = torch.repeat_interleave(torch.tensor(self.sizes)).to(values.device)
                return Dense(total.index_add_(0, owner, values * shares))
            case Outer(left, right, shape):
                right = self._join(right * self._shares(right))
                if isinstance(left, OneHot):
                    return Outer(OneHot(self._join(left.indices), left.size), right, shape)
                return Outer(self._join(left), right, shape)
            case Convolution(input, grad):
                return replace(
                    contribution,
                    input=self._join(input),
                    grad=self._join(grad * self._shares(grad)),
                )
        raise AssertionError(f"no way to merge {type(contribution).__name__}")

    def _shares(self, values: Tensor) -> Tensor:
        """What each row counts for in its unit's mean, shaped to multiply `values`."""
        sizes = torch.tensor(self.sizes, device=values.device)
        shares = torch.repeat_interleave(1 / sizes.clamp_min(1).to(values.dtype), sizes)
        return shares.view(-1, *([1] * (values.ndim - 1)))

    def _join(self, values: Tensor) -> Tensor:
        """`(rows, T, ...)` to `(units, m * T, ...)`, with zeros where a unit has fewer rows."""
        most = max(self.sizes, default=0)
        if not self.even:
            sizes = torch.tensor(self.sizes, device=values.device)
            place = torch.arange(most, device=values.device)
            real = place < sizes[:, None]
            index = torch.where(real, (sizes.cumsum(0) - sizes)[:, None] + place, 0)
            mask = real.view(*real.shape, *([1] * (values.ndim - 1)))
            values = torch.where(mask, values[index], values.new_zeros(()))
            return values.flatten(1, 2)
        return values.reshape(len(self.sizes), most * values.shape[1], *values.shape[2:])
