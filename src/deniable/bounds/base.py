"""What a bound is, and what it needs of per-unit gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deniable.units import BoundedSum, Sensitivity


@dataclass(frozen=True)
class Observed:
    """What a bound saw of one batch (not private: never release it).

    Attributes:
        norms: of each unit's gradient before it was bounded, `(units,)`.
        factors: what each was multiplied by, `(units,)`.
    """

    norms: Tensor
    factors: Tensor

    def summary(self) -> dict[str, float]:
        """How many units were finite, their mean norm, and the share whose gradient shrank."""
        finite = torch.isfinite(self.norms)
        count = int(finite.sum())
        return {
            "units": len(self.norms),
            "not_finite": len(self.norms) - count,
            "mean_norm": float(self.norms[finite].mean()) if count else 0.0,
            "clip_fraction": float((self.factors < 1).float().mean()) if len(self.norms) else 0.0,
        }


class Gradients(Protocol):
    """Per-unit gradients in any form that can answer these."""

    units: int
    parameters: dict[str, Tensor]

    def squared_norms(self) -> dict[str, Tensor]:
        """The squared norm of each unit's gradient, shape `(units,)`, by parameter used."""

    def norms(self) -> Tensor:
        """The norm of each unit's whole gradient, shape `(units,)`."""

    def weighted_sum(self, weights: Tensor) -> dict[str, Tensor]:
        """`sum_i weights[i] * gradient_i` of every parameter."""

    def only(self, keep: Tensor) -> Gradients:
        """The same with every unit outside the mask `keep` set to exactly zero."""


class Bound(ABC):
    """Turns per-unit gradients into one sum that no single unit can move far.

    Formal guarantee: for neighbouring batches the returned sums, concatenated over parameters,
    differ by at most `sensitivity().value` in L2 norm, whatever the gradients are, non-finite ones
    included.
    """

    @abstractmethod
    def sensitivity(self) -> Sensitivity:
        """How far one unit can move the sum."""

    @abstractmethod
    def __call__(self, gradients: Gradients) -> tuple[BoundedSum, Observed]:
        """The bounded sum, and what was seen of this batch (not private: never release it)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
