"""What a bound is, and what it needs of per-unit gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from torch import Tensor

from deniable.units import BoundedSum, Sensitivity


class Gradients(Protocol):
    """Per-unit gradients in any form that can answer these."""

    units: int
    parameters: dict[str, Tensor]

    def squared_norms(self) -> dict[str, Tensor]:
        """The squared norm of each unit's gradient, shape `(units,)`, by parameter used."""

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
    def __call__(self, gradients: Gradients) -> tuple[BoundedSum, dict[str, float | Tensor]]:
        """The bounded sum, and statistics of this batch (not private: never release them)."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
