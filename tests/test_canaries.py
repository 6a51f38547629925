"""Canaries are units like others: drawn, bounded, counted and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deniable
from deniable import checkpoint
from deniable.bounds import AdaptiveClip, AutomaticClip, Bound, Chain, Clip, PerLayerClip, Tanh
from deniable.canaries import NORM, Canaries, suggested
from deniable.errors import AttachError, PlanError
from oracles.gradients import clipped_sum, relative_error
from oracles.release import everyone

BOUNDS: dict[str, Callable[[], Bound]] = {
    "Clip": lambda: Clip(0.7),
    "PerLayerClip": lambda: PerLayerClip(1.0),
    "AutomaticClip": lambda: AutomaticClip(),
    "Tanh": lambda: Tanh(),
    "Tanh, then Clip": lambda: Chain(Tanh(2.0, 0.5), Clip(0.7)),
}


def model_and_data(rows: int = 12) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return model, (torch.randn(rows, 4), torch.randint(3, (rows,)))


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def released(
    canaries: Canaries, model: nn.Module, data: Any, bound: Bound, **plan: Any
) -> dict[str, Tensor]:
    """One release at noise 0 on everyone, at the scale of a sum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    total = len(data[0]) + canaries.gradients
    plan = {"noise_multiplier": 0.0, "steps": 1, "delta": 1e-3} | plan
    private = deniable.attach(
        model,
        optimizer,
        deniable.Plan(examples=total, batch_size=total, **plan),
        bound,
        canaries=canaries,
        seed=0,
    )
    everyone(private)
    rows = len(data[0])
    for inputs, labels in private.batches(data):
        if len(inputs):
            loss_of(model, inputs, labels).backward()
        optimizer.step()
    private.detach()
    return {name: each.grad * rows for name, each in model.named_parameters()}


def test_a_clipped_sum_is_that_of_the_data_and_of_the_canaries_that_are_in() -> None:
    """Against the oracle for the data, and one coordinate after another for the canaries."""
    model, data = model_and_data()
    canaries = Canaries(model, 20, seed=3)
    found = released(canaries, model, data, Clip(0.7))
    expected = {name: each.clone() for name, each in clipped_sum(model, data, loss_of, 0.7).items()}
    flat = torch.cat([each.flatten() for each in expected.values()])
    for where, sign, inside in zip(canaries._where, canaries._signs, canaries.inside, strict=True):
        flat[where] += 0.7 * sign * inside
    sizes = [each.numel() for each in expected.values()]
    parts = dict(zip(expected, flat.split(sizes), strict=True))
    shaped = {name: parts[name].view(each.shape) for name, each in expected.items()}
    assert relative_error(found, shaped) < 1e-5
    assert 0 < canaries.inside.sum() < 20


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("broken", [False, True], ids=["finite", "not finite"])
def test_one_canary_moves_a_sum_by_no_more_than_the_sensitivity(name: str, broken: bool) -> None:
    """Neighbours: the same canaries, one of them in or out; a row of NaN among the data."""
    model, data = model_and_data()
    if broken:
        data[0][3] = math.nan
    bound = BOUNDS[name]
    allowed = bound().sensitivity(dict(model.named_parameters())).value
    canaries = Canaries(model, 20, seed=3)
    before = released(canaries, model, data, bound())
    inside = canaries.inside.copy()
    inside[7] = not inside[7]
    neighbour = Canaries(model, 20, seed=3, inside=inside)
    after = released(neighbour, model, data, bound())
    moved = math.sqrt(sum(float((after[k] - before[k]).square().sum()) for k in before))
    assert 0 < moved <= allowed * (1 + 1e-5)


@pytest.mark.parametrize("name", ["Clip", "PerLayerClip", "AutomaticClip"])
def test_a_canary_is_as_large_as_the_bound_lets_through(name: str) -> None:
    """Where each layer has its own share, a canary has that of its layer."""
    model, data = model_and_data()
    canaries = Canaries(model, 1, inside=np.array([True]))
    before = released(Canaries(model, 1, inside=np.array([False])), model, data, BOUNDS[name]())
    after = released(canaries, model, data, BOUNDS[name]())
    moved = sum(float((after[k] - before[k]).square().sum()) for k in before) ** 0.5
    layers = 4 if name == "PerLayerClip" else 1
    allowed = BOUNDS[name]().sensitivity(dict(model.named_parameters())).value
    assert moved == pytest.approx(allowed / layers**0.5, rel=1e-3)


def test_what_is_replaced_has_the_opposite_in_its_place() -> None:
    """Under "replace" the sum of one canary in and of it out differ by twice the bound."""
    model, data = model_and_data()
    plan = {"sampling": "fixed-size", "neighbouring": "replace"}
    sums = [
        released(
            Canaries(model, 1, seed=1, inside=np.array([side])), model, data, Clip(0.7), **plan
        )
        for side in (1, 0)
    ]
    moved = sum(float((sums[0][k] - sums[1][k]).square().sum()) for k in sums[0]) ** 0.5
    assert moved == pytest.approx(1.4, rel=1e-4)


def test_example_canaries_that_are_out_are_never_read() -> None:
    model, data = model_and_data()
    canaries = Canaries(model, 0, examples=5, inside=np.array([1, 0, 1, 0, 0], dtype=bool))
    seen = canaries.split(np.arange(12), 12)[0].tolist()
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    kept = [each[seen] for each in data]
    expected = clipped_sum(model, kept, loss_of, 0.7)
    assert relative_error(released(canaries, model, data, Clip(0.7)), expected) < 1e-5


def trained(steps: int, stop: int | None = None, folder: Any = None) -> Canaries:
    """Canaries after a run under a seed, saved and resumed at a step if asked."""
    model, data = model_and_data(40)
    for start in (0,) if stop is None else (0, stop):
        model, _ = model_and_data(40)
        canaries = Canaries(model, 30, seed=None if start else 5)
        plan = deniable.Plan(70, 20, steps=steps, noise_multiplier=1.0, delta=1e-3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        private = deniable.attach(model, optimizer, plan, seed=5, run_id="run", canaries=canaries)
        if start:
            private.load_state_dict(checkpoint.load(folder))
        for inputs, labels in private.batches(data, steps=None if start else stop):
            if len(inputs):
                loss_of(model, inputs, labels).backward()
            optimizer.step()
        if stop is not None and not start:
            checkpoint.save(folder, private.state_dict())
        private.detach()
    return canaries


def test_a_resumed_run_scores_as_one_that_was_never_stopped(tmp_path: Any) -> None:
    whole, resumed = trained(6), trained(6, stop=2, folder=tmp_path / "checkpoint")
    assert (whole.inside == resumed.inside).all()
    assert (whole.scores == resumed.scores).all()
    assert whole.scores.any()


def test_coins_are_fair_and_of_the_audits_own_stream() -> None:
    """Of 4,000 coins the share in is off by 5% in 1 of 10 billion."""
    model, _ = model_and_data()
    many = Canaries(model, 0, examples=4000)
    assert 0.45 < many.inside.mean() < 0.55
    again = [Canaries(model, 20, seed=1).inside for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_statistics_are_of_the_data_alone() -> None:
    model, data = model_and_data()
    canaries = Canaries(model, 20, inside=np.ones(20, dtype=bool))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = deniable.Plan(32, 32, steps=1, noise_multiplier=1.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan, canaries=canaries)
    for inputs, labels in private.batches(data):
        loss_of(model, inputs, labels).backward()
        optimizer.step()
    assert private.statistics["units"] == 12
    assert private.statistics["mean_norm"] < NORM / 100


def test_a_plan_must_count_its_canaries() -> None:
    model, data = model_and_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = deniable.Plan(12, 4, steps=1, noise_multiplier=1.0, delta=1e-3)
    with pytest.raises(AttachError, match=r"examples=len\(data\) \+ canaries"):
        deniable.attach(model, optimizer, plan, canaries=Canaries(model, 20))
    private = deniable.attach(model, optimizer, plan, canaries=Canaries(model, 5))
    with pytest.raises(PlanError, match="17"):
        list(private.batches(data))


def test_what_canaries_do_not_fit_is_refused() -> None:
    model, _ = model_and_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = deniable.Plan(32, 8, steps=1, noise_multiplier=1.0, delta=1e-3)

    def attached(**options: Any) -> None:
        deniable.attach(model, optimizer, canaries=Canaries(model, 20), **options)

    with pytest.raises(AttachError, match="follows the norms"):
        attached(plan=plan, bound=AdaptiveClip(1.0))
    with pytest.raises(AttachError, match="mixes units"):
        attached(plan=plan, unit=deniable.Microbatch(2))
    own = deniable.Plan(32, 8, steps=1, noise_multiplier=1.0, delta=1e-3, sampling="own-loader")
    with pytest.raises(AttachError, match="your own loader"):
        attached(plan=own)
    with pytest.raises(AttachError, match="one for each coordinate"):
        Canaries(model, 10_000)
    assert suggested(model) == 51 // 4


def test_canaries_of_another_model_or_of_an_earlier_training_are_refused() -> None:
    model, batch = model_and_data()
    plan = deniable.Plan(32, 32, steps=1, noise_multiplier=1.0, delta=1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(AttachError, match="made for another model"):
        deniable.attach(model, optimizer, plan, canaries=Canaries(nn.Linear(4, 3), 5))
    canaries = Canaries(model, 20)
    private = deniable.attach(model, optimizer, plan, canaries=canaries)
    for inputs, labels in private.batches(batch):
        loss_of(model, inputs, labels).backward()
        optimizer.step()
    private.detach()
    with pytest.raises(AttachError, match="in a training already"):
        deniable.attach(model, optimizer, plan, canaries=canaries)
