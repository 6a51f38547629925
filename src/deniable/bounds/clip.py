"""Clipping each unit's whole gradient to a norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deniable.bounds.base import Bound, Gradients
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

    def __call__(self, gradients: Gradients) -> tuple[BoundedSum, dict[str, float | Tensor]]:
        """The clipped sum, and this batch's norms (not private)."""
        squared = list(gradients.squared_norms().values())
        if not squared or not gradients.units:
            zero = next(iter(gradients.parameters.values())).new_zeros(gradients.units)
            sums = gradients.weighted_sum(zero)
            return BoundedSum(sums, self.sensitivity()), {"mean_norm": 0.0, "clip_fraction": 0.0}
        device = squared[0].device
        norms = torch.stack([each.to(device) for each in squared]).sum(0).sqrt()
        finite = torch.isfinite(norms)
        factors = torch.where(finite, self.norm / norms.clamp_min(self.norm), 0.0)
        if not bool(finite.all()):
            gradients = gradients.only(finite)
        sums = gradients.weighted_sum(factors)
        return BoundedSum(sums, self.sensitivity()), {
            "mean_norm": norms.mean(),
            "clip_fraction": (factors < 1).to(norms.dtype).mean(),
        }
