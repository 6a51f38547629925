"""The tanh filter: what it may claim, what its source claims, and its use without privacy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import deniable
from deniable.accounting import spent
from deniable.bounds import Bound, Chain, Clip, Tanh
from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.noise import Gaussian
from deniable.units import Neighbouring


def attached(bound: Bound, noise: float = 1.0, **plan: object):  # type: ignore[no-untyped-def]
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = deniable.Plan(100, 10, steps=20, noise_multiplier=noise, delta=1e-3, **plan)  # type: ignore[arg-type]
    return model, optimizer, deniable.attach(model, optimizer, made, bound)


N = 3 * 5 + 5 + 5 * 2 + 2


def test_the_claim_uses_the_root_of_the_number_of_coordinates() -> None:
    _, _, private = attached(Tanh(output_range=0.5))
    assert private.sensitivity.value == pytest.approx(0.5 * math.sqrt(N))
    assert private.bound_settings["sensitivity"] == private.sensitivity.value


def test_what_is_released_carries_that_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, private = attached(Tanh(output_range=0.5))
    seen = []
    add = Gaussian.add
    monkeypatch.setattr(
        Gaussian, "add", lambda *args: seen.append(args[1].sensitivity) or add(*args)
    )
    data = (torch.randn(100, 3), torch.zeros(100).long())
    for inputs, labels in private.batches(data, steps=1):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert seen == [private.sensitivity]


@pytest.mark.parametrize("neighbouring", list(Neighbouring))
def test_the_convention_of_the_paper_is_shown_beside_it_as_no_guarantee(
    neighbouring: Neighbouring,
) -> None:
    """At deviation 1.1, which the paper takes for a noise multiplier of 1.1."""
    bound = Tanh(output_range=0.5)
    noise = 1.1 / (0.5 * math.sqrt(N))
    model, optimizer, private = attached(bound, noise, neighbouring=neighbouring)
    data = (torch.randn(100, 3), torch.zeros(100).long())
    for inputs, labels in private.batches(data):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    nominal, claim = private.nominal_spent(), private.spent()
    step = PoissonSampledEvent(0.1, GaussianEvent(1.1, neighbouring))
    assert nominal.epsilon == pytest.approx(spent(SelfComposedEvent(step, 20), 1e-3).epsilon)
    assert claim.epsilon > 2 * nominal.epsilon
    assert "not a guarantee" in nominal.notes[-1]
    assert not any("nominal" in note.lower() for note in claim.notes)


@pytest.mark.parametrize("bound", [Clip(1.0), Chain(Tanh(), Clip(1.0))], ids=repr)
def test_where_the_source_says_what_holds_nothing_is_nominal(bound: Bound) -> None:
    _, _, private = attached(bound)
    assert private.nominal_spent() is None
    assert "nominal_sensitivity" not in private.bound_settings
    assert private.sensitivity.value == 1.0


def test_equation_4_of_the_paper_is_an_active_range_of_2() -> None:
    x = torch.linspace(-9, 9, 101, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(101, dtype=torch.float64))
    weight.grad = x.clone()
    Tanh(active_range=2.0).filter_([weight])
    torch.testing.assert_close(weight.grad, (1 - torch.exp(-x)) / (1 + torch.exp(-x)))


def test_without_noise_it_filters_gradients_in_place() -> None:
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
    weights[0].grad = torch.tensor([1e30, -math.inf, 0.2])
    Tanh(output_range=2.0, active_range=0.5).filter_(weights)
    torch.testing.assert_close(weights[0].grad, torch.tensor([2.0, -2.0, 2 * math.tanh(0.4)]))
    assert weights[1].grad is None


def test_it_cures_exploding_gradients() -> None:
    """A linear recurrence that doubles in each of 20 steps shall count to 1.

    The gradients begin near a million: plain SGD diverges; the filter arrives.
    """

    def trained(bound: Tanh | None) -> float:
        cell = nn.Parameter(2 * torch.ones(3))
        optimizer = torch.optim.SGD([cell], lr=3e-3)
        for _ in range(1000):
            state = torch.ones(3)
            for _ in range(20):
                state = cell * state
            loss = (state - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if bound is not None:
                bound.filter_([cell])
            optimizer.step()
        return float(loss.detach())

    assert not math.isfinite(trained(None))
    assert trained(Tanh()) < 0.1


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, "1", 1e-50, 1e39])
@pytest.mark.parametrize("name", ["output_range", "active_range"])
def test_a_range_that_is_not_positive_and_finite_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(ValueError, match=f"positive, finite {name}"):
        Tanh(**{name: wrong})  # type: ignore[arg-type]
