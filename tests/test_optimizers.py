"""AdamBC: Adam without what noise adds to its second moment."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import deniable
from deniable.bounds import AdaptiveClip
from deniable.optimizers import AdamBC


def formula(
    gradients: np.ndarray,  # type: ignore[type-arg]
    deviations: list[float],
    lr: float,
    betas: tuple[float, float],
    floor: float,
) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Weights after each step, by sums over all steps before it, in place of running averages."""
    weight, found = np.zeros(gradients.shape[1]), []
    for step in range(1, len(gradients) + 1):
        ages = np.arange(step - 1, -1, -1)
        first = (1 - betas[0]) * betas[0] ** ages / (1 - betas[0] ** step)
        second = (1 - betas[1]) * betas[1] ** ages / (1 - betas[1] ** step)
        mean = first @ gradients[:step]
        square = second @ gradients[:step] ** 2 - second @ np.array(deviations[:step]) ** 2
        weight = weight - lr * mean / np.sqrt(np.maximum(square, floor))
        found.append(weight)
    return found


@pytest.mark.parametrize("deviations", [[0.4] * 30, list(np.linspace(0.0, 0.8, 30))])
def test_it_follows_the_formula(deviations: list[float]) -> None:
    generator = np.random.default_rng(0)
    gradients = generator.normal(0.3, 1.0, (30, 5))
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = AdamBC([weight], lr=0.05, betas=(0.8, 0.95), floor=1e-3)
    expected = formula(gradients, deviations, 0.05, (0.8, 0.95), 1e-3)
    for gradient, deviation, after in zip(gradients, deviations, expected, strict=True):
        weight.grad = torch.tensor(gradient)
        optimizer.param_groups[0]["noise_deviation"] = deviation
        optimizer.step()
        np.testing.assert_allclose(weight.detach().numpy(), after, rtol=1e-10)


def test_without_noise_it_is_adam() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(7)) for _ in range(2)]
    ours, theirs = (
        AdamBC([weights[0]], lr=0.01, floor=1e-20),
        torch.optim.Adam([weights[1]], lr=0.01),
    )
    for _ in range(20):
        weights[0].grad = weights[1].grad = torch.randn(7)
        ours.step()
        theirs.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_it_takes_the_steps_that_adam_takes_without_noise() -> None:
    """Noise ten times the gradient: Adam's steps shrink tenfold, the corrected ones do not."""
    generator = torch.Generator().manual_seed(0)
    ends = []
    for make in (
        lambda each: AdamBC([each], lr=0.01, betas=(0.9, 0.9999), floor=2e-3, noise_deviation=1.0),
        lambda each: torch.optim.Adam([each], lr=0.01, betas=(0.9, 0.9999)),
    ):
        weight = nn.Parameter(torch.zeros(200))
        optimizer = make(weight)
        for _ in range(2000):
            weight.grad = 0.1 + torch.randn(200, generator=generator)
            optimizer.step()
        ends.append(-float(weight.detach().mean()))
    assert ends[1] < 0.15 * 2000 * 0.01
    assert ends[0] > 4 * ends[1]


def attached(bound: deniable.Bound | None = None, unit: deniable.Unit | None = None):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = AdamBC(model.parameters(), lr=0.1)
    plan = deniable.Plan(100, 20, steps=4, noise_multiplier=1.5, delta=1e-3)
    return model, optimizer, deniable.attach(model, optimizer, plan, bound, unit=unit)


def train(model, optimizer, private):  # type: ignore[no-untyped-def]
    data = (torch.randn(100, 3), torch.arange(100) % 2)
    for inputs, labels in private.batches(data):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        before = private.noise_deviation
        optimizer.step()
        yield before, optimizer.param_groups[0]["noise_deviation"]


def test_a_session_tells_it_the_deviation_of_what_it_releases() -> None:
    found = list(train(*attached(deniable.Clip(0.7))))
    assert found == [(pytest.approx(1.5 * 0.7 / 20),) * 2] * 4


def test_it_follows_a_threshold_that_adapts() -> None:
    found = list(train(*attached(AdaptiveClip(0.7))))
    assert all(before == told for before, told in found)
    assert len({told for _, told in found}) == 4


def test_microbatches_count_twice_and_divide_by_their_number() -> None:
    _, _, private = attached(unit=deniable.Microbatch(4))
    assert private.noise_deviation == pytest.approx(1.5 * 2 * 1.0 / 5)


def test_the_deviation_of_the_noise_in_grad_is_the_one_that_is_told() -> None:
    """A chi-square test of 40,000 values on an empty batch, at level 1e-6."""
    from scipy import stats

    from oracles.release import no_one

    model = nn.Linear(200, 200)
    optimizer = AdamBC(model.parameters(), lr=0.0)
    plan = deniable.Plan(100, 20, steps=1, noise_multiplier=1.5, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    no_one(private)
    for inputs in private.batches(torch.randn(100, 200)):
        model(inputs).sum().backward()
        optimizer.step()
    told = optimizer.param_groups[0]["noise_deviation"]
    total = float((model.weight.grad.double() / told).square().sum())
    assert 5e-7 < stats.chi2.sf(total, 40_000) < 1 - 5e-7


def test_other_optimizers_are_told_nothing() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adagrad(model.parameters())
    plan = deniable.Plan(100, 20, steps=1, noise_multiplier=1.5, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    data = (torch.randn(100, 3), torch.arange(100) % 2)
    for inputs, labels in private.batches(data):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert "noise_deviation" not in optimizer.param_groups[0]


def test_a_saved_optimizer_goes_on_as_it_was() -> None:
    weights = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    first = AdamBC([weights[0]], lr=0.1, noise_deviation=0.2)
    gradients = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    for gradient in gradients[:3]:
        weights[0].grad = gradient
        first.step()
    weights[1].data.copy_(weights[0].data)
    second = AdamBC([weights[1]])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for gradient in gradients[3:]:
        for weight, optimizer in zip(weights, (first, second), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"betas": (0.9, 1.0)},
        {"floor": 0.0},
        {"noise_deviation": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        AdamBC([nn.Parameter(torch.zeros(1))], **wrong)  # type: ignore[arg-type]
