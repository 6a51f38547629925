"""Epsilon through privacy loss distributions: the tightest upper bound here."""

from __future__ import annotations

import functools
import math

from deniable.accounting.tally import check_delta, is_noiseless, split, tally
from deniable.events import Event


class PldAccountant:
    """Composes the distribution of the privacy loss itself, discretised upwards.

    Source: Koskela, Jalko & Honkela, 2020; Doroshenko et al., 2022, "Connect the Dots"; pessimistic
    estimate, add/remove relation; computed by dp-accounting.
    """

    name = "pld"

    def epsilon(self, event: Event, delta: float) -> float:
        """The epsilon at which `event` is (epsilon, delta)-private; infinite without noise.

        Raises:
            AccountingError: delta is not strictly between 0 and 1.
            UnknownEventError: an event that is not known here.
        """
        check_delta(delta)
        counts = tally(event)
        if is_noiseless(counts):
            return math.inf
        if not counts:
            return 0.0
        return _epsilon(frozenset(counts.items()), delta)


@functools.lru_cache(maxsize=256)
def _epsilon(counts: frozenset[tuple[object, int]], delta: float) -> float:
    import dp_accounting
    from dp_accounting import pld

    accountant = pld.PLDAccountant()
    for event, count in counts:
        rate, noise_multiplier = split(event)  # type: ignore[arg-type]
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(
                rate, dp_accounting.GaussianDpEvent(noise_multiplier)
            ),
            count,
        )
    return max(0.0, float(accountant.get_epsilon(delta)))
