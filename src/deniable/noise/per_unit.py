"""Noise on each unit's gradient, as the one noise that its sum has."""

from __future__ import annotations

import math

from deniable.errors import PlanError


def per_unit(sigma: float, batch_size: int, sampling: str = "fixed-size") -> float:
    """The noise multiplier of a plan whose units' gradients are noised one by one.

    Xia et al., equation 6: each of B clipped gradients gets noise of its own, of deviation
    `sigma * C`, and then they are added up. The sum of B such draws is one draw of deviation
    `sqrt(B) * sigma * C`, and that is how it is drawn and accounted here. Beside the sensitivity
    for replacing one unit, 2 C, it is a noise multiplier of `sqrt(B) * sigma / 2`.

    That holds where B is public. Under Poisson sampling it is not: how much noise there is would
    tell how many were drawn, which no bound on the sum covers.

    Args:
        sigma: each draw's standard deviation over the clip norm.
        batch_size: B, the size of every batch.
        sampling: the plan's.

    Raises:
        PlanError: the sampling does not fix the batch size, or sigma is not a finite number of at
            least 0.

    >>> per_unit(0.5, batch_size=256)  # for Plan(sampling="fixed-size", noise_multiplier=...)
    4.0
    """
    if sampling != "fixed-size":
        raise PlanError(
            f"Noise per unit is a guarantee under sampling='fixed-size' alone, got {sampling!r}: "
            "where the number of drawn units is secret, the amount of noise would tell it. Use "
            "sampling='fixed-size', or noise once a batch."
        )
    if not 0 <= sigma < math.inf:
        raise PlanError(f"sigma must be finite and at least 0, got {sigma!r}.")
    return math.sqrt(batch_size) * sigma / 2
