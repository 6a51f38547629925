"""Modes and parts: what they say, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deniable
from deniable.collaborate import (
    MODES,
    Central,
    Local,
    Mode,
    Shares,
    members,
    mode_from_json,
    sizes_by,
)
from deniable.collaborate.start import check
from deniable.errors import AttachError, CollaborationError, PlanError, SettingsError
from deniable.grouping import Example, Microbatch
from deniable.plan import Plan, Schedule

PLAN = Plan(60, 12, steps=4, noise_multiplier=1.0, delta=1e-3)


@pytest.mark.parametrize("mode", [Central(), Shares(2), Local(), Local(0.1, carry=True)])
def test_a_mode_that_is_written_can_be_read(mode: Mode) -> None:
    assert mode_from_json(mode.to_json()) == mode
    assert mode.name in MODES and mode.guarantee


@pytest.mark.parametrize("values", [{"name": "other"}, {"name": "central", "upload": 0.1}])
def test_a_mode_or_setting_that_is_not_known_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        mode_from_json(values)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(0, 1000))
def test_sizes_add_up_and_follow_the_speeds(speeds: list[float], units: int) -> None:
    sizes = sizes_by(speeds, units)
    assert sum(sizes) == units
    assert all(
        abs(size - units * speed / sum(speeds)) <= 1
        for size, speed in zip(sizes, speeds, strict=True)
    )


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_parts_are_disjoint_and_cover_everything(sizes: list[int]) -> None:
    found = [members(sizes, worker) for worker in range(len(sizes))]
    assert [len(each) for each in found] == sizes
    assert sorted(np.concatenate(found)) == list(range(sum(sizes)))


def test_what_cannot_be_spread_over_workers_is_refused_in_words() -> None:
    bound, unit = deniable.Clip(1.0), Example()
    shuffled = Plan(60, 12, steps=4, noise_multiplier=1.0, delta=1e-3, sampling="shuffled")
    halved = Schedule(((2, 1.0), (2, 0.5)))
    scheduled = Plan(60, 12, steps=4, noise_multiplier=1.0, delta=1e-3, noise_schedule=halved)
    with pytest.raises(PlanError, match="union of Poisson samples"):
        check(shuffled, bound, Central(), unit, 2, None)
    check(scheduled, bound, Central(), unit, 2, None)
    louder = Plan(
        60, 12, steps=4, noise_multiplier=1.0, delta=1e-3, noise_schedule=Schedule(((1, 4.0),))
    )
    for plan in (scheduled, louder):
        for mode in (Shares(), Local()):
            with pytest.raises(PlanError, match="schedule"):
                check(plan, bound, mode, unit, 2, None)
    with pytest.raises(AttachError, match="adapts"):
        check(PLAN, deniable.AdaptiveClip(1.0), Shares(), unit, 2, None)
    with pytest.raises(AttachError, match="Microbatches"):
        check(PLAN, bound, Central(), Microbatch(2), 2, None)
    with pytest.raises(SettingsError, match="below the number of workers"):
        check(PLAN, bound, Shares(2), unit, 2, None)
    with pytest.raises(CollaborationError, match="one process more"):
        check(PLAN, bound, Central(), unit, 0, None)
    for sizes in ([60], [30, 31], [61, -1]):
        with pytest.raises(PlanError, match="sizes"):
            check(PLAN, bound, Central(), unit, 2, sizes)


def test_the_package_is_the_function() -> None:
    from deniable.collaborate import collaborate

    assert callable(deniable.collaborate)
    assert deniable.collaborate.collaborate is collaborate
