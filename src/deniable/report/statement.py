"""What the ledger states: every accountant's epsilon, computed again from the events alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deniable import words
from deniable.accounting import STATED, privacy_curve, spent
from deniable.errors import AccountingError, LedgerError
from deniable.events import (
    Event,
    GaussianEvent,
    LaplaceEvent,
    OwnLoaderEvent,
    PoissonSampledEvent,
    PureEvent,
    RepeatAndSelectEvent,
    SampledWithoutReplacementEvent,
    ShuffledEvent,
    SummedEvent,
    TruncatedPoissonSampledEvent,
    neighbouring_of,
    notes,
    singles,
    unsampled,
)
from deniable.ledger import Ledger
from deniable.units import Neighbouring, PrivacyCurve

# What is said of the batches of each kind of event, with the chance of a unit to be in one.
BATCHES: dict[type[Event], str] = {
    GaussianEvent: "each over all the data: no amplification is claimed",
    LaplaceEvent: "each over all the data: no amplification is claimed",
    PureEvent: "each over all the data: no amplification is claimed",
    PoissonSampledEvent: "each over a Poisson sample: every example joins with probability {rate}, "
    "independently",
    TruncatedPoissonSampledEvent: "each over a Poisson sample, of which no more than a public "
    "number were kept: every example joins with probability {rate}, independently",
    SampledWithoutReplacementEvent: "each over a random batch of fixed size: every example is in "
    "it with probability {rate}",
    ShuffledEvent: "each over a batch of a shuffled epoch: no amplification is claimed, every "
    "example counts as once in every epoch",
    OwnLoaderEvent: "each over a batch of the user's own loader: no amplification is claimed, "
    "every example counts as in all of them",
}


@dataclass(frozen=True)
class Releases:
    """`count` releases alike.

    Attributes:
        count: how many.
        kind: how their batches came about.
        sampling_rate: the chance of a unit to be in a batch; None where none is claimed.
        noise_multiplier: the noise over the sensitivity; or one over epsilon, of a release about
            which nothing more is known.
        of_best: how many runs there were on average, where these are the releases of each, and
            only the best run was released.
    """

    count: int
    kind: type[Event]
    sampling_rate: float | None
    noise_multiplier: float
    of_best: float | None = None

    @property
    def batches(self) -> str:
        """How their batches came about, in words."""
        said = BATCHES[self.kind].format(rate=words.percent(self.sampling_rate, 3))
        if self.of_best is None:
            return said
        return f"{said}; in each of {self.of_best:g} runs on average, of which only the best left"

    @property
    def noise(self) -> str:
        """The noise multiplier, or the epsilon of a choice."""
        if self.kind is PureEvent:
            return f"epsilon {1 / self.noise_multiplier:.6g}"
        return f"{self.noise_multiplier:.6g}"

    @property
    def in_words(self) -> str:
        """How many, of what kind, and under which noise."""
        count = words.significant(self.count)
        if self.kind is PureEvent:
            return f"{count} private choices at {self.noise} each"
        law = "Laplace" if self.kind is LaplaceEvent else "Gaussian"
        return (
            f"{count} sums with {law} noise of {words.significant(self.noise_multiplier)} times "
            "the most that one example can move them"
        )


@dataclass(frozen=True)
class Statement:
    """What a ledger file states about everything in it, or about one run.

    Attributes:
        epsilons: epsilon at the claim's delta, by accountant.
        releases: what was released, like with like.
        runs: how many runs are stated.
        problem: why nothing could be stated, or None.
        curve: the whole trade of epsilon for delta, where it is known.
        neighbouring: the relation that it is stated under.
        notes: what must be said beside the epsilons.
        others: how many other runs the ledger holds.
        everything: epsilon of all of them together with this one, by accountant.
    """

    epsilons: dict[str, float]
    releases: tuple[Releases, ...]
    runs: int
    problem: str | None = None
    curve: PrivacyCurve | None = None
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE
    notes: tuple[str, ...] = ()
    others: int = 0
    everything: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many releases are stated; those reserved and not given back count."""
        return sum(each.count for each in self.releases)


def state(ledger: Path, delta: float | None, run: str | None = None) -> Statement:
    """What the ledger at a path states at `delta`; a ledger that cannot be read says why.

    The file is never made: an absent ledger states nothing, and that is a problem to show.

    Args:
        ledger: the file.
        delta: to state epsilon at.
        run: one run of a ledger that others share; everything if not given.
    """
    if delta is None:
        return _nothing("The record names no delta to state epsilon at.")
    try:
        with Ledger(ledger, create=False) as book:
            contents = book.contents()
        event, everything = contents.event(run), contents.event()
        epsilons = {name: spent(event, delta, name).epsilon for name in STATED}
        together = {name: spent(everything, delta, name).epsilon for name in STATED}
    except (LedgerError, AccountingError) as problem:
        return _nothing(str(problem).replace(str(ledger), ledger.name))
    if any(math.isnan(epsilon) for epsilon in epsilons.values()):
        return _nothing(f"An accountant gave an epsilon that is not a number: {epsilons}.")
    return Statement(
        epsilons,
        releases(event),
        runs=len(contents.runs) if run is None else 1,
        curve=privacy_curve(event),
        neighbouring=neighbouring_of(event),
        notes=notes(event),
        others=0 if run is None else len(contents.runs) - 1,
        everything=together,
    )


def releases(event: Event) -> tuple[Releases, ...]:
    """The releases in an event, equal ones added up, in the order of their first appearance.

    >>> from deniable.events import ComposedEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(0.01, GaussianEvent(1.0))
    >>> [found] = releases(ComposedEvent((SelfComposedEvent(step, 30), step)))
    >>> found.count, found.sampling_rate, found.noise_multiplier
    (31, 0.01, 1.0)
    """
    counts: Counter[tuple[type[Event], float | None, float, float | None]] = Counter()
    for each, count, of_best in _sums(event):
        counts[type(each), _rate(each), _noise(each), of_best] += count
    return tuple(Releases(count, *key) for key, count in counts.items())


def _sums(
    event: Event, of_best: float | None = None
) -> Iterator[tuple[SummedEvent, int, float | None]]:
    """Every sum, how often, and of how many runs it is where only the best one's were released."""
    for each, count in singles(event):
        if isinstance(each, RepeatAndSelectEvent):
            for inner, times, runs in _sums(each.event, each.mean):
                yield inner, times * count, runs
        else:
            yield each, count, of_best


def _noise(event: SummedEvent) -> float:
    released = unsampled(event)
    if isinstance(released, PureEvent):
        return 1 / released.epsilon if released.epsilon else math.inf
    return released.noise_multiplier


def _rate(event: SummedEvent) -> float | None:
    match event:
        case PoissonSampledEvent(rate) | TruncatedPoissonSampledEvent(_, rate):
            return rate
        case SampledWithoutReplacementEvent(examples, batch_size):
            return batch_size / examples
    return None


def _nothing(problem: str) -> Statement:
    return Statement({}, (), 0, problem=problem)
