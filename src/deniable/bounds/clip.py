"""Clipping each unit's whole gradient to a norm."""

from __future__ import annotations

import math
from typing import Any

import torch

from deniable.bounds.base import Bound, Gradients, Observed
from deniable.units import BoundedSum, Sensitivity


class Clip(Bound):
    """Flat clipping: `g / max(1, |g| / norm)` (Abadi et al., 2016, algorithm 1).

    Formal guarantee: the sum of clipped gradients moves by at most `norm` in L2 when one unit is
    added or removed. A unit whose gradient is not finite contributes zero.

    Args:
        norm: the threshold C, in gradient units; positive and finite.

    Raises:
        ValueError: the norm is not a positive finite number.

    >>> Clip(1.0).sensitivity().value
    1.0
    """

    def __init__(self, norm: float) -> None:
        if not (isinstance(norm, (int, float)) and math.isfinite(norm) and norm > 0):
            raise ValueError(f"Clip needs a positive, finite norm, got {norm!r}. Try Clip(1.0).")
        self.norm = float(norm)

    def __repr__(self) -> str:
        return f"Clip({self.norm})"

    def sensitivity(self) -> Sensitivity:
        """How far one unit can move the sum: the norm."""
        return Sensitivity(self.norm)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {"name": "Clip", "norm": self.norm}

    def __call__(self, gradients: Gradients) -> tuple[BoundedSum, Observed]:
        """The clipped sum, and this batch's norms (not private)."""
        norms = gradients.norms()
        factors = self.norm / norms.clamp(min=self.norm)
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            factors = torch.where(finite, factors, 0.0)
            gradients = gradients.only(finite)
        sums = gradients.weighted_sum(factors)
        return BoundedSum(sums, self.sensitivity()), Observed(norms, factors)
