"""Exact privacy curves, from closed forms and integrals that the accountants do not use."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.fft import next_fast_len
from scipy.integrate import quad
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
    return max(
        removed_delta(rate, noise_multiplier, epsilon), added_delta(rate, noise_multiplier, epsilon)
    )


def removed_delta(rate: float, sigma: float, epsilon: float) -> float:
    """The part of `sampled_gaussian_delta` that removing a unit has; any real epsilon."""
    at = _crossing(rate, sigma, math.exp(epsilon))
    beyond = _mixture_above(rate, sigma, at) - math.exp(epsilon) * float(ndtr(-at / sigma))
    return max(beyond, 0.0)


def added_delta(rate: float, sigma: float, epsilon: float) -> float:
    """The part of `sampled_gaussian_delta` that adding a unit has; any real epsilon."""
    at = _crossing(rate, sigma, math.exp(-epsilon))
    beyond = float(ndtr(at / sigma)) - math.exp(epsilon) * (1 - _mixture_above(rate, sigma, at))
    return max(beyond, 0.0)


def _crossing(rate: float, sigma: float, ratio: float) -> float:
    inside = (ratio - 1 + rate) / rate
    return sigma**2 * math.log(inside) + 0.5 if inside > 0 else -math.inf


def _mixture_above(rate: float, sigma: float, z: float) -> float:
    return (1 - rate) * float(ndtr(-z / sigma)) + rate * float(ndtr((1 - z) / sigma))


def twice_sampled_gaussian_delta(rate: float, noise_multiplier: float, epsilon: float) -> float:
    """The exact delta of two such releases: what one adds, on average over the other's loss.

    A hockey-stick integral, by adaptive quadrature.
    """
    sigma = noise_multiplier

    def loss(z: float) -> float:
        return math.log1p(rate * math.expm1((2 * z - 1) / (2 * sigma**2)))

    def plain(z: float) -> float:
        return math.exp(-((z / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))

    def removed(z: float) -> float:
        mixture = (1 - rate) * plain(z) + rate * plain(z - 1)
        return mixture * removed_delta(rate, sigma, epsilon - loss(z))

    def added(z: float) -> float:
        return plain(z) * added_delta(rate, sigma, epsilon + loss(z))

    ends = {"a": -12 * sigma, "b": 1 + 12 * sigma, "limit": 500, "epsabs": 1e-14}
    return max(quad(each, **ends)[0] for each in (removed, added))


def curve_below(
    rate: float, noise_multiplier: float, count: int, interval: float
) -> Callable[[float], float]:
    """Below the exact delta of `count` such releases at each epsilon, for removing a unit.

    Every loss is rounded down to a multiple of the interval, and then composed exactly.
    """
    sigma = noise_multiplier
    lowest = math.floor(math.log1p(-rate) / interval)
    highest = math.ceil(math.log1p(rate * math.expm1(10 / sigma + sigma**-2 / 2)) / interval)
    places = np.arange(lowest, highest)
    inside = (np.expm1(places * interval) + rate) / rate
    at = sigma**2 * np.log(np.maximum(inside, 1e-300)) + 0.5
    above = (1 - rate) * ndtr(-at / sigma) + rate * ndtr((1 - at) / sigma)
    masses = above - np.append(above[1:], 0)
    size = count * (len(masses) - 1) + 1
    fast = next_fast_len(size, real=True)
    composed = np.fft.irfft(np.fft.rfft(masses, fast) ** count, fast)[:size]
    losses = (count * lowest + np.arange(size)) * interval

    def delta(epsilon: float) -> float:
        first = int(np.searchsorted(losses, epsilon))
        return float(np.sum(composed[first:] * -np.expm1(epsilon - losses[first:])))

    return delta


def epsilon_at(delta_of: Callable[[float], float], delta: float, halvings: int = 100) -> float:
    """The smallest epsilon whose delta is at most `delta`, by bisection, rounded down."""
    if delta_of(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high) > delta:
        low, high = high, 2 * high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return low
