"""Clipping to a quantile of the norms, which is learned privately while training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deniable.bounds.base import Bound, Gradients, Limited
from deniable.bounds.clip import SHORTEST, checked_norm
from deniable.bounds.views import Scaled
from deniable.units import Sensitivity

# No parameter has this name: those of modules never begin with a dot.
COUNT = ".within"


class AdaptiveClip(Bound):
    """Flat clipping whose threshold follows a quantile of the norms.

    Andrew et al., 2021, "Differentially Private Learning with Adaptive Clipping", algorithm 1. With
    each sum of clipped gradients, the share `b` of units whose norm is within the threshold C is
    released, under noise; then `C <- C * exp(-learning_rate * (b - quantile))`.

    Formal guarantee: each unit adds its clipped gradient, and `count_weight * C` or minus that to
    one more coordinate. Together they move by at most `C * sqrt(1 + count_weight^2)` in L2 when one
    unit is added or removed. All coordinates get the noise that this asks for, in one Gaussian
    release of the plan's noise multiplier: **what the threshold tells is part of what is
    accounted**. A unit whose gradient is not finite contributes zero to all of them.

    In the paper's terms: at noise multiplier z, gradients get noise of `z_delta * C` with `z_delta
    = z * sqrt(1 + w^2)`, for w the count's weight, and the count of units gets noise of `sigma_b =
    z * sqrt(1 + w^2) / (2 w)`, which solve its `z^-2 = z_delta^-2 + (2 sigma_b)^-2`. At the weight
    of 0.1, the gradients' noise is 0.5% more than without, and the count's is 5 z units.

    Args:
        norm: the threshold to begin with; finite and at least 1e-10.
        quantile: the share of units whose norm shall be within the threshold, between 0 and 1.
        learning_rate: how fast the threshold moves; above 0. The paper uses 0.2.
        count_weight: w, above 0: the larger, the more exact the share, and the more noise
            everywhere.

    Attributes:
        threshold: C as of the last release. It is public, as what it was computed from is.

    Raises:
        ValueError: a value is out of its range.

    >>> round(AdaptiveClip(1.0).sensitivity({}).value, 4)
    1.005
    """

    adapts = True

    def __init__(
        self,
        norm: float = 1.0,
        *,
        quantile: float = 0.5,
        learning_rate: float = 0.2,
        count_weight: float = 0.1,
    ) -> None:
        self.norm = self.threshold = checked_norm("AdaptiveClip", norm)
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must lie strictly between 0 and 1, got {quantile!r}.")
        for name, value in {"learning_rate": learning_rate, "count_weight": count_weight}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}.")
        self.quantile, self.learning_rate = float(quantile), float(learning_rate)
        self.count_weight = float(count_weight)

    def __repr__(self) -> str:
        return f"AdaptiveClip({self.norm}, quantile={self.quantile})"

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sums at the threshold of the next release."""
        return Sensitivity(self.threshold * math.hypot(1, self.count_weight))

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports; the norm is that of the beginning."""
        return {
            "name": "AdaptiveClip",
            "norm": self.norm,
            "quantile": self.quantile,
            "learning_rate": self.learning_rate,
            "count_weight": self.count_weight,
        }

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        return (
            f"clipped to a norm that follows the quantile {self.quantile:g} of all norms, from "
            f"{self.norm:g} on"
        )

    def limit(self, gradients: Gradients) -> Limited:
        """Each gradient clipped to the threshold; aside, whether it was within it."""
        norms = gradients.norms()
        factors = self.threshold / norms.clamp(min=self.threshold)
        within = (norms <= self.threshold).to(norms.dtype)
        signs = (2 * within - 1) * (self.count_weight * self.threshold)
        return Limited(Scaled(gradients, factors), factors, {COUNT: signs})

    def learn(self, aside: Mapping[str, Tensor], expected: float) -> None:
        """Move the threshold towards the quantile, by the noisy share of units within it."""
        surplus = float(aside[COUNT]) / (2 * self.count_weight * self.threshold)
        share = 0.5 + surplus / expected
        step = -self.learning_rate * (share - self.quantile)
        moved = self.threshold * math.exp(min(max(step, -50.0), 50.0))
        self.threshold = min(max(moved, SHORTEST), 1 / SHORTEST)

    def state(self) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a threshold that `state` returned."""
        self.threshold = float(state["threshold"])
