"""The best of a random number of runs: its Renyi divergences, and how the number is drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# By how much more than rounding the distribution that is drawn from is smaller than the one that is
# accounted, so that the accounted one is the bound.
SLACK = 1e-9


def selected(orders: Array, divergences: Array, mean: float, shape: float | None) -> Array:
    """The Renyi divergences of releasing the best of a random number of runs, and nothing else.

    Source: Papernot & Steinke, 2022, "Hyperparameter Tuning with Renyi Differential Privacy",
    theorem 2 (truncated negative binomial numbers) and theorem 6 (Poisson numbers), each for the
    best of all `orders`, and 1, in its free parameter.

    Guarantees: never below the divergences of one run.

    Args:
        orders: above 1, ascending.
        divergences: of one run, at each order.
        mean: how many runs there are on average, at least 1.
        shape: of the negative binomial distribution, 0 for the logarithmic one; None for Poisson.

    >>> selected(np.array([2.0, 4.0]), np.array([0.1, 0.2]), mean=1.0, shape=1.0).round(6)
    array([0.1, 0.2])
    """
    several = divergences + math.log(mean) / (orders - 1)
    if shape is None:
        found = several + mean * _delta(orders, divergences, np.log1p(1 / (orders - 1)))
    else:
        log_gamma = -_log_odds(mean, shape) * (1 + SLACK)
        spread = np.min((1 - 1 / orders) * divergences - log_gamma / orders, initial=-log_gamma)
        found = several + (1 + shape) * spread
    # A divergence grows with its order: what bounds a higher one bounds it too.
    least: Array = np.minimum.accumulate(found[::-1])[::-1]
    return least


def number_of_runs(mean: float, shape: float | None, generator: np.random.Generator) -> int:
    """How many runs to make, at random; see `selected`. Only a Poisson number can be 0."""
    if shape is None:
        return int(generator.poisson(mean))
    log_gamma = -_log_odds(mean, shape) * (1 - SLACK)
    if log_gamma == 0:
        return 1
    if shape == 0:
        return int(generator.logseries(-math.expm1(log_gamma)))
    while not (number := int(generator.negative_binomial(shape, math.exp(log_gamma)))):
        pass
    return number


def quantile(mean: float, shape: float | None, probability: float) -> int:
    """The least number that is not exceeded with a probability; see `selected`."""
    from scipy import stats

    if shape is None:
        return int(stats.poisson.ppf(probability, mean))
    gamma = math.exp(-_log_odds(mean, shape))
    if gamma == 1:
        return 1
    if shape == 0:
        return int(stats.logser.ppf(probability, 1 - gamma))
    none = gamma**shape
    return max(1, int(stats.nbinom.ppf(none + probability * (1 - none), shape, gamma)))


def _log_odds(mean: float, shape: float) -> float:
    """The `log(1 / gamma)` at which the truncated negative binomial has this mean.

    That mean is `shape (1 / gamma - 1) / (1 - gamma^shape)`, and its limit where the shape is 0
    (the same, definition 1); it lies between 0 and `2 log(mean)`.
    """
    from scipy.optimize import brentq
    from scipy.special import exprel

    if mean == 1:
        return 0.0

    def excess(log_odds: float) -> float:
        return float(np.log(exprel(log_odds) / exprel(-shape * log_odds))) - math.log(mean)

    return float(brentq(excess, 0.0, 2 * math.log(mean) + 1, xtol=1e-300, rtol=1e-14))


def _delta(orders: Array, divergences: Array, epsilons: Array) -> Array:
    """The delta at each epsilon, from the divergences at all orders.

    Source: Canonne, Kamath & Steinke, 2020, "The Discrete Gaussian", proposition 12; and, for small
    divergences, Bretagnolle & Huber, 1979: delta is never above the total variation, which is
    `sqrt(1 - exp(-divergence))` at most.
    """
    excess = divergences - epsilons[:, None]
    by_moment = (orders - 1) * (excess + np.log1p(-1 / orders)) - np.log(orders)
    by_distance = np.sqrt(-np.expm1(-np.min(divergences)))
    found: Array = np.minimum(np.exp(np.minimum(np.min(by_moment, axis=1), 0)), by_distance)
    return found
