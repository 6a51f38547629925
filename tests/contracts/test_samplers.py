"""The contract of every sampler: what it draws is distributed as the event that it states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from deniable.events import GaussianEvent, PoissonSampledEvent
from deniable.sampling import PoissonSampler

DRAWS = 20_000
# Every statistical test below fails an honest sampler with this probability.
FALSE_FAILURE = 1e-6


class Sampler(Protocol):
    """Draws batches, and states the event that drawing one is."""

    def event(self, inner: GaussianEvent) -> PoissonSampledEvent: ...
    def draw(self) -> NDArray[np.int64]: ...


Make = Callable[[int, int, np.random.Generator], Sampler]

# A new sampler is one line here.
SAMPLERS: dict[str, Make] = {"PoissonSampler": PoissonSampler}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def check_every_subset_is_as_likely_as_stated(make: Make, examples: int, batch_size: int) -> None:
    """The whole distribution over the `2^examples` batches, by a chi-squared test."""
    sampler = make(examples, batch_size, np.random.default_rng(20))
    rate = sampler.event(GaussianEvent(1.0)).sampling_rate
    drawn = Counter(tuple(sampler.draw().tolist()) for _ in range(DRAWS))
    subsets = [each for size in range(examples + 1) for each in combinations(range(examples), size)]
    expected = np.array([rate ** len(s) * (1 - rate) ** (examples - len(s)) for s in subsets])
    assert sum(drawn[each] for each in subsets) == DRAWS
    assert chisquare([drawn[s] for s in subsets], DRAWS * expected).pvalue > FALSE_FAILURE


def check_batches_do_not_depend_on_each_other(make: Make) -> None:
    """Pairs of successive batches of 2 examples, by a chi-squared test over their 16 values."""
    sampler = make(2, 1, np.random.default_rng(21))
    drawn = [tuple(sampler.draw().tolist()) for _ in range(DRAWS)]
    pairs = Counter(zip(drawn[::2], drawn[1::2], strict=True))
    single = [(), (0,), (1,), (0, 1)]
    counts = [pairs[one, other] for one in single for other in single]
    assert chisquare(counts).pvalue > FALSE_FAILURE


@every_sampler
@pytest.mark.parametrize(("examples", "batch_size"), [(5, 1), (5, 2), (6, 5)])
def test_batches_are_distributed_exactly_as_the_stated_event(
    make: Make, examples: int, batch_size: int
) -> None:
    """False-failure rate 1e-6. Pitfall: privacy 1."""
    check_every_subset_is_as_likely_as_stated(make, examples, batch_size)


@every_sampler
def test_successive_batches_are_independent(make: Make) -> None:
    """False-failure rate 1e-6."""
    check_batches_do_not_depend_on_each_other(make)


class Shuffled:
    """A negative control: passes over a shuffled data set, stated as Poisson."""

    def __init__(self, examples: int, batch_size: int, generator: np.random.Generator) -> None:
        self.examples, self.batch_size, self.generator = examples, batch_size, generator
        self.left: list[int] = []

    def event(self, inner: GaussianEvent) -> PoissonSampledEvent:
        return PoissonSampledEvent(self.batch_size / self.examples, inner)

    def draw(self) -> NDArray[np.int64]:
        if len(self.left) < self.batch_size:
            self.left = self.generator.permutation(self.examples).tolist()
        batch, self.left = self.left[: self.batch_size], self.left[self.batch_size :]
        return np.sort(np.array(batch, dtype=np.int64))


class SlightlyMore(PoissonSampler):
    """A negative control: states a rate that is a tenth below the one it draws with."""

    def event(self, inner: GaussianEvent) -> PoissonSampledEvent:
        return PoissonSampledEvent(self.sampling_rate / 1.1, inner)


class Alternating(PoissonSampler):
    """A negative control: every second batch is what the one before left over."""

    last: NDArray[np.int64] | None = None

    def draw(self) -> NDArray[np.int64]:
        if self.last is None:
            self.last = super().draw()
            return self.last
        rest, self.last = np.setdiff1d(np.arange(self.examples), self.last), None
        return rest


@pytest.mark.parametrize("make", [Shuffled, SlightlyMore])
def test_a_sampler_that_states_another_event_is_caught(make: Make) -> None:
    """Pitfall: privacy 1."""
    with pytest.raises(AssertionError):
        check_every_subset_is_as_likely_as_stated(make, 5, 2)


def test_a_sampler_whose_batches_depend_on_each_other_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_batches_do_not_depend_on_each_other(Alternating)


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
    assert [one.draw().tolist() for _ in range(5)] == [same.draw().tolist() for _ in range(5)]
    assert one.draw().tolist() != other.draw().tolist()


@every_sampler
def test_the_inner_event_is_passed_on(make: Make) -> None:
    assert make(10, 3, np.random.default_rng(0)).event(GaussianEvent(2.5)) == PoissonSampledEvent(
        0.3, GaussianEvent(2.5)
    )
