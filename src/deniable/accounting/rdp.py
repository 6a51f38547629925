"""Epsilon through Renyi differential privacy: an upper bound in milliseconds."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from deniable.accounting.tally import SingleEvent, check_delta, is_noiseless, split, tally
from deniable.events import Event

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDERS = (
    *(1.02, 1.05),
    *(1 + step / 10 for step in range(1, 100)),
    *range(11, 64),
    *(64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
)

# Added to each divergence for rounding in float64: it was then never below mpmath's value.
ROUNDING = 1e-14


class RdpAccountant:
    """Composes Renyi divergences at fixed orders and converts their sum once.

    Source: Mironov, Talwar & Zhang, 2019, "Renyi Differential Privacy of the Sampled Gaussian
    Mechanism", section 3.3; conversion: Canonne, Kamath & Steinke, 2020, "The Discrete Gaussian",
    proposition 12. Add/remove relation. Computed by dp-accounting.
    """

    name = "rdp"
    summary = "the same at broken moments too, with a sharper last step"

    def epsilon(self, event: Event, delta: float) -> float:
        """The epsilon at which `event` is (epsilon, delta)-private; infinite without noise.

        Raises:
            AccountingError: delta is not strictly between 0 and 1.
            UnknownEventError: an event that is not known here.

        >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
        >>> step = PoissonSampledEvent(256 / 60_000, GaussianEvent(1.1))
        >>> round(RdpAccountant().epsilon(SelfComposedEvent(step, 14_040), 1e-5), 4)
        2.5944
        """
        check_delta(delta)
        counts = tally(event)
        if is_noiseless(counts):
            return math.inf
        if not counts:
            return 0.0
        from dp_accounting.rdp import compute_epsilon

        divergences = sum(count * _divergences(each) for each, count in counts.items())
        return float(compute_epsilon(ORDERS, divergences, delta)[0])


@functools.lru_cache(maxsize=256)
def _divergences(event: SingleEvent) -> NDArray[np.float64]:
    """The Renyi divergence of one release at every order of `ORDERS`."""
    import dp_accounting

    rate, noise_multiplier = split(event)
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS)
    with _quiet():
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian))
    # Sampling never adds to a divergence; and a tiny one can come out at 0, which dp-accounting
    # reads as "no loss at all".
    whole = np.array(ORDERS) / (2 * noise_multiplier**2)
    divergences: NDArray[np.float64] = np.clip(_filled(accountant.rdp), 0, whole) + ROUNDING
    return divergences


def _filled(divergences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bounds where an order did not converge.

    `(order - 1) * divergence` is convex in the order, and 0 at order 1: it lies below the line
    between its neighbours (van Erven & Harremoes, 2014, "Renyi Divergence and Kullback-Leibler
    Divergence", corollary 2).
    """
    orders, known = np.array(ORDERS), np.isfinite(divergences)
    moments = np.interp(
        orders,
        [1, *orders[known]],
        [0, *((orders - 1) * divergences)[known]],
        right=np.inf,
    )
    return np.where(known, divergences, moments / (orders - 1))


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
