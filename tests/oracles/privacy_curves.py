"""Exact privacy curves of one release, from closed forms that the accountants do not use."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import log_ndtr, ndtr


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """The exact delta of one Gaussian release (Balle & Wang, 2018, theorem 8)."""
    shift = 1 / noise_multiplier
    first = ndtr(shift / 2 - epsilon / shift)
    return float(first - math.exp(epsilon + log_ndtr(-shift / 2 - epsilon / shift)))


def sampled_gaussian_delta(rate: float, noise_multiplier: float, epsilon: float) -> float:
    """The exact delta of one Poisson-sampled Gaussian release, the worse of adding and removing.

    The likelihood ratio `1 - q + q exp((2z - 1) / (2 sigma^2))` grows with `z`, so that the worst
    set of outcomes is a half-line whose ends are probabilities of a normal distribution.
    """
    sigma = noise_multiplier

    def crossing(ratio: float) -> float:
        inside = (ratio - 1 + rate) / rate
        return sigma**2 * math.log(inside) + 0.5 if inside > 0 else -math.inf

    def mixture_above(z: float) -> float:
        return (1 - rate) * float(ndtr(-z / sigma)) + rate * float(ndtr((1 - z) / sigma))

    def plain_above(z: float) -> float:
        return float(ndtr(-z / sigma))

    at = crossing(math.exp(epsilon))
    removed = mixture_above(at) - math.exp(epsilon) * plain_above(at)
    at = crossing(math.exp(-epsilon))
    added = (1 - plain_above(at)) - math.exp(epsilon) * (1 - mixture_above(at))
    return max(removed, added, 0.0)


def epsilon_at(delta_of: Callable[[float], float], delta: float) -> float:
    """The smallest epsilon whose delta is at most `delta`, by bisection."""
    if delta_of(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return low
