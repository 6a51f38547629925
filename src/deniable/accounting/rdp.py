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
    # A tiny divergence can come out at 0 or below, and dp-accounting then reads "no loss at all".
    divergences: NDArray[np.float64] = np.maximum(accountant.rdp, 0) + ROUNDING
    return divergences


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides that some orders did not converge: they are left out, which is no loss of safety."""

    def hide(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(hide)
    try:
        yield
    finally:
        logger.removeFilter(hide)
