"""Nested events as counts of single releases: what every accountant starts from."""

from __future__ import annotations

from collections import Counter

from deniable.errors import AccountingError, UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)

SingleEvent = GaussianEvent | PoissonSampledEvent

# Noise below the least counts as none, and above the most as the most: either is an upper bound,
# and what lies between them fits into floats.
LEAST_NOISE, MOST_NOISE = 1e-4, 1e7


def tally(event: Event) -> Counter[SingleEvent]:
    """How often each single release occurs in `event`; composition does not depend on the order.

    Releases that depend on no data (a sampling rate of 0) are left out.

    Raises:
        UnknownEventError: an event, or one inside it, of a type that is not known here.

    >>> tally(SelfComposedEvent(GaussianEvent(1.0), 3))
    Counter({GaussianEvent(noise_multiplier=1.0): 3})
    """
    counts: Counter[SingleEvent] = Counter()
    _add(event, 1, counts)
    return counts


def _add(event: Event, times: int, counts: Counter[SingleEvent]) -> None:
    match event:
        case SelfComposedEvent(inner, count):
            if count:
                _add(inner, times * count, counts)
        case ComposedEvent(events):
            for each in events:
                _add(each, times, counts)
        case PoissonSampledEvent(sampling_rate, GaussianEvent()):
            if sampling_rate > 0:
                counts[event] += times
        case GaussianEvent():
            counts[event] += times
        case _:
            raise UnknownEventError(
                f"An event must be one of deniable.events, got {event!r}. It was refused, because "
                "ignoring it would understate epsilon."
            )


def split(event: SingleEvent) -> tuple[float, float]:
    """The sampling rate and the noise multiplier, at most `MOST_NOISE`, of a single release."""
    rate, gaussian = (
        (1.0, event) if isinstance(event, GaussianEvent) else (event.sampling_rate, event.event)
    )
    return rate, min(gaussian.noise_multiplier, MOST_NOISE)


def is_noiseless(counts: Counter[SingleEvent]) -> bool:
    """Whether a sum was released bare, or as good as bare, so that no finite epsilon is stated."""
    return any(split(event)[1] < LEAST_NOISE for event in counts)


def check_delta(delta: float) -> None:
    """Refuses a delta that is not strictly between 0 and 1."""
    if not 0 < delta < 1:
        raise AccountingError(
            f"delta must lie strictly between 0 and 1, got {delta!r}. Take one well below "
            "1 / examples, such as 1e-5."
        )
