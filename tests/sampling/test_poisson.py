from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binom, geom, kstest, pearsonr

from deniable.events import GaussianEvent, PoissonSampledEvent
from deniable.sampling import PoissonSampler


def test_the_event_states_the_rate_exactly() -> None:
    sampler = PoissonSampler(60_000, 256, np.random.default_rng(0))
    assert sampler.event(GaussianEvent(1.1)) == PoissonSampledEvent(
        256 / 60_000, GaussianEvent(1.1)
    )


def sizes(examples: int, batch_size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    sampler = PoissonSampler(examples, batch_size, np.random.default_rng(5))
    rng = np.random.default_rng(6)
    # Spread over the steps of a discrete distribution, so that a continuous test applies exactly.
    drawn = np.array([sampler.draw().size for _ in range(5_000)])
    law = binom(examples, batch_size / examples)
    return law.cdf(drawn - 1) + rng.random(drawn.size) * law.pmf(drawn)


def test_sizes_of_large_batches_are_binomial() -> None:
    """False-failure rate 1e-6; sizes of a rate that is 2% off are rejected."""
    assert kstest(sizes(60_000, 256), "uniform").pvalue > 1e-6
    off = binom(60_000, 256 / 60_000).cdf(
        np.random.default_rng(7).binomial(60_000, 1.02 * 256 / 60_000, 5_000)
    )
    assert kstest(off, "uniform").pvalue < 1e-6


def test_a_batch_may_be_empty() -> None:
    """Pitfall: users 6."""
    sampler = PoissonSampler(10, 1, np.random.default_rng(0))
    drawn = [sampler.draw() for _ in range(100)]
    assert any(each.size == 0 for each in drawn)
    assert all(each.dtype == np.int64 and each.ndim == 1 for each in drawn)


def test_at_rate_1_everyone_is_in_every_batch() -> None:
    sampler = PoissonSampler(7, 7, np.random.default_rng(0))
    assert all(sampler.draw().tolist() == list(range(7)) for _ in range(20))


def test_gaps_between_the_drawn_are_independent_of_each_other() -> None:
    """False-failure rate 1e-6; gaps of every second draw left out are rejected."""
    sampler = PoissonSampler(100_000, 1_000, np.random.default_rng(0))
    gaps = np.concatenate([np.diff(sampler.draw()) for _ in range(20)])
    law = geom(0.01)
    jitter = np.random.default_rng(1).random(gaps.size)
    assert kstest(law.cdf(gaps - 1) + jitter * law.pmf(gaps), "uniform").pvalue > 1e-6
    pairs = gaps[: gaps.size // 2 * 2].reshape(-1, 2)
    assert pearsonr(*pairs.T).pvalue > 1e-6
    thinned = pairs.sum(1)
    spread = law.cdf(thinned - 1) + jitter[: thinned.size] * law.pmf(thinned)
    assert kstest(spread, "uniform").pvalue < 1e-6


def test_any_number_of_examples_can_be_drawn_from() -> None:
    sampler = PoissonSampler(10**12, 3, np.random.default_rng(0))
    drawn = [sampler.draw() for _ in range(100)]
    assert all((each >= 0).all() and (each < 10**12).all() for each in drawn)
    assert 200 < sum(each.size for each in drawn) < 400
