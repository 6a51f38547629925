"""Normalising each unit's gradient, so that no threshold needs tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deniable.bounds.base import Bound, Gradients, Limited
from deniable.bounds.clip import checked_norm
from deniable.bounds.views import Scaled
from deniable.units import Sensitivity

# Below it, a norm that float32 lost could pass for 0.
LEAST_STABILITY = 1e-8


class AutomaticClip(Bound):
    """Normalising: `norm * g / (|g| + stability)`.

    Bu et al., 2023, "Automatic Clipping: Differentially Private Deep Learning Made Easier and
    Stronger", AUTO-S. The norm only scales the learning rate, so it stays 1 as a rule; a larger
    stability constant lets short gradients stay short.

    Formal guarantee: the sum moves by less than `norm` in L2 when one unit is added or removed. A
    unit whose gradient is not finite contributes zero.

    Args:
        norm: what no gradient's norm reaches; finite and at least 1e-10.
        stability: gamma, in gradient units; finite and at least 1e-8.

    Raises:
        ValueError: a value is out of its range.

    >>> AutomaticClip().sensitivity({}).value
    1.0
    """

    def __init__(self, norm: float = 1.0, stability: float = 0.01) -> None:
        self.norm = checked_norm("AutomaticClip", norm)
        if not LEAST_STABILITY <= stability < float("inf"):
            raise ValueError(
                f"AutomaticClip needs a finite stability of at least {LEAST_STABILITY:g}, got "
                f"{stability!r}. The paper uses 0.01."
            )
        self.stability = float(stability)

    def __repr__(self) -> str:
        return f"AutomaticClip({self.norm}, stability={self.stability})"

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: the norm."""
        return Sensitivity(self.norm)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {"name": "AutomaticClip", "norm": self.norm, "stability": self.stability}

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        return f"normalised to norm {self.norm:g} (stability {self.stability:g})"

    def limit(self, gradients: Gradients) -> Limited:
        """Each gradient over its norm, nearly."""
        factors = self.norm / (gradients.norms() + self.stability)
        return Limited(Scaled(gradients, factors), factors)
