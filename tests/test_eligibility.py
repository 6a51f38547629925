"""What `attach` refuses, or warns of, before anything is made private."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import deniable
from deniable.errors import AttachError, DeniableWarning


def attach(delta: float = 1e-3, noise_multiplier: float = 1.0, **changed: Any) -> Any:
    model = nn.Linear(4, 2)
    given = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "plan": deniable.Plan(100, 10, steps=5, noise_multiplier=noise_multiplier, delta=delta),
    }
    return deniable.attach(**(given | changed))


def test_a_layer_without_a_shape_is_refused_by_name() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(AttachError, match=r"'0\.weight' has no shape yet"):
        attach(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bound", 1.0, r"bound must be a deniable Bound, got 1\.0\. Clip\(1\.0\)"),
        ("bound", 0.0, r"bound must be a deniable Bound, got 0\.0\."),
        ("bound", deniable.Clip, r"got the class Clip"),
        ("unit", "user", r"unit must be a deniable Unit, got 'user'\. User\(ids\)"),
        ("plan", {"epsilon": 3.0}, r"plan must be a deniable Plan, got {'epsilon': 3\.0}\. Make"),
        ("ledger", 5, r"ledger must be a deniable Ledger or .* or None, got 5\. A path"),
        ("run_id", 7, r"run_id must be a str or None, got 7\."),
        ("canaries", 3, r"canaries must be a deniable Canaries or None, got 3\. Canaries\(model\)"),
        ("optimizer", nn.Linear(4, 2).parameters(), r"optimizer must be a torch Optimizer, got"),
        ("optimizer", torch.optim.SGD, r"got the class SGD\. Make one of the model's parameters"),
    ],
)
def test_what_is_of_another_type_is_refused_with_the_mend(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(AttachError, match=message):
        attach(**{name: value})


def test_a_model_and_an_optimizer_in_each_others_place_are_refused() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(AttachError, match=r"The order is attach\(model, optimizer, plan\)"):
        attach(model=optimizer, optimizer=model)


def test_a_delta_that_permits_to_publish_an_example_is_warned_of() -> None:
    with pytest.warns(DeniableWarning, match=r"0\.01, not below 1 / examples") as found:
        attach(delta=0.01)
    assert len(found) == 1


@pytest.mark.parametrize(("delta", "noise"), [(0.0099, 1.0), (0.01, 0.0)])
def test_nothing_is_said_of_a_smaller_delta_or_where_nothing_is_claimed(
    delta: float, noise: float
) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        attach(delta, noise)
    assert said == []
