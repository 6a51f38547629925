from __future__ import annotations

import numpy as np
import pytest

from deniable.errors import PlanError
from deniable.sampling import SAMPLINGS, TruncatedPoissonSampler, make_sampling
from deniable.units import Neighbouring


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_sampling_is_made_by_its_name(name: str) -> None:
    largest = 30 if name == "truncated-poisson" else None
    made = make_sampling(name, 100, 10, largest, np.random.default_rng(0))
    assert type(made) is SAMPLINGS[name]
    assert (made.examples, made.batch_size) == (100, 10)
    assert made.relations[0] in Neighbouring
    assert made.amplifies == ("No amplification" not in made.in_words)
    assert set(made.relations) == set(Neighbouring) or made.why_not


def test_without_a_generator_no_two_are_alike() -> None:
    draws = [make_sampling("poisson", 1_000, 500).draw().tolist() for _ in range(2)]  # type: ignore[attr-defined]
    assert draws[0] != draws[1]


def test_sizes_that_do_not_fit_the_name_are_refused() -> None:
    with pytest.raises(PlanError, match="sampling must be one of poisson, truncated-poisson"):
        make_sampling("bernoulli", 100, 10)
    with pytest.raises(PlanError, match="needs max_batch_size"):
        make_sampling("truncated-poisson", 100, 10)
    with pytest.raises(PlanError, match="fixed-size knows none, got 30"):
        make_sampling("fixed-size", 100, 10, 30)
    made = make_sampling("truncated-poisson", 100, 10, 30)
    assert isinstance(made, TruncatedPoissonSampler)
    assert made.max_batch_size == 30
