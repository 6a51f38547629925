"""An argument of a wrong kind is refused by what takes it: what was expected, and what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import deniable
from deniable.bounds import Chain, Clip
from deniable.canaries import Canaries
from deniable.errors import AttachError, BudgetError, CheckpointError, PlanError
from deniable.grouping import Augmented
from deniable.ledger import Ledger
from deniable.plan import Plan

Act = Callable[[Any], Any]


def attached() -> deniable.PrivateSession:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return deniable.attach(model, optimizer, Plan(8, 4, steps=2, noise_multiplier=1.0, delta=1e-3))


def drawn(**arguments: Any) -> Any:
    return next(iter(attached().batches(torch.zeros(8, 4), **arguments)))


WRONG: dict[str, tuple[Act, Any, type[Exception], str]] = {
    "a bound by its name": (Chain, "clip", ValueError, "made of bounds, got 'clip'"),
    "a bound's class": (lambda each: Chain(each, Clip(1.0)), Clip, ValueError, "made of bounds"),
    "a transform by its name": (
        lambda each: Augmented(2, each), "flip", PlanError, "function of a batch's inputs",
    ),
    "rows as text": (lambda each: drawn(rows=each), "4", PlanError, "rows.*whole number.*'4'"),
    "rows and a half": (lambda each: drawn(rows=each), 1.5, PlanError, "rows.*whole number.*1.5"),
    "fewer steps than none": (lambda each: drawn(steps=each), -1, PlanError, "steps.*at least 0"),
    "steps as text": (lambda each: drawn(steps=each), "all", PlanError, "steps.*'all'"),
    "a budget as text": (
        lambda each: Ledger(None).set_budget(each, 1e-5), "3", BudgetError, "two numbers.*'3'",
    ),
    "canaries in a folder": (Canaries, "model", AttachError, r"torch\.nn\.Module, got 'model'"),
    "canaries as text": (
        lambda each: Canaries(nn.Linear(2, 2), each), "4", AttachError, "whole numbers.*'4'",
    ),
    "half a canary": (
        lambda each: Canaries(nn.Linear(2, 2), examples=each), 0.5, AttachError, "whole numbers",
    ),
    "no model": (deniable.replace_batchnorm, None, AttachError, r"torch\.nn\.Module, got None"),
    "no state": (
        lambda each: attached().load_state_dict(each), None, CheckpointError, "state_dict.*None",
    ),
    "no state to go on from": (
        lambda each: attached().go_on(each), "state.pt", CheckpointError, "state_dict.*'state.pt'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_of_a_wrong_kind_is_refused_by_name(name: str) -> None:
    act, argument, error, says = WRONG[name]
    with pytest.raises(error, match=says):
        act(argument)


def test_numbers_of_numpy_are_numbers() -> None:
    number = torch.tensor(3).numpy()[()]
    assert len(drawn(rows=number, steps=number)) <= 3
    assert len(Canaries(nn.Linear(2, 2), number)) == 3
    Ledger(None).set_budget(torch.tensor(3.0).numpy()[()], 1e-5)
