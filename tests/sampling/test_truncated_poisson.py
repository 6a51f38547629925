from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deniable.errors import PlanError
from deniable.sampling import PoissonSampler, TruncatedPoissonSampler


def test_no_batch_is_larger_than_the_largest_and_some_are_as_large() -> None:
    sampler = TruncatedPoissonSampler(1_000, 50, np.random.default_rng(0), max_batch_size=60)
    sizes = [len(sampler.draw()) for _ in range(2_000)]
    assert max(sizes) == 60
    assert 0.05 < np.mean(np.array(sizes) == 60) < 0.15  # P[binomial(1000, 0.05) >= 60] = 0.086


def test_batches_that_fit_are_those_of_poisson_sampling() -> None:
    one = TruncatedPoissonSampler(1_000, 50, np.random.default_rng(0), max_batch_size=1_000)
    other = PoissonSampler(1_000, 50, np.random.default_rng(0))
    assert all(one.draw().tolist() == other.draw().tolist() for _ in range(50))


@pytest.mark.parametrize("largest", [0, 49, 1_001])
def test_a_largest_batch_that_cannot_be_is_refused(largest: Any) -> None:
    with pytest.raises(PlanError, match="between batch_size = 50 and examples = 1000"):
        TruncatedPoissonSampler(1_000, 50, max_batch_size=largest)
