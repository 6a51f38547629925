"""Going on without repeating: what was released stays spent, and no noise comes twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deniable
from deniable.bounds import Clip
from deniable.errors import CheckpointError
from deniable.grouping import Example
from deniable.ledger import Ledger
from deniable.plan import Plan, Schedule
from deniable.session import PrivateSession

PLAN = Plan(50, 5, steps=8, noise_multiplier=1.0, delta=1e-3)
DATA = torch.ones(50, 300)


def session(ledger: Path, seed: int | None = 3) -> tuple[PrivateSession, Any]:
    model = nn.Linear(300, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    private = PrivateSession(
        model, optimizer, PLAN, Clip(1.0), Example(), ledger, "run", "mean", PLAN.epsilon, seed,
        False,
    )  # fmt: skip
    return private, (model, optimizer)


def noise(private: PrivateSession, made: Any, steps: int) -> list[Tensor]:
    """The releases of a loss without gradient."""
    model, optimizer = made
    found = []
    for rows in private.batches(DATA, steps=steps):
        (model(rows) * 0).sum().backward()
        before = model.weight.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        found.append(before - model.weight.detach())
    return found


@pytest.mark.parametrize("seed", [3, None])
def test_after_a_crash_nothing_is_drawn_again_and_everything_is_stated(
    tmp_path: Path, seed: int | None
) -> None:
    ledger, seen = tmp_path / "ledger", list[Tensor]()
    for life in range(3):
        private, made = session(ledger, seed)
        private.at_once = 1
        private.go_on()
        assert private.steps == 2 * life
        seen += noise(private, made, 2)
        # No detach: the process is gone.
    with Ledger(ledger, create=False) as book:
        assert book.runs()[0].steps == 6
    released = torch.stack(seen).flatten(1)
    similar = torch.corrcoef(released) - torch.eye(6)
    # Correlations of 300 coordinates: 6 standard deviations, at 15 pairs a false failure of 3e-8.
    assert float(similar.abs().max()) < 6 / 300**0.5


def test_the_same_seed_without_going_on_would_repeat_its_noise(tmp_path: Path) -> None:
    """The negative control of the test above."""
    first, second = (noise(*session(tmp_path / name), 1)[0] for name in "ab")
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_a_state_of_more_steps_than_the_ledger_counts_is_refused(tmp_path: Path) -> None:
    private, made = session(tmp_path / "a")
    noise(private, made, 3)
    other, _ = session(tmp_path / "b")
    with pytest.raises(CheckpointError, match="not the ledger"):
        other.go_on(private.state_dict())


def test_the_plan_ends_where_it_would_have(tmp_path: Path) -> None:
    private, made = session(tmp_path / "a")
    private.at_once = 1
    noise(private, made, 5)
    again, made = session(tmp_path / "a")
    again.go_on(private.state_dict())
    assert len(noise(again, made, 99)) == 3
    again.detach()
    with Ledger(tmp_path / "a", create=False) as book:
        assert book.event() == PLAN.event


def test_a_loader_that_was_made_before_draws_what_is_due_after() -> None:
    """It would begin the plan's noise anew, and spend more than the run's budget."""
    louder = Schedule(((2, 0.25), (6, 1.0)))
    plan = Plan(50, 5, steps=8, noise_multiplier=2.0, delta=1e-3, noise_schedule=louder)
    model = nn.Linear(300, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, plan)
    loader, seen = private.loader(DATA, steps=4), []
    for _ in range(2):
        for (rows,) in loader:
            model(rows).mean().backward()
            seen.append(private.noise_deviation * private.denominator)
            optimizer.step()
            optimizer.zero_grad()
        private.go_on()
    assert seen == [0.5] * 2 + [2.0] * 6
    assert private.spent().epsilon == pytest.approx(plan.epsilon)
