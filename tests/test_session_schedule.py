"""Training under a schedule: each step has its own noise, batch size, denominator and event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

import deniable
from deniable.accounting.tally import tally
from deniable.ledger import Ledger

NOISE = deniable.Schedule(((2, 1.0), (1, 3.0)))
BATCH = deniable.Schedule(((1, 1.0), (2, 2.0)))
DATA = torch.randn(100, 30, generator=torch.Generator().manual_seed(0)), torch.zeros(100)


def plan(**changed: Any) -> deniable.Plan:
    given = {"noise_multiplier": 1.0, "steps": 6, "noise_schedule": NOISE, "batch_schedule": BATCH}
    return deniable.Plan(100, 10, delta=1e-3, **{**given, **changed})


def attached(planned: deniable.Plan, **given: Any) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    model = nn.Linear(30, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    private = deniable.attach(model, optimizer, planned, deniable.Clip(0.5), **given)
    return model, optimizer, private


def step(model: nn.Module, optimizer: Any, private: Any, x: torch.Tensor) -> None:
    private.backward(model(x).flatten())
    optimizer.step()


def test_the_ledger_states_each_step_as_what_it_was(tmp_path: Path) -> None:
    planned = plan()
    model, optimizer, private = attached(planned, ledger=tmp_path / "ledger.db", run_id="r")
    for x, _ in private.batches(DATA):
        step(model, optimizer, private, x)
    assert private.spent().epsilon == pytest.approx(planned.epsilon, rel=1e-12)
    private.detach()
    with Ledger(tmp_path / "ledger.db", create=False) as ledger:
        assert tally(ledger.event("r")) == tally(planned.event)
    assert len(tally(planned.event)) == 3


@pytest.mark.parametrize("k", range(6))
def test_noise_and_denominator_are_those_of_the_phase(k: int) -> None:
    """KS on 20,000 values at level 1e-6; a tenth more is rejected."""
    torch.manual_seed(0)
    model = nn.Linear(20_000, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    private = deniable.attach(model, optimizer, plan(), deniable.Clip(0.5), seed=k)
    data = torch.zeros(100, 20_000), torch.zeros(100)
    for number, (x, _) in enumerate(private.batches(data)):
        expected = private.noise_deviation
        step(model, optimizer, private, x)
        if number == k:
            noise, size = (1.0 if k < 4 else 3.0), (10 if k < 2 else 20)
            assert expected == pytest.approx(noise * 0.5 / size)
            grad = model.weight.grad.flatten().numpy() / expected
            assert stats.kstest(grad, "norm").pvalue > 1e-6
            assert stats.kstest(grad / 1.1, "norm").pvalue < 1e-6, "negative control"
        optimizer.zero_grad()


def test_without_noise_sums_are_divided_by_the_expected_size_of_their_phase() -> None:
    model, optimizer, private = attached(plan(noise_multiplier=0.0, noise_schedule=None), seed=1)
    for number, (x, _) in enumerate(private.batches(DATA)):
        step(model, optimizer, private, x)
        rows = x / x.norm(dim=1, keepdim=True).clamp(min=0.5) * 0.5
        expected = rows.sum(0) / (10 if number < 2 else 20)
        torch.testing.assert_close(model.weight.grad[0], expected)
        optimizer.zero_grad()


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut: int) -> None:
    model, optimizer, private = attached(plan(), seed=5, run_id="r")
    for x, _ in private.batches(DATA):
        step(model, optimizer, private, x)
    first, first_optimizer, first_private = attached(plan(), seed=5, run_id="r")
    for x, _ in first_private.batches(DATA, steps=cut):
        step(first, first_optimizer, first_private, x)
    second, second_optimizer, second_private = attached(plan(), seed=5, run_id="r")
    second.load_state_dict(first.state_dict())
    second_private.load_state_dict(first_private.state_dict())
    for x, _ in second_private.batches(DATA):
        step(second, second_optimizer, second_private, x)
    assert second_private.steps == 6
    assert torch.equal(second.weight, model.weight)


def test_a_budget_ends_the_run_within_its_schedule() -> None:
    planned = plan(noise_multiplier=3.0)
    model, optimizer, private = attached(planned, budget=planned.epsilon * 0.8)
    for x, _ in private.batches(DATA):
        step(model, optimizer, private, x)
    assert 0 < private.steps < 6
    assert private.spent().epsilon <= planned.epsilon * 0.8


def test_what_is_reserved_ends_with_the_phase(tmp_path: Path) -> None:
    """Killed at any instant, the ledger states no step of the next phase as one of this."""
    planned, path = plan(), tmp_path / "ledger.db"
    model, optimizer, private = attached(planned, ledger=path, run_id="r")
    for number, (x, _) in enumerate(private.batches(DATA)):
        step(model, optimizer, private, x)
        with Ledger(path, create=False) as ledger:
            assert tally(ledger.event("r")) == tally(planned.part(0, planned.at(number).stop))
