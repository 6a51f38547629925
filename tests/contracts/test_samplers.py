"""The contract of every sampler: what it draws is distributed as the event that it states.

A new sampler is one line in `SAMPLERS`; a new event brings its law, or its check, in `CHECKS`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, chisquare

from deniable.errors import PlanError
from deniable.events import (
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SampledWithoutReplacementEvent,
    ShuffledEvent,
    TruncatedPoissonSampledEvent,
    unsampled,
)
from deniable.sampling import (
    SAMPLINGS,
    FixedSizeSampler,
    PoissonSampler,
    Sampler,
    ShuffledSampler,
    TruncatedPoissonSampler,
)
from deniable.units import Neighbouring

DRAWS = 20_000
# Every statistical test below fails an honest sampler with this probability.
FALSE_FAILURE = 1e-6

Make = Callable[[int, int, np.random.Generator], Sampler]
Check = Callable[[Make, int, int], None]


def truncated(examples: int, batch_size: int, generator: np.random.Generator) -> Sampler:
    """One that overflows often."""
    largest = min(batch_size + 1, examples)
    return TruncatedPoissonSampler(examples, batch_size, generator, max_batch_size=largest)


SAMPLERS: dict[str, Make] = {
    "poisson": PoissonSampler,
    "truncated-poisson": truncated,
    "fixed-size": FixedSizeSampler,
    "shuffled": ShuffledSampler,
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def test_every_sampler_that_draws_keeps_this_contract() -> None:
    drawing = {name for name, each in SAMPLINGS.items() if issubclass(each, Sampler)}
    assert drawing == set(SAMPLERS)


def noise_under(relation: Neighbouring) -> GaussianEvent:
    return GaussianEvent(2.5, relation)


def stated(sampler: Sampler) -> Event:
    return sampler.event(noise_under(type(sampler).relations[0]))


# -- what the events say of the batches ----------------------------------------------------------


def law(event: Event, examples: int, size: int) -> float:
    """How likely each batch of so many given examples is."""
    match event:
        case PoissonSampledEvent(rate):
            return rate**size * (1 - rate) ** (examples - size)
        case TruncatedPoissonSampledEvent(n, rate, largest):
            if size < largest:
                return rate**size * (1 - rate) ** (n - size)
            overflowing = float(binom.sf(largest - 1, n, rate)) / math.comb(n, largest)
            return overflowing if size == largest else 0.0
        case SampledWithoutReplacementEvent(n, batch_size):
            return 1 / math.comb(n, batch_size) if size == batch_size else 0.0
    raise AssertionError(f"No law is known for {event}.")


def check_law(make: Make, examples: int, batch_size: int) -> None:
    """The whole distribution over the `2^examples` batches, by a chi-squared test."""
    sampler = make(examples, batch_size, np.random.default_rng(20))
    event = stated(sampler)
    drawn = Counter(tuple(sampler.draw().tolist()) for _ in range(DRAWS))
    subsets = [each for size in range(examples + 1) for each in combinations(range(examples), size)]
    expected = {each: DRAWS * law(event, examples, len(each)) for each in subsets}
    possible = [each for each in subsets if expected[each]]
    assert sum(drawn[each] for each in possible) == DRAWS
    found = [drawn[each] for each in possible]
    if len(found) > 1:
        assert chisquare(found, [expected[each] for each in possible]).pvalue > FALSE_FAILURE


def check_epochs(make: Make, examples: int, batch_size: int) -> None:
    """Nobody is in two batches that state the same epoch; the law of a batch is not stated."""
    sampler = make(examples, batch_size, np.random.default_rng(20))
    seen: dict[Event, Counter[int]] = {}
    for _ in range(200):
        drawn = sampler.draw().tolist()
        seen.setdefault(stated(sampler), Counter()).update(drawn)
    assert all(times == 1 for epoch in seen.values() for times in epoch.values())


CHECKS: dict[type[Event], Check] = {
    PoissonSampledEvent: check_law,
    TruncatedPoissonSampledEvent: check_law,
    SampledWithoutReplacementEvent: check_law,
    ShuffledEvent: check_epochs,
}


def check_batches_are_as_stated(make: Make, examples: int, batch_size: int) -> None:
    sampler = make(examples, batch_size, np.random.default_rng(0))
    sampler.draw()
    CHECKS[type(stated(sampler))](make, examples, batch_size)


def check_batches_do_not_depend_on_each_other(make: Make) -> None:
    """Pairs of successive batches of 3 examples, by a chi-squared test for independence.

    Where epochs are stated, pairs of the first batches of successive epochs.
    """
    sampler = make(3, 2, np.random.default_rng(21))
    drawn = [tuple(sampler.draw().tolist()) for _ in range(DRAWS)]
    pairs = Counter(zip(drawn[::2], drawn[1::2], strict=True))
    first, second = Counter(drawn[::2]), Counter(drawn[1::2])
    expected = [2 / DRAWS * first[one] * second[other] for one in first for other in second]
    counts = [pairs[one, other] for one in first for other in second]
    freedom = len(first) + len(second) - 2
    assert chisquare(counts, expected, ddof=freedom).pvalue > FALSE_FAILURE


@every_sampler
@pytest.mark.parametrize(("examples", "batch_size"), [(5, 1), (5, 2), (6, 5), (4, 4)])
def test_batches_are_distributed_exactly_as_the_stated_event(
    make: Make, examples: int, batch_size: int
) -> None:
    """False-failure rate 1e-6. Pitfall: privacy 1."""
    check_batches_are_as_stated(make, examples, batch_size)


@every_sampler
def test_successive_batches_are_independent(make: Make) -> None:
    """False-failure rate 1e-6. Of shuffled data, epochs are: an epoch of 3 holds one batch of 2."""
    check_batches_do_not_depend_on_each_other(make)


@every_sampler
@pytest.mark.parametrize(("examples", "batch_size"), [(50, 7), (40, 20), (9, 9)])
def test_everybody_is_drawn_equally_often(make: Make, examples: int, batch_size: int) -> None:
    """Inclusion in one batch, or of an epoch its first, against its mean; false failures 1e-6."""
    sampler = make(examples, batch_size, np.random.default_rng(24))
    counts = np.zeros(examples)
    draws = 3_000
    for _ in range(draws):
        counts[sampler.draw()] += 1
        for _ in range(sampler.period - 1):
            sampler.draw()
    share = counts.mean() / draws
    spread = math.sqrt(draws * share * (1 - share)) or 1.0
    assert np.abs(counts - counts.mean()).max() < 6.2 * spread


# -- samplers that say what is not so ------------------------------------------------------------


def stating(
    event: Callable[[Any, GaussianEvent], Event], base: type[Sampler], make: Make | None = None
) -> Make:
    """A sampler that draws as `base` and states something else."""
    liar = type("Liar", (base,), {"event": event})
    return liar if make is None else lambda *args: _with(make(*args), liar)


def _with(sampler: Sampler, kind: type[Sampler]) -> Sampler:
    sampler.__class__ = kind
    return sampler


def poisson(sampler: Sampler, inner: GaussianEvent) -> Event:
    return PoissonSampledEvent(sampler.batch_size / sampler.examples, inner)


class LowestKept(TruncatedPoissonSampler):
    """Cuts off the last rows rather than random ones."""

    def draw(self) -> NDArray[np.int64]:
        chosen = self.generator.random(self.examples) < self.sampling_rate
        return np.flatnonzero(chosen)[: self.max_batch_size]


class Alternating(PoissonSampler):
    """Every second batch is what the one before left over."""

    last: NDArray[np.int64] | None = None

    def draw(self) -> NDArray[np.int64]:
        if self.last is None:
            self.last = super().draw()
            return self.last
        rest, self.last = np.setdiff1d(np.arange(self.examples), self.last), None
        return rest


class NotShuffled(FixedSizeSampler):
    """Draws anew each time, and states that it was one epoch."""

    def event(self, inner: GaussianEvent) -> Event:  # type: ignore[override]
        return ShuffledEvent("key", 1, inner)


LIARS: dict[str, Make] = {
    "shuffled, stated as poisson": stating(poisson, ShuffledSampler),
    "fixed size, stated as poisson": stating(poisson, FixedSizeSampler),
    "truncated, stated as poisson": stating(poisson, TruncatedPoissonSampler, truncated),
    "poisson, at a rate a tenth too low": stating(
        lambda sampler, inner: PoissonSampledEvent(
            sampler.batch_size / sampler.examples / 1.1, inner
        ),
        PoissonSampler,
    ),
    "truncated, not at random": lambda n, b, generator: LowestKept(
        n, b, generator, max_batch_size=b + 1
    ),
    "drawn anew, stated as an epoch": NotShuffled,
}


@pytest.mark.parametrize("make", LIARS.values(), ids=LIARS)
def test_a_sampler_that_states_another_event_is_caught(make: Make) -> None:
    """Pitfall: privacy 1."""
    with pytest.raises(AssertionError):
        check_batches_are_as_stated(make, 5, 2)


def test_a_sampler_whose_batches_depend_on_each_other_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_batches_do_not_depend_on_each_other(Alternating)


# -- batches, streams and states -----------------------------------------------------------------


@every_sampler
def test_indices_are_sorted_distinct_and_in_range(make: Make) -> None:
    sampler = make(1_000, 100, np.random.default_rng(22))
    for _ in range(50):
        drawn = sampler.draw()
        assert drawn.dtype == np.int64
        assert (np.diff(drawn) > 0).all()
        assert drawn.size == 0 or (drawn[0] >= 0 and drawn[-1] < 1_000)


@every_sampler
def test_the_stream_alone_decides(make: Make) -> None:
    one, same, other = (make(500, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [one.draw().tolist() for _ in range(15)] == [same.draw().tolist() for _ in range(15)]
    assert one.draw().tolist() != other.draw().tolist()


@every_sampler
def test_a_saved_state_draws_and_states_the_same_from_there_on(make: Make) -> None:
    """In the middle of an epoch too; the state survives JSON. Pitfall: privacy 11."""
    sampler, other = make(60, 10, np.random.default_rng(3)), make(60, 10, np.random.default_rng(4))
    for _ in range(8):
        sampler.draw()
    other.restore(json.loads(json.dumps(sampler.state())))
    for _ in range(20):
        assert sampler.draw().tolist() == other.draw().tolist()
        assert stated(sampler) == stated(other)


@every_sampler
def test_a_state_can_be_taken_before_the_first_batch(make: Make) -> None:
    sampler, other = make(60, 10, np.random.default_rng(3)), make(60, 10, np.random.default_rng(4))
    other.restore(sampler.state())
    assert sampler.draw().tolist() == other.draw().tolist()


@every_sampler
@pytest.mark.parametrize("relation", Neighbouring)
def test_the_event_is_that_of_the_noise_on_the_batch(make: Make, relation: Neighbouring) -> None:
    """Pitfall: privacy 14."""
    sampler = make(10, 3, np.random.default_rng(0))
    sampler.draw()
    if relation in type(sampler).relations:
        assert unsampled(sampler.event(noise_under(relation))) == noise_under(relation)  # type: ignore[arg-type]
    else:
        with pytest.raises(ValueError, match="replacement alone"):
            sampler.event(noise_under(relation))


@every_sampler
def test_the_parts_of_a_plan_add_up(make: Make) -> None:
    sampler = make(60, 7, np.random.default_rng(0))
    noise = noise_under(type(sampler).relations[0])
    whole = sampler.part(noise, 0, 50)
    for cut in range(51):
        before, after = sampler.part(noise, 0, cut), sampler.part(noise, cut, 50)
        assert before.event == after.event == whole.event
        assert before.count + after.count == whole.count


@every_sampler
@pytest.mark.parametrize("batch_size", [0, -1, 11, math.nan])
def test_a_batch_size_outside_the_data_set_is_refused(make: Make, batch_size: Any) -> None:
    with pytest.raises(PlanError, match="between 1 and the number of examples, 10"):
        make(10, batch_size, np.random.default_rng(0))


@every_sampler
def test_everybody_can_be_told_how_batches_come_about(make: Make) -> None:
    assert "guarantee" in (words := make(100, 10, np.random.default_rng(0)).in_words) or (
        "No amplification" in words
    )
