"""A plan beside its neighbours: more noise, more epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deniable.accounting import spent
from deniable.errors import SettingsError
from deniable.plan import Plan, Schedule
from deniable.plan.trade import trade
from deniable.report.trade import draw_trade

PLAN = Plan(10_000, 100, epochs=10, noise_multiplier=1.1, delta=1e-5)


def test_epsilon_falls_with_noise_and_grows_with_length() -> None:
    found = np.array(trade(PLAN).epsilons)
    assert (np.diff(found, axis=0) < 0).all()
    assert (np.diff(found, axis=1) > 0).all()


def test_the_plan_itself_is_among_them() -> None:
    found = trade(PLAN)
    row, column = found.noise_multipliers.index(1.1), found.steps.index(PLAN.steps)
    assert found.epochs[column] == 10
    assert found.epsilons[row][column] == PLAN.epsilon


@pytest.mark.parametrize("given", [{}, {"accountant": "rdp"}, {"sampling": "shuffled"}], ids=str)
def test_every_other_is_a_bound_close_to_the_plan_that_it_would_be(given: dict[str, str]) -> None:
    plan = Plan(1_000, 50, steps=40, noise_multiplier=5.0, delta=1e-4, **given)  # type: ignore[arg-type]
    found = trade(plan, [0.5, 2.0], [0.5, 1.0])
    for noise, row in zip(found.noise_multipliers, found.epsilons, strict=True):
        for steps, epsilon in zip(found.steps, row, strict=True):
            exact = spent(plan.event_with(noise, steps), 1e-4, plan.accountant).epsilon
            assert exact * (1 - 1e-12) <= epsilon <= 1.015 * exact


def test_a_schedule_is_kept() -> None:
    falling = Plan(
        10_000, 100, epochs=10, noise_multiplier=1.1, delta=1e-5,
        noise_schedule=Schedule.linear(1.0, 0.5),
    )  # fmt: skip
    [[found, longer]] = trade(falling, [1.0], [1.0, 2.0]).epsilons
    assert found == falling.epsilon > PLAN.epsilon
    assert longer >= spent(falling.event_with(1.1, 2 * falling.steps), 1e-5).epsilon > found


def test_the_figure_marks_the_plan_and_names_every_curve(tmp_path: Path) -> None:
    path = tmp_path / "trade.svg"
    draw_trade(PLAN, path)
    drawn = path.read_text(encoding="utf-8")
    for said in ("the plan", "10 epochs", "20 epochs", "noise 1.10", "noise multiplier"):
        assert f">{said}<" in drawn
    draw_trade(PLAN, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == drawn


def test_a_plan_without_noise_has_nothing_to_draw(tmp_path: Path) -> None:
    bare = Plan(100, 10, steps=5, noise_multiplier=0.0, delta=1e-5)
    with pytest.raises(SettingsError, match="nothing to draw"):
        draw_trade(bare, tmp_path / "bare.svg")
