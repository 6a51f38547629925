"""Noise and batch sizes that change over training."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deniable.accounting import spent
from deniable.accounting.tally import tally
from deniable.errors import PlanError
from deniable.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.plan import Drawing, Plan, Schedule

FALLING = Schedule.linear(1.0, 0.5, phases=3)
GROWING = Schedule(((1, 1.0), (1, 2.0)))
KNOWN: dict[str, Any] = {"examples": 1000, "batch_size": 20, "steps": 90, "delta": 1e-5}


def scheduled(**changed: Any) -> Plan:
    return Plan(**{**KNOWN, "noise_multiplier": 2.0, "noise_schedule": FALLING, **changed})


def test_each_phase_is_a_release_of_its_own_kind() -> None:
    plan = scheduled(batch_schedule=GROWING)
    found = [
        (each.start, each.stop, each.batch_size, each.noise_multiplier) for each in plan.phases
    ]
    assert found == [(0, 30, 20, 2.0), (30, 45, 20, 1.5), (45, 60, 40, 1.5), (60, 90, 40, 1.0)]
    expected = ComposedEvent(
        tuple(
            SelfComposedEvent(PoissonSampledEvent(size / 1000, GaussianEvent(noise)), stop - start)
            for start, stop, size, noise in found
        )
    )
    assert plan.event == expected
    assert plan.epsilon == spent(expected, 1e-5).epsilon


def test_a_schedule_that_changes_nothing_is_the_plain_plan() -> None:
    plain = scheduled(noise_schedule=None)
    assert scheduled(noise_schedule=Schedule(((3, 1.0), (2, 1.0)))).event == plain.event
    assert plain.to_json()["noise_schedule"] is None


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.25, 4)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.25, 4)), min_size=1, max_size=6),
    st.integers(1, 200),
    st.data(),
)
@settings(deadline=None, max_examples=50)
def test_parts_add_up_to_the_whole_and_drawing_makes_just_these_events(
    noise: Any, batch: Any, steps: int, data: Any
) -> None:
    plan = scheduled(
        steps=steps, accountant="rdp",
        noise_schedule=Schedule(tuple(noise)), batch_schedule=Schedule(tuple(batch)),
    )  # fmt: skip
    assert [each.start for each in plan.phases[1:]] == [each.stop for each in plan.phases[:-1]]
    assert (plan.phases[0].start, plan.phases[-1].stop) == (0, steps)
    cut = data.draw(st.integers(0, steps))
    both = ComposedEvent((plan.part(0, cut), plan.part(cut, steps)))
    assert tally(both) == tally(plan.event)
    drawing = Drawing(plan, np.random.default_rng(0))
    drawn = [drawing.next() for _ in range(steps)]
    assert tally(ComposedEvent(tuple(each.event for each in drawn))) == tally(plan.event)
    assert [each.batch_size for each in drawn] == [plan.at(k).batch_size for k in range(steps)]
    with pytest.raises(PlanError, match="The plan has steps 0 to"):
        drawing.next()


def test_a_drawing_goes_on_where_it_was_saved_also_between_phases() -> None:
    plan = scheduled(batch_schedule=GROWING)
    whole = Drawing(plan, np.random.default_rng(3))
    expected = [whole.next() for _ in range(90)]
    for cut in (0, 29, 30, 44, 45, 46, 89):
        first = Drawing(plan, np.random.default_rng(3))
        for _ in range(cut):
            first.next()
        second = Drawing(plan, np.random.default_rng(9))
        second.restore(json.loads(json.dumps(first.state())))
        for one in expected[cut:]:
            other = second.next()
            assert (one.event, one.batch_size) == (other.event, other.batch_size)
            assert np.array_equal(one.indices, other.indices)


def test_batches_have_the_size_of_their_phase() -> None:
    """Each mean over 2,000 binomial draws is within 6 standard errors: fails once in 10^8."""
    plan = Plan(1000, 20, steps=4000, noise_multiplier=1.0, delta=1e-5, batch_schedule=GROWING)
    drawing = Drawing(plan, np.random.default_rng(1))
    sizes = np.array([len(drawing.next().indices) for _ in range(4000)])
    for mean, expected in ((sizes[:2000].mean(), 20), (sizes[2000:].mean(), 40)):
        assert abs(mean - expected) < 6 * math.sqrt(expected / 2000)
    assert abs(sizes[:2000].mean() - 40) > 6 * math.sqrt(40 / 2000), "negative control"


def test_the_common_factor_of_a_noise_schedule_is_solved_for_a_target() -> None:
    plan = scheduled(noise_multiplier=None, epsilon=2.0)
    assert 0.99 * 2.0 <= plan.epsilon <= 2.0
    noises = [each.noise_multiplier for each in plan.phases]
    assert noises == [plan.noise_multiplier * factor for factor in (1.0, 0.75, 0.5)]


def test_steps_are_solved_under_a_schedule() -> None:
    plan = scheduled(steps=None, epsilon=1.0)
    assert plan.epsilon <= 1.0 < scheduled(steps=plan.steps + 3).epsilon * 1.01


def test_a_budget_ends_within_the_phase_in_which_it_is_used_up() -> None:
    plan = scheduled()
    ends = plan.steps_within(plan.epsilon / 2)
    assert spent(plan.part(0, ends), 1e-5).epsilon <= plan.epsilon / 2
    assert spent(plan.part(0, ends + 1), 1e-5).epsilon > plan.epsilon / 2


def test_a_plan_with_schedules_is_read_back_as_it_was() -> None:
    plan = scheduled(batch_schedule=GROWING)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    old = scheduled(noise_schedule=None).to_json()
    assert Plan.from_json({k: v for k, v in old.items() if not k.endswith("_schedule")}).steps == 90


@pytest.mark.parametrize("sampling", ["fixed-size", "shuffled", "own-loader"])
def test_every_sampling_takes_a_schedule(sampling: str) -> None:
    plan = scheduled(sampling=sampling, noise_multiplier=8.0)
    assert plan.epsilon < scheduled(sampling=sampling, noise_multiplier=4.0).epsilon
    events = [each.event for each in plan.event.events]  # type: ignore[union-attr]
    assert len({type(each) for each in events}) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("linear:1:0.5:3", ((1, 1.0), (1, 0.75), (1, 0.5))),
        ("stairs:0.5:2", ((1, 1.0), (1, 0.5))),
        ("exponential:4:1:3", ((1, 4.0), (1, 2.0), (1, 1.0))),
        ("100:1,50:0.7", ((100, 1.0), (50, 0.7))),
    ],
)
def test_schedules_in_words(text: str, parts: Any) -> None:
    assert Schedule.parse(text).parts == parts
    assert len(Schedule.parse("linear:1:0.5").parts) == 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linear",
        "linear:1",
        "rising:1:2",
        "1:0",
        "0:1",
        "1:nan",
        "1:inf",
        "1:1,",
        "stairs:0.5:99",
    ],
)
def test_what_is_no_schedule_is_refused_in_words(text: str) -> None:
    with pytest.raises(PlanError):
        Schedule.parse(text)


def test_batches_larger_than_the_data_are_refused() -> None:
    with pytest.raises(PlanError, match="takes the batch size to 2000"):
        scheduled(batch_schedule=Schedule(((1, 1.0), (1, 100.0))))


@pytest.mark.parametrize("mistaken", [[1.0, 0.5], "1:0.5", 0.5])
def test_what_is_no_schedule_is_refused_with_the_mend(mistaken: Any) -> None:
    with pytest.raises(PlanError, match=r"must be a deniable\.Schedule, got .* Schedule\.linear"):
        scheduled(noise_schedule=mistaken)
