"""What a session claims of itself, and what it leaves when its ledger has no room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deniable
from deniable.accounting import spent
from deniable.claim import verify
from deniable.errors import BudgetError
from deniable.events import GaussianEvent
from deniable.ledger import Ledger

PLAN = deniable.Plan(examples=40, batch_size=8, steps=6, noise_multiplier=1.0, delta=1e-3)
DATA = torch.randn(40, 4), torch.randint(3, (40,))


def attached(**options: Any) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, deniable.attach(model, optimizer, PLAN, **options)


def train(model: nn.Module, optimizer: Any, private: Any, steps: int | None = None) -> None:
    for inputs, labels in private.batches(DATA, steps=steps):
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["ledger", None])
def test_a_claim_can_be_had_before_and_after_detaching(tmp_path: Path, name: str | None) -> None:
    model, optimizer, private = attached(ledger=tmp_path / name if name else None)
    train(model, optimizer, private)
    before = private.claim()
    private.detach()
    after = private.claim()
    assert before.epsilon == after.epsilon == PLAN.epsilon
    assert (before.run, before.delta, before.unit) == (private.run_id, 1e-3, "one example")
    if name:
        with Ledger(tmp_path / name, create=False) as book:
            for claim in (before, after):
                assert verify(json.loads(json.dumps(claim.to_json())), book) == ()


def test_a_claim_on_the_way_is_of_the_steps_that_were_taken() -> None:
    """And training goes on after it as if nothing was."""
    model, optimizer, private = attached()
    train(model, optimizer, private, steps=2)
    assert private.claim().epsilon == spent(PLAN.part(0, 2), 1e-3).epsilon
    train(model, optimizer, private)
    assert private.steps == 6
    assert private.claim().epsilon == PLAN.epsilon


def test_a_claim_says_how_its_noise_was_drawn_and_what_it_protects() -> None:
    _, _, private = attached(seed=3, unit=deniable.User(list(range(40))))
    claim = private.claim()
    assert any("came from a seed" in each for each in claim.assumptions)
    assert claim.unit == "one user, with all of their rows"


def test_a_session_whose_ledger_has_no_room_left_can_be_saved(tmp_path: Path) -> None:
    """Nothing of the refused step was released or recorded. Pitfall: privacy 10."""
    with Ledger(tmp_path / "l") as book:
        model, optimizer, private = attached(ledger=book)
        train(model, optimizer, private, steps=2)
        private.claim()  # gives back what was reserved
        book.set_budget(1.05 * spent(PLAN.part(0, 2), 1e-3).epsilon, 1e-3)
        weights = model.weight.clone()
        with pytest.raises(BudgetError, match="Step 2 of run"):
            train(model, optimizer, private)
        assert torch.equal(model.weight, weights)
        assert private.steps == private.state_dict()["steps"] == 2
        assert private.claim().epsilon == spent(PLAN.part(0, 2), 1e-3).epsilon
        book.set_budget(100.0, 1e-3)
        train(model, optimizer, private)
        assert private.steps == 6


def test_statistics_and_training_share_a_ledger_and_their_claims_say_so() -> None:
    """Pitfall: users 12."""
    book = Ledger(None)
    book.release("mean", GaussianEvent(5.0))
    model, optimizer, private = attached(ledger=book)
    train(model, optimizer, private)
    claim = private.claim()
    assert claim.epsilon == PLAN.epsilon < claim.everything
