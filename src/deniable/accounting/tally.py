"""Nested events as counts of single releases: what every accountant starts from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from deniable.errors import AccountingError, UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    LaplaceEvent,
    OwnLoaderEvent,
    PoissonSampledEvent,
    PureEvent,
    RepeatAndSelectEvent,
    SampledWithoutReplacementEvent,
    SelfComposedEvent,
    ShuffledEvent,
    TruncatedPoissonSampledEvent,
    UnsampledEvent,
    neighbouring_of,
    singles,
    unsampled,
)
from deniable.units import Neighbouring

TalliedEvent = (
    UnsampledEvent
    | PoissonSampledEvent
    | TruncatedPoissonSampledEvent
    | SampledWithoutReplacementEvent
    | RepeatAndSelectEvent
)

# Noise below the least counts as none, and above the most as the most: either is an upper bound,
# and what lies between them fits into floats.
LEAST_NOISE, MOST_NOISE = 1e-4, 1e7


def tally(event: Event) -> Counter[TalliedEvent]:
    """How often each single release occurs in `event`; composition does not depend on the order.

    - Releases that depend on no data (a sampling rate or an epsilon of 0) are left out.
    - A batch of all data, or of the user's own loader, is a Gaussian release on all data, and an
      epoch of shuffled batches is one.
    - Where any part is stated under replacement, all of it is.
    - The best of many runs is one release, of a run that is itself counted so.

    Raises:
        UnknownEventError: an event, or one inside it, of a type that is not known here.

    >>> from deniable.events import SelfComposedEvent
    >>> tally(SelfComposedEvent(PoissonSampledEvent(0.0, GaussianEvent(1.0)), 3))
    Counter()
    """
    return _tally(event, neighbouring_of(event))


def _tally(event: Event, neighbouring: Neighbouring) -> Counter[TalliedEvent]:
    counts: Counter[TalliedEvent] = Counter()
    epochs: set[ShuffledEvent] = set()
    for each, times in singles(event):
        match each:
            case ShuffledEvent(_, _, inner):
                if each not in epochs:
                    counts[_under(neighbouring, inner)] += 1
                epochs.add(each)
            case OwnLoaderEvent(inner):
                counts[_under(neighbouring, inner)] += times
            case PoissonSampledEvent(0) | TruncatedPoissonSampledEvent(_, 0) | PureEvent(0):
                pass
            case PoissonSampledEvent(1, inner):
                counts[_under(neighbouring, inner)] += times
            case SampledWithoutReplacementEvent(examples, size, inner) if size == examples:
                counts[_under(neighbouring, inner)] += times
            case GaussianEvent() | LaplaceEvent() | PureEvent():
                counts[_under(neighbouring, each)] += times
            case RepeatAndSelectEvent(inner):
                if run := _tally(inner, neighbouring):
                    counts[replace(each, event=_composed(run))] += times
            case _:
                under = _under(neighbouring, each.event)
                assert isinstance(under, GaussianEvent)
                counts[replace(each, event=under)] += times
    return counts


def _under(neighbouring: Neighbouring, event: UnsampledEvent) -> UnsampledEvent:
    """The same noise, at most `MOST_NOISE`, over the sensitivity of the given relation."""
    noise = noise_of(event)
    if event.neighbouring is not neighbouring:
        noise /= 2  # replacement moves the sum twice as far
    noise = min(noise, MOST_NOISE)
    return type(event)(1 / noise if isinstance(event, PureEvent) else noise, neighbouring)


def _composed(counts: Counter[TalliedEvent]) -> ComposedEvent:
    return ComposedEvent(tuple(SelfComposedEvent(each, times) for each, times in counts.items()))


def split(event: TalliedEvent) -> tuple[float, float]:
    """The sampling rate and the noise multiplier of a release, where these say all about it.

    Raises:
        UnknownEventError: not a Gaussian release on all data, or on a Poisson sample for the
            relation of adding or removing.
    """
    match event:
        case GaussianEvent(noise_multiplier):
            return 1.0, noise_multiplier
        case PoissonSampledEvent(rate, GaussianEvent(noise_multiplier, Neighbouring.ADD_OR_REMOVE)):
            return rate, noise_multiplier
    raise UnknownEventError(
        f"This accountant knows Poisson sampling for adding or removing one, got {event!r}. Use "
        "pld or rdp."
    )


def noise_of(event: TalliedEvent) -> float:
    """The noise multiplier of a release, for the relation that it is stated under.

    Of one of which only epsilon is known, that of the Laplace noise which would have it; of the
    best of many runs, the least noise that a run has anywhere.
    """
    if isinstance(event, RepeatAndSelectEvent):
        return min(noise_of(each) for each in tally(event.event))
    released = unsampled(event)
    return 1 / released.epsilon if isinstance(released, PureEvent) else released.noise_multiplier


def is_pure(event: TalliedEvent) -> bool:
    """Whether a release is private with delta 0, at epsilon `1 / noise_of(event)`."""
    return isinstance(event, LaplaceEvent | PureEvent)


def is_noiseless(counts: Counter[TalliedEvent]) -> bool:
    """Whether a sum was released bare, or as good as bare, so that no finite epsilon is stated."""
    return any(noise_of(event) < LEAST_NOISE for event in counts)


def check_delta(delta: float) -> None:
    """Refuses a delta that is not strictly between 0 and 1."""
    if not 0 < delta < 1:
        raise AccountingError(
            f"delta must lie strictly between 0 and 1, got {delta!r}. Take one well below "
            "1 / examples, such as 1e-5."
        )
