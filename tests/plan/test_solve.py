"""The batch size, where that is what a plan leaves out; and any of the four, for 60 plans."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase as HypothesisPhase
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deniable.accounting import spent
from deniable.errors import PlanError
from deniable.plan import Plan, Schedule

SIZES: dict[str, Any] = {"examples": 40, "delta": 1e-3, "accountant": "rdp"}
GROWING = Schedule(((1, 1.0), (1, 2.0)))


def feasible(epsilon: float, given: dict[str, Any]) -> list[int]:
    """Every batch size whose plan is within epsilon, by trying all of them."""
    found = []
    for size in range(1, 41):
        try:
            plan = Plan(**SIZES, batch_size=size, **given)
        except PlanError:
            continue  # larger than the largest, or no whole step
        if plan.epsilon <= epsilon:
            found.append(size)
    return found


@pytest.mark.parametrize("epsilon", [1.5, 6.0])
@pytest.mark.parametrize(
    "given",
    [
        {"steps": 10},
        {"epochs": 2},
        {"epochs": 0.4},
        {"epochs": 3, "sampling": "fixed-size"},
        {"steps": 10, "sampling": "truncated-poisson", "max_batch_size": 14},
        {"epochs": 2, "batch_schedule": GROWING},
        {"steps": 10, "batch_schedule": GROWING, "noise_schedule": Schedule.stairs(0.8, 3)},
    ],
    ids=str,
)
def test_the_batch_size_is_the_largest_that_is_within_the_target(
    given: dict[str, Any], epsilon: float
) -> None:
    """Held against trying every size. Pitfall: privacy 3."""
    given = given | {"noise_multiplier": 1.5}
    assert Plan(**SIZES, epsilon=epsilon, **given).batch_size == feasible(epsilon, given)[-1]


def test_batches_of_everyone_are_the_largest_there_are() -> None:
    plan = Plan(**SIZES, steps=1, noise_multiplier=5.0, epsilon=9.0)
    assert plan.batch_size == 40
    limited = SIZES | {"sampling": "truncated-poisson", "max_batch_size": 30}
    assert Plan(**limited, steps=1, noise_multiplier=50.0, epsilon=9.0).batch_size == 30


@pytest.mark.parametrize("sampling", ["shuffled", "own-loader"])
def test_without_amplification_the_batch_size_is_not_what_to_solve(sampling: str) -> None:
    with pytest.raises(PlanError, match=r"claims no amplification: .* Give batch_size"):
        Plan(**SIZES, epochs=2, noise_multiplier=50.0, epsilon=9.0, sampling=sampling)


def test_batches_that_cannot_be_small_enough_are_refused_in_words() -> None:
    with pytest.raises(PlanError, match="Even batches of one example cost more"):
        Plan(**SIZES, steps=10_000, noise_multiplier=0.5, epsilon=1.0)
    with pytest.raises(PlanError, match="hold no whole step"):
        Plan(**SIZES, epochs=1e-3, noise_multiplier=0.5, epsilon=1.0)


def test_the_known_plan_is_solved_back_from_its_epsilon() -> None:
    known: dict[str, Any] = {"batch_size": 256, "epochs": 60, "noise_multiplier": 1.1}
    plan = Plan(60_000, delta=1e-5, **known)
    for left_out in known:
        asked = {name: value for name, value in known.items() if name != left_out}
        again = Plan(60_000, delta=1e-5, epsilon=plan.epsilon, **asked)
        assert getattr(again, left_out) == pytest.approx(getattr(plan, left_out), rel=0.005)
        assert 0.99 * plan.epsilon <= again.epsilon <= plan.epsilon


def power(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


def schedules() -> st.SearchStrategy[Schedule | None]:
    factor = st.floats(0.5, 2)
    return st.none() | factor.map(lambda each: Schedule(((2, 1.0), (3, each))))


@pytest.mark.slow
@settings(max_examples=60, phases=[HypothesisPhase.generate], deadline=None)
@given(
    examples=power(2, 5).map(round),
    share=power(-2.5, -0.5),
    steps=power(0.5, 3.5).map(round),
    noise=power(-0.2, 1),
    epsilon=power(-1, 1),
    sampling=st.sampled_from(["poisson", "fixed-size", "truncated-poisson"]),
    left_out=st.sampled_from(["batch_size", "steps", "noise_multiplier"]),
    batch_schedule=schedules(),
    noise_schedule=schedules(),
)
def test_a_solved_plan_costs_its_target_or_up_to_a_hundredth_less_where_whole_numbers_allow(
    examples: int,
    share: float,
    steps: int,
    noise: float,
    epsilon: float,
    sampling: str,
    left_out: str,
    **schedule: Any,
) -> None:
    """Pitfall: privacy 3."""
    size = max(1, int(share * examples / 2))
    terms = {"examples": examples, "delta": 1e-6, "sampling": sampling, "accountant": "rdp"}
    terms |= schedule
    if sampling == "truncated-poisson":
        terms["max_batch_size"] = min(examples, 3 * size + 10)
    asked = {"batch_size": size, "steps": steps, "noise_multiplier": noise}
    known = {name: value for name, value in asked.items() if name != left_out}
    try:
        plan = Plan(**terms, **known, epsilon=epsilon)
    except PlanError as refusal:
        assert any(each in str(refusal) for each in ("costs more", "cost more", "no limit"))
        assume(False)
    assert plan.epsilon <= epsilon
    assert spent(plan.event, 1e-6, "rdp").epsilon == plan.epsilon
    if plan.epsilon >= 0.99 * epsilon:
        return
    assert left_out != "noise_multiplier"
    try:
        more = Plan(**terms, **known, **{left_out: getattr(plan, left_out) + 1})
    except PlanError:
        return  # it is the largest that fits into the data
    assert more.epsilon > epsilon
