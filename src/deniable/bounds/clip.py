"""Clipping each unit's whole gradient to a norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deniable.bounds.base import Bound, Gradients, Limited
from deniable.bounds.views import Scaled
from deniable.units import Sensitivity

# Squared elements are summed in float32: of shorter gradients the norm could be lost.
SHORTEST = 1e-10


class Clip(Bound):
    """Flat clipping: `g / max(1, |g| / norm)` (Abadi et al., 2016, algorithm 1).

    Formal guarantee: the sum of clipped gradients moves by at most `norm` in L2 when one unit is
    added or removed. A unit whose gradient is not finite contributes zero.

    Args:
        norm: the threshold C, in gradient units; finite and at least 1e-10.

    Raises:
        ValueError: the norm is not a finite number of at least 1e-10.

    >>> Clip(1.0).sensitivity({}).value
    1.0
    """

    def __init__(self, norm: float) -> None:
        self.norm = checked_norm("Clip", norm)

    def __repr__(self) -> str:
        return f"Clip({self.norm})"

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: the norm."""
        return Sensitivity(self.norm)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {"name": "Clip", "norm": self.norm}

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        return f"clipped to norm {self.norm:g}"

    def limit(self, gradients: Gradients) -> Limited:
        """Each gradient, times `norm / |g|` where it is longer than the norm."""
        factors = self.norm / gradients.norms().clamp(min=self.norm)
        return Limited(Scaled(gradients, factors), factors)


def checked_norm(name: str, norm: object) -> float:
    """A threshold as a float.

    Raises:
        ValueError: it is not a finite number of at least 1e-10.
    """
    if not (isinstance(norm, (int, float)) and math.isfinite(norm) and norm >= SHORTEST):
        raise ValueError(
            f"{name} needs a positive, finite norm of at least {SHORTEST:g}, got {norm!r}. "
            f"Try {name}(1.0)."
        )
    return float(norm)
