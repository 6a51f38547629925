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
    assert found.epsilons[row][column] == spent(PLAN.event, 1e-5, "rdp").epsilon


def test_a_schedule_is_kept() -> None:
    falling = Plan(
        10_000, 100, epochs=10, noise_multiplier=1.1, delta=1e-5,
        noise_schedule=Schedule.linear(1.0, 0.5),
    )  # fmt: skip
    [[found]] = trade(falling, [1.0], [1.0]).epsilons
    assert (
        found
        == spent(falling.event, 1e-5, "rdp").epsilon
        > trade(PLAN, [1.0], [1.0]).epsilons[0][0]
    )


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
