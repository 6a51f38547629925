"""Steps that fail, and processes that should not step: nothing is released twice."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deniable
from deniable.errors import AttachError, BudgetError, LedgerError, StepError
from deniable.ledger import Ledger
from deniable.plan import Plan

PLAN = Plan(40, 40, steps=8, noise_multiplier=1.0, delta=1e-3)
DATA = torch.arange(160.0).view(40, 4) / 100


class Releases:
    """A session whose releases are kept; its noise can be made to fail."""

    def __init__(self, ledger: Ledger | Path | None = None, plan: Plan = PLAN) -> None:
        self.model = nn.Linear(4, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.private = deniable.attach(self.model, self.optimizer, plan, ledger=ledger, run_id="r")
        self.fails = False
        draw = self.private._generator.normal

        def normal(*given: Any, **named: Any) -> Tensor:
            if self.fails:
                raise torch.OutOfMemoryError("no memory for noise")
            return draw(*given, **named)

        self.private._generator.normal = normal  # type: ignore[method-assign]

    def step(self, rows: Tensor) -> Tensor:
        self.model(rows).sum(1).mean().backward()
        self.optimizer.step()
        assert self.model.weight.grad is not None
        found = self.model.weight.grad * 40
        self.optimizer.zero_grad()
        return found


def test_a_refused_step_ends_the_pass_and_its_batch_comes_first_in_the_next() -> None:
    """Else its sum would be released with the next batch's, or another batch under its noise."""
    with Ledger(None) as ledger:
        ledger.set_budget(0.01, delta=1e-3)
        with pytest.raises(BudgetError):
            Releases(ledger)
        ledger.set_budget(PLAN.epsilon, delta=1e-3)
        loop = Releases(ledger)
        ledger.set_budget(0.01, delta=1e-3)
        passes = loop.private.batches(DATA)
        drawn = loop.private._source.state
        for _ in range(1):
            with pytest.raises(BudgetError):
                loop.step(next(passes))
        with pytest.raises(StepError, match="a step was refused"):
            next(passes)
        assert loop.private._source.state == drawn and loop.private.steps == 0
        ledger.set_budget(PLAN.epsilon, delta=1e-3)
        for rows in loop.private.batches(DATA, steps=1):
            released = loop.step(rows)
        assert len(rows) == 40
        # A sum of 40 units within the bound of 1, and noise of deviation 1 in 4 coordinates.
        assert float(released.norm()) < 40 + 10


def test_after_an_interrupted_release_only_a_saved_state_or_fresh_noise_goes_on() -> None:
    loop = Releases()
    saved = loop.private.state_dict()
    passes = loop.private.batches(DATA)
    loop.fails = True
    with pytest.raises(torch.OutOfMemoryError):
        loop.step(next(passes))
    loop.fails = False
    for again in (passes, loop.private.batches(DATA)):
        with pytest.raises(StepError, match="interrupted a release"):
            next(again)
    loop.private.load_state_dict(saved, replay=True)
    for rows in loop.private.batches(DATA, steps=1):
        loop.step(rows)
    loop.fails = True
    passes = loop.private.batches(DATA)
    with pytest.raises(torch.OutOfMemoryError):
        loop.step(next(passes))
    loop.private.go_on()
    assert loop.private.steps > 1  # what is on record is spent


def test_nothing_is_handed_out_after_detach() -> None:
    loop = Releases()
    passes = loop.private.batches(DATA)
    loop.step(next(passes))
    loop.private.detach()
    loop.private.detach()  # as in `finally`
    for again in (passes, loop.private.batches(DATA)):
        with pytest.raises(StepError, match="detached"):
            next(again)


def test_an_optimizer_is_attached_once_at_a_time() -> None:
    loop = Releases()
    with pytest.raises(AttachError, match="attached already"):
        deniable.attach(loop.model, loop.optimizer, PLAN)
    loop.private.detach()
    deniable.attach(loop.model, loop.optimizer, PLAN).detach()


def test_a_hook_on_a_parameter_is_refused() -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.weight.register_hook(lambda grad: grad * 0)  # type: ignore[no-untyped-call]
    with pytest.raises(AttachError, match="'weight' has a hook"):
        deniable.attach(model, optimizer, PLAN)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_does_not_release_with_the_noise_of_its_parent(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        run = ledger.run("r", planned=10)
        run.release(PLAN.event)
        context = multiprocessing.get_context("fork")
        said = context.SimpleQueue()

        def child() -> None:
            try:
                run.release(PLAN.event)
            except LedgerError as problem:
                said.put(str(problem))
            else:
                said.put("released")

        process = context.Process(target=child)
        process.start()
        assert "another process, from which this one was forked" in said.get()
        process.join()
        run.release(PLAN.event)


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_of_nothing_is_refused(block: int) -> None:
    with Ledger(None) as ledger, pytest.raises(ValueError, match="at least 1 step"):
        ledger.run("r", planned=10, block=block)


def test_steps_recorded_at_once_are_one_at_least() -> None:
    loop = Releases()
    loop.private.at_once = -1
    for rows in loop.private.batches(DATA):
        loop.step(rows)
    assert loop.private.claim().epsilon == pytest.approx(PLAN.epsilon)


def test_an_epoch_that_is_begun_anew_counts_within_the_budget(tmp_path: Path) -> None:
    """Two epochs are planned; half of one, and a whole one, are as many."""
    plan = Plan(40, 4, steps=20, noise_multiplier=5.0, delta=1e-3, sampling="shuffled")
    loop = Releases(tmp_path / "ledger", plan)
    for rows in loop.private.batches(DATA, steps=5):
        loop.step(rows)
    loop.private.detach()
    loop = Releases(tmp_path / "ledger", plan)
    loop.private.go_on()
    assert loop.private.ends_at == 15
    told = loop.private.spent_at_most(ahead=1).epsilon
    for rows in loop.private.batches(DATA, steps=1):
        loop.step(rows)
    assert loop.private.spent().epsilon <= told * (1 + 1e-9)
    for rows in loop.private.batches(DATA):
        loop.step(rows)
    assert loop.private.steps == 15
    assert loop.private.spent().epsilon <= plan.epsilon * (1 + 1e-9)
