"""Noise on each unit's gradient: its sum has the law that one draw a batch is made to have."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import deniable
from deniable.errors import PlanError
from deniable.noise import Gaussian, noise_generator, per_unit
from deniable.units import BoundedSum, Neighbouring, Sensitivity

ALPHA = 1e-6
SIGMA, NORM, BATCH = 0.8, 0.5, 25


def test_the_sum_of_noised_gradients_has_the_law_of_what_is_released() -> None:
    """Both against the same normal law, at level 1e-6; noise once a batch is rejected."""
    one_by_one = (SIGMA * NORM * torch.randn(BATCH, 40_000, dtype=torch.float64,
                  generator=torch.Generator().manual_seed(0))).sum(0)  # fmt: skip
    noise = Gaussian(per_unit(SIGMA, BATCH), Neighbouring.REPLACE)
    sensitivity = Sensitivity(NORM).under(Neighbouring.REPLACE)
    generator = noise_generator(bytes(range(32)), torch.device("cpu"))
    released = noise.add(BoundedSum({"w": torch.zeros(40_000)}, sensitivity), generator)["w"]
    law = (0, math.sqrt(BATCH) * SIGMA * NORM)
    for found in (one_by_one, released.double()):
        assert stats.kstest(found.numpy(), "norm", law).pvalue > ALPHA
        assert stats.kstest(found.numpy(), "norm", (0, SIGMA * NORM)).pvalue < ALPHA


def test_the_plan_that_it_is_for_accounts_it_as_one_draw_on_a_fixed_batch() -> None:
    noise = per_unit(SIGMA, BATCH)
    plan = deniable.Plan(
        1000, BATCH, steps=10, noise_multiplier=noise, delta=1e-5, sampling="fixed-size"
    )
    assert plan.neighbouring is Neighbouring.REPLACE
    assert plan.part(0, 1).event.event.noise_multiplier == pytest.approx(5 * 0.8 / 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("sampling", ["poisson", "truncated-poisson", "shuffled", "own-loader"])
def test_where_the_number_of_units_is_no_public_number_it_is_refused(sampling: str) -> None:
    with pytest.raises(PlanError, match="the amount of noise would tell it"):
        per_unit(1.0, 10, sampling)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_an_impossible_deviation_is_refused(sigma: float) -> None:
    with pytest.raises(PlanError, match="finite and at least 0"):
        per_unit(sigma, 10)
