"""Epsilon through Renyi differential privacy: an upper bound in milliseconds."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from deniable.accounting.base import Counting
from deniable.accounting.sampled import pairs
from deniable.accounting.selection import selected
from deniable.accounting.tally import TalliedEvent, is_pure, noise_of, tally
from deniable.events import RepeatAndSelectEvent

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDERS = (
    *(1.02, 1.05),
    *(1 + step / 10 for step in range(1, 100)),
    *range(11, 64),
    *(64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
)

_ORDERS = np.array(ORDERS)

# Added to each divergence for rounding in float64: it was then never below mpmath's value.
ROUNDING = 1e-14


class RdpAccountant(Counting):
    """Composes Renyi divergences at fixed orders and converts their sum once.

    Source: Mironov, Talwar & Zhang, 2019, "Renyi Differential Privacy of the Sampled Gaussian
    Mechanism", section 3.3; conversion: Canonne, Kamath & Steinke, 2020, "The Discrete Gaussian",
    proposition 12. Computed by dp-accounting; `sampled` says what one release tells under each
    sampling and relation, and `selection` what the best of many runs does. Laplace noise: Mironov,
    2017, "Renyi Differential Privacy", table II; a release of which only epsilon is known: the
    same, for randomised response.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(256 / 60_000, GaussianEvent(1.1))
    >>> round(RdpAccountant().epsilon(SelfComposedEvent(step, 14_040), 1e-5), 4)
    2.5944
    """

    name = "rdp"
    summary = "the same at fractional orders too, with a sharper last step"

    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """Divergences added up, and converted at the best order."""
        from dp_accounting.rdp import compute_epsilon

        found = float(compute_epsilon(ORDERS, _composed(counts), delta)[0])
        if all(is_pure(each) for each in counts):  # whose epsilons may as well be added up
            found = min(found, sum(count / noise_of(each) for each, count in counts.items()))
        return found


def _composed(counts: Counter[TalliedEvent]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = sum(
        (count * _divergences(each) for each, count in counts.items()), np.zeros(len(ORDERS))
    )
    return total


@functools.lru_cache(maxsize=256)
def _divergences(event: TalliedEvent) -> NDArray[np.float64]:
    """The Renyi divergence of one release at every order of `ORDERS`."""
    if isinstance(event, RepeatAndSelectEvent):
        return selected(_ORDERS, _composed(tally(event.event)), event.mean, event.shape)
    moments = [
        math.log(probability) + (_ORDERS - 1) * _OF_KIND[pair.kind](pair.rate, pair.noise)
        for probability, pair in pairs(event)
        if probability
    ]
    mixed: NDArray[np.float64] = np.logaddexp.reduce(moments) / (_ORDERS - 1)
    return mixed


def _added(rate: float, noise: float, orders: NDArray[np.float64] = _ORDERS) -> NDArray[np.float64]:
    import dp_accounting

    accountant = dp_accounting.rdp.RdpAccountant(orders.tolist())
    with _quiet():
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        )
    # Sampling never adds to a divergence; and a tiny one can come out at 0, which dp-accounting
    # reads as "no loss at all".
    whole = orders / (2 * noise**2)
    found: NDArray[np.float64] = np.clip(_filled(orders, accountant.rdp), 0, whole) + ROUNDING
    return found


def _filled(orders: NDArray[np.float64], divergences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bounds where an order did not converge.

    `(order - 1) * divergence` is convex in the order, and 0 at order 1: it lies below the line
    between its neighbours (van Erven & Harremoes, 2014, "Renyi Divergence and Kullback-Leibler
    Divergence", corollary 2).
    """
    known = np.isfinite(divergences)
    moments = np.interp(
        orders,
        [1, *orders[known]],
        [0, *((orders - 1) * divergences)[known]],
        right=np.inf,
    )
    return np.where(known, divergences, moments / (orders - 1))


def _displaced(rate: float, noise: float) -> NDArray[np.float64]:
    """What exceeds 1 in the moment is what does so in both of *added*, either way round.

    Of the two, the way of `_added` is the larger (Mironov, Talwar & Zhang, 2019, section 3.1).
    """
    logarithms = (_ORDERS - 1) * _added(rate, noise)
    doubled = logarithms + np.log1p(-np.expm1(-logarithms))
    divergences: NDArray[np.float64] = doubled / (_ORDERS - 1)
    return divergences


def _replaced(rate: float, noise: float) -> NDArray[np.float64]:
    """By way of the noise alone, or as *displaced* twice as far; both are bounds.

    Source: Mironov, 2017, "Renyi Differential Privacy", proposition 11 with p = q = 2.
    """
    there = _added(rate, noise, 2 * _ORDERS)
    back = _added(rate, noise, 2 * _ORDERS - 1)
    through = (_ORDERS - 1 / 2) / (_ORDERS - 1) * there + back
    found: NDArray[np.float64] = np.minimum(through, _displaced(rate, noise / 2))
    return found


def _laplace(_: float, noise: float) -> NDArray[np.float64]:
    up = np.log(_ORDERS / (2 * _ORDERS - 1)) + (_ORDERS - 1) / noise
    down = np.log((_ORDERS - 1) / (2 * _ORDERS - 1)) - _ORDERS / noise
    return _at_most(1 / noise, np.logaddexp(up, down))


def _pure(_: float, noise: float) -> NDArray[np.float64]:
    epsilon = 1 / noise
    both = np.logaddexp(_ORDERS * epsilon, (1 - _ORDERS) * epsilon)
    return _at_most(epsilon, both - np.logaddexp(0, epsilon))


def _at_most(epsilon: float, logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divergences from logarithms of moments: no divergence exceeds epsilon."""
    rounding = ROUNDING * (1 + _ORDERS * epsilon / (_ORDERS - 1))
    found: NDArray[np.float64] = np.clip(logarithms / (_ORDERS - 1), 0, epsilon) + rounding
    return np.minimum(found, epsilon)


_OF_KIND = {
    "added": _added,
    "displaced": _displaced,
    "replaced": _replaced,
    "laplace": _laplace,
    "pure": _pure,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides that some orders did not converge: a bound stands in."""

    def hide(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(hide)
    try:
        yield
    finally:
        logger.removeFilter(hide)
