"""The batch size as the quantity that is left out."""

from __future__ import annotations

from typing import Any

import pytest

from deniable.errors import PlanError
from deniable.plan import Plan

ASKED: dict[str, Any] = {"epsilon": 3.0, "noise_multiplier": 1.1, "delta": 1e-5}


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("sampling", ["poisson", "fixed-size", "truncated-poisson"])
@pytest.mark.parametrize("length", [{"steps": 500}, {"epochs": 20}])
def test_the_largest_batch_within_the_target_is_found(
    length: dict[str, Any], sampling: str, accountant: str
) -> None:
    if sampling == "truncated-poisson":
        length = length | {"max_batch_size": 400}
    given = {**ASKED, **length, "sampling": sampling, "accountant": accountant}
    plan = Plan(10_000, **given)
    assert plan.epsilon <= 3.0
    del given["epsilon"]
    larger = Plan(10_000, plan.batch_size + 1, **given)
    assert larger.epsilon > 3.0 or plan.batch_size == 400
    assert Plan(10_000, plan.batch_size, **given).epsilon == plan.epsilon


def test_the_target_is_met_within_a_hundredth_where_sizes_are_many() -> None:
    assert Plan(1_000_000, steps=2000, **ASKED).epsilon > 0.99 * 3.0


@pytest.mark.parametrize("sampling", ["shuffled", "own-loader"])
def test_without_amplification_the_batch_size_is_no_quantity_to_solve(sampling: str) -> None:
    with pytest.raises(PlanError, match="epsilon knows only how often"):
        Plan(10_000, steps=10, sampling=sampling, **ASKED)


def test_a_target_that_no_batch_meets_is_refused() -> None:
    with pytest.raises(PlanError, match="Even batches of one example"):
        Plan(10, steps=10_000, **ASKED)


@pytest.mark.parametrize("left_out", ["epsilon", "noise_multiplier", "steps"])
def test_two_quantities_left_out_are_refused(left_out: str) -> None:
    given = {**ASKED, "steps": 10}
    del given[left_out]
    with pytest.raises(PlanError, match="batch_size"):
        Plan(10_000, **given)
