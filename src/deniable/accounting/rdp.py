"""Epsilon through Renyi differential privacy: an upper bound in milliseconds."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from deniable.accounting.tally import SingleEvent, check_delta, is_noiseless, split, tally
from deniable.events import Event

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDERS = (
    *(1 + step / 10 for step in range(1, 100)),
    *range(11, 64),
    *(2**power for power in range(6, 15)),
)


class RdpAccountant:
    """Composes Renyi divergences and converts them once to (epsilon, delta).

    Source: Mironov, Talwar & Zhang, 2019, "Renyi Differential Privacy of the Sampled Gaussian
    Mechanism"; conversion of Canonne, Kamath & Steinke, 2020, proposition 12; add/remove relation;
    computed by dp-accounting.
    """

    name = "rdp"

    def epsilon(self, event: Event, delta: float) -> float:
        """The epsilon at which `event` is (epsilon, delta)-private; infinite without noise.

        Raises:
            AccountingError: delta is not strictly between 0 and 1.
            UnknownEventError: an event that is not known here.
        """
        check_delta(delta)
        counts = tally(event)
        if is_noiseless(counts):
            return float("inf")
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
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS)
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    )
    # Far below one rounding error of the sum behind it, a divergence can come out at 0 or negative,
    # which dp-accounting reads as "no loss at all": the floor keeps the bound a bound.
    divergences: NDArray[np.float64] = np.maximum(accountant.rdp, 1e-15)
    return divergences
