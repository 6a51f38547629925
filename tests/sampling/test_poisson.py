from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binom, kstest

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
