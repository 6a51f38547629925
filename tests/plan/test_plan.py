from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from deniable.accounting import spent
from deniable.errors import PlanError
from deniable.events import (
    ComposedEvent,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
    neighbouring_of,
)
from deniable.plan import Plan
from deniable.units import Neighbouring

KNOWN: dict[str, Any] = {"examples": 60_000, "batch_size": 256, "delta": 1e-5}


def test_the_known_plan() -> None:
    plan = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5)
    assert plan.steps == 14_040
    assert plan.sampling_rate == 256 / 60_000
    assert plan.steps_per_epoch == 234
    assert plan.epochs == 60
    assert f"{plan.epsilon:.2f}" == "2.38"
    assert plan.accountant == "pld"
    rdp = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5, accountant="rdp")
    assert f"{rdp.epsilon:.2f}" == "2.59"


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(
    ("examples", "batch_size", "given"),
    [
        (60_000, 256, {"epochs": 15, "epsilon": 3.0}),
        (60_000, 256, {"noise_multiplier": 1.0, "epsilon": 3.0}),
        (1_437, 128, {"epochs": 30, "epsilon": 3.0}),
        (1_437, 100, {"steps": 93, "epsilon": 1.0}),
        (9_300, 100, {"epochs": 1, "epsilon": 8.0}),
        (10, 10, {"steps": 1, "epsilon": 0.5}),
    ],
)
def test_a_solved_plan_never_passes_the_target_at_exactly_its_steps(
    examples: int, batch_size: int, given: dict[str, Any], accountant: str
) -> None:
    """Pitfall: privacy 3."""
    plan = Plan(examples, batch_size, delta=1e-5, accountant=accountant, **given)
    assert plan.epsilon <= given["epsilon"]
    assert plan.epsilon >= 0.99 * given["epsilon"]
    step = PoissonSampledEvent(batch_size / examples, GaussianEvent(plan.noise_multiplier))
    assert plan.part(0, 1) == SelfComposedEvent(step, 1)
    assert plan.event == SelfComposedEvent(step, plan.steps)
    assert spent(plan.event, 1e-5, accountant).epsilon == plan.epsilon


@pytest.mark.parametrize("batches", [1, 3, 49, 93, 107, 9_973])
def test_an_epoch_loses_no_step_to_rounding(batches: int) -> None:
    """`int(1 / (batch_size / examples))` gives 92 for 93 batches. Pitfall: privacy 3."""
    plan = Plan(100 * batches, 100, epochs=3, noise_multiplier=0.0, delta=1e-5)
    assert (plan.steps_per_epoch, plan.steps) == (batches, 3 * batches)


def test_a_part_of_an_epoch_is_a_whole_number_of_steps() -> None:
    plan = Plan(1_000, 100, epochs=0.26, noise_multiplier=0.0, delta=1e-5)
    assert plan.steps == 3


def test_the_rate_and_the_denominator_are_public_numbers_not_rounded_shares() -> None:
    """The expected batch size is what was asked for, whatever divides. Pitfall: privacy 2."""
    plan = Plan(1_437, 97, steps=10, noise_multiplier=1.0, delta=1e-5)
    assert plan.batch_size == 97
    assert plan.event == SelfComposedEvent(PoissonSampledEvent(97 / 1_437, GaussianEvent(1.0)), 10)


@pytest.mark.parametrize("batch_size", [1, 7, 96, 997])
def test_any_batch_size_works(batch_size: int) -> None:
    """Pitfall: users 11."""
    plan = Plan(997, batch_size, steps=5, noise_multiplier=2.0, delta=1e-5, accountant="rdp")
    assert 0 < plan.epsilon < 10


@pytest.mark.parametrize("epsilon", [0.01, 1e6])
def test_very_small_and_very_large_targets_are_solved(epsilon: float) -> None:
    """Pitfall: users 9."""
    plan = Plan(**KNOWN, epochs=15, epsilon=epsilon)
    assert 0.99 * epsilon <= plan.epsilon <= epsilon


def test_the_steps_within_an_epsilon_fit_exactly() -> None:
    plan = Plan(1_000, 50, steps=40, noise_multiplier=1.5, delta=1e-5)
    for share in (0.5, 0.7, 0.99):
        stop = plan.steps_within(share * plan.epsilon)
        assert spent(plan.part(0, stop), 1e-5).epsilon <= share * plan.epsilon
        assert spent(plan.part(0, stop + 1), 1e-5).epsilon > share * plan.epsilon
        assert plan.steps_within(share * plan.epsilon, start=5) == stop
    assert plan.steps_within(plan.epsilon) == plan.steps_within(math.inf) == 40
    assert plan.steps_within(1e-3) == 0


def test_steps_within_an_epsilon_leave_room_for_what_was_released_beside_them() -> None:
    plan = Plan(1_000, 50, steps=40, noise_multiplier=1.5, delta=1e-5)
    other = GaussianEvent(5.0)
    stop = plan.steps_within(plan.epsilon, start=10, released=other)
    together = [ComposedEvent((other, plan.part(10, each))) for each in (stop, stop + 1)]
    assert spent(together[0], 1e-5).epsilon <= plan.epsilon < spent(together[1], 1e-5).epsilon


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, 1e-9, "3"])
def test_a_budget_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(PlanError, match="budget"):
        Plan(1_000, 50, steps=40, noise_multiplier=1.5, delta=1e-5).steps_within(epsilon)


def test_without_noise_epsilon_is_infinite() -> None:
    assert Plan(**KNOWN, steps=1, noise_multiplier=0.0).epsilon == math.inf


def test_the_relation_is_part_of_the_plan() -> None:
    """Pitfall: privacy 14."""
    plan = Plan(**KNOWN, steps=1, noise_multiplier=1.0)
    assert plan.neighbouring is Neighbouring.ADD_OR_REMOVE
    assert plan.to_json()["neighbouring"] == "add-or-remove"
    replaced = Plan(**KNOWN, steps=1, noise_multiplier=1.0, neighbouring="replace")
    assert replaced.neighbouring is Neighbouring.REPLACE
    assert neighbouring_of(replaced.event) is Neighbouring.REPLACE
    with pytest.raises(PlanError, match="neighbouring must be one of add-or-remove, replace"):
        Plan(**KNOWN, steps=1, noise_multiplier=1.0, neighbouring="swap")


@pytest.mark.parametrize(
    ("given", "came"),
    [
        ({}, "none of them"),
        ({"batch_size": 256, "epsilon": 1.0}, "got batch_size, epsilon"),
        (
            {"batch_size": 256, "epsilon": 1.0, "noise_multiplier": 1.0, "epochs": 1},
            "batch_size, epsilon, noise_multiplier, steps",
        ),
    ],
)
def test_exactly_one_quantity_is_left_out(given: dict[str, Any], came: str) -> None:
    with pytest.raises(PlanError, match=rf"Give exactly three of .*{came}"):
        Plan(60_000, delta=1e-5, **given)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"examples": 0}, "examples must be a whole number of at least 1, got 0"),
        ({"examples": 59_999.5}, "examples must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number between 1 and examples = 60000"),
        ({"batch_size": 60_001}, "got 60001"),
        ({"batch_size": 25.6}, "got 25.6"),
        ({"batch_size": True}, "got True"),
        ({"delta": 0.0}, "delta must lie strictly between 0 and 1, got 0.0"),
        ({"delta": math.nan}, "got nan"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be finite and at least 0, got -1.0"),
        ({"noise_multiplier": math.nan}, "got nan"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "got 1.5"),
        ({"epochs": 1}, "Give steps or epochs, not both: got 10 and 1"),
        ({"steps": None, "epochs": 0.0}, "epochs must be finite and above 0, got 0.0"),
        ({"steps": None, "epochs": math.nan}, "got nan"),
        ({"steps": None, "epochs": 1e-4}, "hold no whole step"),
        ({"noise_multiplier": None, "epsilon": 0.0}, "epsilon must be finite and above 0"),
        ({"noise_multiplier": None, "epsilon": math.inf}, "got inf"),
        ({"noise_multiplier": None, "epsilon": 1e-300}, "cannot be solved: A target epsilon"),
        (
            {"steps": 1, "noise_multiplier": None, "epsilon": 1.0, "delta": 0.01},
            "no less than the chance, 0.00427, with which an example is in any batch",
        ),
        ({"steps": None, "epsilon": 0.01, "noise_multiplier": 0.2}, "One step alone costs more"),
        ({"steps": None, "epsilon": 9.0, "noise_multiplier": 1e6}, "no limit"),
        ({"accountant": "gdp"}, "accountant must be one of"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_words(changed: dict[str, Any], says: str) -> None:
    given = {**KNOWN, "steps": 10, "noise_multiplier": 1.0} | changed
    with pytest.raises(PlanError) as refusal:
        Plan(**given)
    assert says in str(refusal.value)


def test_a_plan_is_frozen_and_compares_by_value() -> None:
    plan, same = (Plan(**KNOWN, steps=9, noise_multiplier=1.0) for _ in range(2))
    assert plan == same
    assert hash(plan) == hash(same)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.steps = 10  # type: ignore[misc]


@pytest.mark.parametrize("noise", [0.0, 1.3])
def test_a_plan_survives_json_unchanged_and_unsolved(noise: float) -> None:
    plan = Plan(**KNOWN, steps=9, noise_multiplier=noise)
    written = json.dumps(plan.to_json(), allow_nan=False)
    assert Plan.from_json(json.loads(written)) == plan


def test_numbers_of_numpy_become_plain_ones() -> None:
    plan = Plan(
        np.int64(1_000),  # type: ignore[arg-type]
        np.int32(10),  # type: ignore[arg-type]
        steps=np.int64(7),  # type: ignore[arg-type]
        noise_multiplier=np.float32(1.5),  # type: ignore[arg-type]
        delta=np.float64(1e-5),
    )
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"epsilon": -1.0},
        {"epsilon": "2"},
        {"noise_multiplier": "1"},
        {"delta": 2.0},
        {"neighbouring": "swap"},
        {"sampling": "bernoulli"},
        {"sampling": "fixed-size"},
        {"max_batch_size": 300},
        {"accountant": "gdp"},
        {"batch_size": 99_999},
        {"more": 1},
    ],
)
def test_a_saved_plan_that_was_changed_into_nonsense_is_refused(change: dict[str, Any]) -> None:
    saved = Plan(**KNOWN, steps=9, noise_multiplier=1.0).to_json() | change
    with pytest.raises(PlanError):
        Plan.from_json(saved)


def test_a_saved_plan_with_a_field_missing_is_refused_with_its_fields() -> None:
    saved = Plan(**KNOWN, steps=9, noise_multiplier=1.0).to_json()
    del saved["delta"]
    with pytest.raises(
        PlanError, match="must have the fields accountant, batch_schedule, batch_size, delta"
    ):
        Plan.from_json(saved)


# -- samplings and relations ---------------------------------------------------------------------

SAMPLINGS: dict[str, dict[str, Any]] = {
    "poisson, replace": {"neighbouring": "replace"},
    "truncated": {"sampling": "truncated-poisson", "max_batch_size": 80},
    "fixed size": {"sampling": "fixed-size"},
    "shuffled": {"sampling": "shuffled"},
    "shuffled, replace": {"sampling": "shuffled", "neighbouring": "replace"},
    "own loader": {"sampling": "own-loader"},
}


@pytest.mark.parametrize("given", SAMPLINGS.values(), ids=SAMPLINGS)
def test_noise_and_steps_are_solved_for_every_sampling(given: dict[str, Any]) -> None:
    """Pitfall: privacy 3."""
    sizes: dict[str, Any] = {"examples": 1_000, "batch_size": 50, "delta": 1e-4} | given
    by_noise = Plan(**sizes, epochs=3, epsilon=2.0)
    assert 0.99 * 2.0 <= by_noise.epsilon <= 2.0
    assert spent(by_noise.event, 1e-4).epsilon == by_noise.epsilon
    by_steps = Plan(**sizes, noise_multiplier=20.0, epsilon=2.0, accountant="rdp")
    assert by_steps.epsilon <= 2.0
    more = Plan(
        **sizes, noise_multiplier=20.0, steps=int(1.01 * by_steps.steps) + 20, accountant="rdp"
    )
    assert more.epsilon > 2.0
    assert Plan.from_json(json.loads(json.dumps(by_noise.to_json()))) == by_noise


def test_the_relation_is_the_usual_one_of_the_sampling() -> None:
    usual = {
        "poisson": Neighbouring.ADD_OR_REMOVE,
        "shuffled": Neighbouring.ADD_OR_REMOVE,
        "fixed-size": Neighbouring.REPLACE,
        "own-loader": Neighbouring.REPLACE,
    }
    for sampling, relation in usual.items():
        plan = Plan(**KNOWN, steps=1, noise_multiplier=1.0, sampling=sampling)
        assert plan.neighbouring is relation
        assert neighbouring_of(plan.event) is relation


@pytest.mark.parametrize("sampling", ["fixed-size", "own-loader"])
def test_a_relation_under_which_a_sampling_guarantees_nothing_is_refused(sampling: str) -> None:
    """Pitfall: privacy 14."""
    with pytest.raises(PlanError, match=f"'{sampling}' is no guarantee .* Use neighbouring='repl"):
        Plan(
            **KNOWN, steps=1, noise_multiplier=1.0, sampling=sampling, neighbouring="add-or-remove"
        )


def test_without_amplification_the_same_noise_costs_far_more() -> None:
    """Pitfall: privacy 1."""
    given = KNOWN | {"epochs": 1, "noise_multiplier": 5.0}
    poisson, shuffled, own = (
        Plan(**given, neighbouring="replace", sampling=sampling).epsilon
        for sampling in ("poisson", "shuffled", "own-loader")
    )
    assert poisson < 0.1 * shuffled
    assert shuffled == pytest.approx(spent(GaussianEvent(5.0), 1e-5).epsilon)
    steps = SelfComposedEvent(GaussianEvent(5.0), 234)
    assert own == pytest.approx(spent(steps, 1e-5).epsilon)
    assert own > 10 * shuffled
