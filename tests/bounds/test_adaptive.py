"""Adaptive clipping: what it learns is paid for, and what it learns is the quantile."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import deniable
from deniable.bounds import AdaptiveClip, Chain, Clip
from deniable.bounds.adaptive import COUNT
from deniable.events import singles
from deniable.gradients.contributions import Dense
from deniable.gradients.per_unit import PerUnitGradients
from oracles.release import everyone

ALPHA = 1e-6  # how often a test of a law fails by chance


def of_norms(norms: list[float]) -> PerUnitGradients:
    table = torch.tensor([[each, 0.0] for each in norms]).view(len(norms), 2)
    return PerUnitGradients(len(norms), {"w": torch.zeros(2)}, {"w": Dense(table)})


def test_the_count_is_summed_beside_the_gradients() -> None:
    bounded, observed = AdaptiveClip(2.0, count_weight=0.1)(of_norms([1.0, 2.0, 2.5, 9.0, 0.0]))
    assert bounded.sums["w"].tolist() == pytest.approx([1 + 2 + 2 + 2, 0])
    assert float(bounded.sums[COUNT]) == pytest.approx(0.2 * (3 - 2))
    assert observed.summary()["clip_fraction"] == pytest.approx(2 / 5)


def test_a_unit_that_is_not_finite_is_not_counted_either_way() -> None:
    """Pitfall: privacy 9."""
    bounded, _ = AdaptiveClip(2.0)(of_norms([math.nan, math.inf, 1.0]))
    assert float(bounded.sums[COUNT]) == pytest.approx(0.2)


def test_the_sensitivity_covers_the_count() -> None:
    """Peers released the count under noise that nothing accounted for. Pitfall: privacy 4."""
    bound = AdaptiveClip(1.0, count_weight=0.5)
    one, none = bound(of_norms([30.0]))[0], bound(of_norms([]))[0]
    moved = math.hypot(
        *(float((one.sums[name] - none.sums[name]).norm()) for name in ("w", COUNT)),
    )
    assert moved == pytest.approx(one.sensitivity.value)
    assert moved > 1.1 * Clip(1.0).sensitivity({}).value, "negative control"


def is_normal(values: Any) -> bool:
    """Of deviation 1 about 0: a chi-square test of both, at level 1e-6."""
    tail = stats.chi2.sf(float((values**2).sum()), len(values))
    return bool(ALPHA / 2 < tail < 1 - ALPHA / 2)


def session(
    bound: deniable.Bound, noise: float = 1.0, steps: int = 3, seed: int | None = None
) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(50, 50, steps=steps, noise_multiplier=noise, delta=1e-3)
    return model, optimizer, deniable.attach(model, optimizer, plan, bound, seed=seed, run_id="r")


DATA = (torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, private: Any, **kwargs: Any) -> None:
    for inputs, labels in private.batches(DATA, **kwargs):
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        private.backward(loss)
        optimizer.step()


def test_the_noise_of_the_count_is_the_plans_and_the_ledger_holds_one_gaussian_a_step() -> None:
    """The count's noise has the released sum's deviation (level 1e-6). Pitfall: privacy 4."""
    found = []
    bound = AdaptiveClip(1e-3, count_weight=1.0)
    model, optimizer, private = session(bound, noise=2.0, steps=300)
    everyone(private)
    learned = AdaptiveClip.learn

    def listen(self: AdaptiveClip, aside: Any, expected: float) -> None:
        [noisy] = aside.values()  # every norm is beyond the threshold
        exact = -50 * self.count_weight * self.threshold
        found.append((float(noisy) - exact) / private.sensitivity.value)
        assert expected == 50

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptiveClip, "learn", listen)
        train(model, optimizer, private)
    assert AdaptiveClip.learn is learned
    assert len(found) == 300
    assert is_normal(np.array(found) / 2.0)
    assert not is_normal(np.array(found) / math.sqrt(2)), "as if the gradients moved alone"
    [(single, times)] = singles(private._run.released_event())
    assert (single.event.noise_multiplier, times) == (2.0, 300)


def test_the_threshold_finds_the_quantile() -> None:
    norms = torch.linspace(1, 9, 801).tolist()
    for quantile in (0.25, 0.5, 0.9):
        bound = AdaptiveClip(0.1, quantile=quantile)
        for _ in range(150):
            bounded, _ = bound(of_norms(norms))
            bound.learn({COUNT: bounded.sums[COUNT]}, len(norms))
        assert bound.threshold == pytest.approx(1 + 8 * quantile, rel=0.02)


def test_the_rule_is_geometric_in_the_surplus_over_the_public_count() -> None:
    bound = AdaptiveClip(2.0, quantile=0.5, learning_rate=0.2)
    bounded, _ = bound(of_norms([1.0] * 30))
    bound.learn({COUNT: bounded.sums[COUNT]}, 40)  # 30 were drawn where 40 were expected
    assert bound.threshold == pytest.approx(2.0 * math.exp(-0.2 * (0.5 + 15 / 40 - 0.5)))


def test_no_noise_moves_the_threshold_out_of_the_range_of_floats() -> None:
    bound = AdaptiveClip(1.0)
    for huge in (1e30, -1e30):
        bound.learn({COUNT: torch.tensor(huge)}, 1)
        assert 0 < bound.threshold < math.inf
        assert bound.sensitivity({}).value > 0


def test_pieces_of_a_batch_share_one_threshold_and_add_up() -> None:
    thresholds = []
    for rows in (None, 7, 1):
        bound = AdaptiveClip(0.5)
        model, optimizer, private = session(bound, noise=0.0)
        everyone(private)
        train(model, optimizer, private, rows=rows)
        thresholds.append(bound.threshold)
        assert bound.threshold != 0.5
    assert thresholds == pytest.approx(thresholds[:1] * 3, rel=1e-5)


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: Chain(Clip(5.0), each)])
def test_a_resumed_run_has_the_threshold_of_an_uninterrupted_one_bit_for_bit(wrap: Any) -> None:
    """Pitfall: privacy 11."""
    whole = AdaptiveClip(0.5)
    model, optimizer, private = session(wrap(whole), steps=6, seed=3)
    train(model, optimizer, private)

    first = AdaptiveClip(0.5)
    model, optimizer, private = session(wrap(first), steps=6, seed=3)
    train(model, optimizer, private, steps=2)
    state = json.loads(json.dumps(private.state_dict()))
    weights = {name: each.clone() for name, each in model.state_dict().items()}

    second = AdaptiveClip(0.5)
    model, optimizer, private = session(wrap(second), steps=6, seed=3)
    model.load_state_dict(weights)
    private.load_state_dict(state)
    assert second.threshold == first.threshold != 0.5
    train(model, optimizer, private)
    assert second.threshold == whole.threshold


def test_a_batch_that_is_not_released_teaches_nothing() -> None:
    bound = AdaptiveClip(0.5)
    model, _, private = session(bound)
    for inputs, labels in private.batches(DATA):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        break
    assert bound.threshold == 0.5


def test_it_must_be_the_last_of_a_chain() -> None:
    with pytest.raises(ValueError, match="Put it last"):
        Chain(AdaptiveClip(1.0), Clip(1.0))


@pytest.mark.parametrize(
    "wrong",
    [{"quantile": 0.0}, {"quantile": 1.0}, {"learning_rate": 0}, {"count_weight": math.nan}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        AdaptiveClip(1.0, **wrong)
