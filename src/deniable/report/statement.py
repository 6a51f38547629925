"""What the ledger states: every accountant's epsilon, computed again from the events alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deniable.accounting import STATED, privacy_curve, spent
from deniable.errors import AccountingError, LedgerError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from deniable.ledger import Ledger
from deniable.units import PrivacyCurve


@dataclass(frozen=True)
class Releases:
    """`count` releases alike; a sampling rate of None means every unit was in each of them."""

    count: int
    sampling_rate: float | None
    noise_multiplier: float


@dataclass(frozen=True)
class Statement:
    """What a ledger file states about everything in it.

    Attributes:
        epsilons: epsilon at the claim's delta, by accountant.
        releases: what was released, like with like.
        runs: how many runs the ledger holds.
        problem: why nothing could be stated, or None.
        curve: the whole trade of epsilon for delta, where it is known.
    """

    epsilons: dict[str, float]
    releases: tuple[Releases, ...]
    runs: int
    problem: str | None = None
    curve: PrivacyCurve | None = None

    @property
    def steps(self) -> int:
        """How many releases are stated; those reserved and not given back count."""
        return sum(each.count for each in self.releases)


def state(ledger: Path, delta: float | None) -> Statement:
    """What the ledger at a path states at `delta`; a ledger that cannot be read says why.

    The file is never made: an absent ledger states nothing, and that is a problem to show.
    """
    if delta is None:
        return _nothing("The record names no delta to state epsilon at.")
    try:
        with Ledger(ledger, create=False) as book:
            event, runs = book.event(), len(book.runs())
        epsilons = {name: spent(event, delta, name).epsilon for name in STATED}
    except (LedgerError, AccountingError) as problem:
        return _nothing(str(problem).replace(str(ledger), ledger.name))
    if any(math.isnan(epsilon) for epsilon in epsilons.values()):
        return _nothing(f"An accountant gave an epsilon that is not a number: {epsilons}.")
    return Statement(epsilons, releases(event), runs, curve=privacy_curve(event))


def releases(event: Event) -> tuple[Releases, ...]:
    """The releases in an event, equal ones added up, in the order of their first appearance.

    >>> step = PoissonSampledEvent(0.01, GaussianEvent(1.0))
    >>> releases(ComposedEvent((SelfComposedEvent(step, 30), step)))
    (Releases(count=31, sampling_rate=0.01, noise_multiplier=1.0),)
    """
    counts: dict[tuple[float | None, float], int] = {}
    for key, count in _flat(event, 1):
        counts[key] = counts.get(key, 0) + count
    return tuple(Releases(count, *key) for key, count in counts.items() if count)


def _flat(event: Event, times: int) -> Iterator[tuple[tuple[float | None, float], int]]:
    match event:
        case GaussianEvent(noise_multiplier):
            yield (None, noise_multiplier), times
        case PoissonSampledEvent(sampling_rate, GaussianEvent(noise_multiplier)):
            yield (sampling_rate, noise_multiplier), times
        case SelfComposedEvent(inner, count):
            yield from _flat(inner, times * count)
        case ComposedEvent(events):
            for each in events:
                yield from _flat(each, times)


def _nothing(problem: str) -> Statement:
    return Statement({}, (), 0, problem=problem)
