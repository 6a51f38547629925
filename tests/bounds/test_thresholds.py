"""A clipping threshold before training: of public data for nothing, of private for epsilon."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deniable
from deniable.bounds import Clip
from deniable.bounds.thresholds import closeness, norms_of_rows
from deniable.events import PureEvent
from deniable.ledger import Ledger
from deniable.noise import Exponential
from deniable.units import Neighbouring
from oracles.bounds import norm_of
from oracles.gradients import gradients_of_rows


def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def data(rows: int = 41) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, generator=generator), torch.arange(rows) % 3


def norms() -> list[float]:
    return [norm_of(each) for each in gradients_of_rows(network(), data(), loss)]


def test_norms_of_rows_are_the_oracles_and_leave_no_gradient() -> None:
    model = network()
    found = norms_of_rows(model, loss, data())
    assert found.tolist() == pytest.approx(norms(), rel=1e-5)
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize("quantile", [0.1, 0.5, 1.0])
def test_the_public_threshold_is_a_quantile_of_the_norms(quantile: float) -> None:
    clip = Clip.from_public(network(), loss, data(), quantile)
    assert clip.norm == pytest.approx(np.quantile(norms(), quantile), rel=1e-5)


def test_public_rows_that_are_not_finite_do_not_count() -> None:
    inputs, labels = data()
    inputs[3] = math.nan
    clip = Clip.from_public(network(), loss, (inputs, labels))
    assert clip.norm == pytest.approx(np.quantile(norms()[:3] + norms()[4:], 0.5), rel=1e-5)


@pytest.mark.parametrize(("rows", "quantile"), [(0, 0.5), (5, 1.5), (5, math.nan)])
def test_no_rows_and_no_quantile_are_refused(rows: int, quantile: float) -> None:
    with pytest.raises(ValueError, match="A threshold needs rows"):
        Clip.from_public(network(), loss, data(rows), quantile)


CANDIDATES = [0.01 * 2.0**k for k in range(12)]


def chosen(epsilon: float, ledger: Ledger | None = None) -> Clip:
    return Clip.privately(
        network(), loss, data(), CANDIDATES,
        by=Exponential(epsilon), ledger=ledger or Ledger(None),
    )  # fmt: skip


def test_at_a_large_epsilon_the_private_choice_is_the_closest_candidate() -> None:
    shares = [abs(sum(each <= norm for each in norms()) - 20.5) for norm in CANDIDATES]
    assert chosen(1000.0).norm == CANDIDATES[int(np.argmin(shares))]


def test_at_a_small_epsilon_it_is_anyones() -> None:
    """Of 60 nearly uniform choices among 12, at least 6 differ: false failure below 1e-12."""
    assert len(Counter(chosen(1e-6).norm for _ in range(60))) >= 6


@pytest.mark.parametrize("neighbouring", list(Neighbouring))
def test_the_choice_is_in_the_ledger_before_a_gradient_is_computed(
    neighbouring: Neighbouring,
) -> None:
    ledger = Ledger(None)
    looked = []

    def watched(model: nn.Module, *row: Tensor) -> Tensor:
        looked.append([event for event, _ in deniable.events.singles(ledger.event())])  # type: ignore[attr-defined]
        return loss(model, *row)

    by = Exponential(0.25, neighbouring)
    Clip.privately(network(), watched, data(), CANDIDATES, by=by, ledger=ledger)
    assert all(each == [PureEvent(0.25, neighbouring)] for each in looked)
    assert len(looked) == 41
    Clip.privately(network(), loss, data(), CANDIDATES, by=by, ledger=ledger)
    assert sum(times for _, times in deniable.events.singles(ledger.event())) == 2  # type: ignore[attr-defined]


def test_a_choice_beyond_the_budget_is_not_made() -> None:
    ledger = Ledger(None)
    ledger.set_budget(0.1, 1e-5)

    def never(*_: object) -> Tensor:
        raise AssertionError("data was looked at")

    with pytest.raises(deniable.errors.BudgetError):  # type: ignore[attr-defined]
        Clip.privately(network(), never, data(), CANDIDATES, by=Exponential(1.0), ledger=ledger)


def test_nothing_to_choose_from_costs_nothing() -> None:
    ledger = Ledger(None)
    with pytest.raises(ValueError, match="needs candidates"):
        Clip.privately(network(), loss, data(), [], by=Exponential(1.0), ledger=ledger)
    assert ledger.runs() == []


@pytest.mark.parametrize("quantile", [-0.1, 5.0, math.nan])
def test_a_quantile_at_which_a_row_could_move_a_score_by_more_than_1_is_refused(
    quantile: float,
) -> None:
    """The negative control: of one row more, the scores for the quantile 5 move by up to 5."""
    few, more = (closeness(torch.ones(rows), [0.5, 2.0], 5.0) for rows in (3, 4))
    assert max(abs(a - b) for a, b in zip(few, more, strict=True)) == 5
    ledger = Ledger(None)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Clip.privately(
            network(), loss, data(), CANDIDATES,
            by=Exponential(1.0), ledger=ledger, quantile=quantile,
        )  # fmt: skip
    assert ledger.runs() == []


def test_a_choice_on_other_data_is_refused_before_they_are_looked_at() -> None:
    ledger = Ledger(None)
    chosen(1.0, ledger)

    def never(*_: object) -> Tensor:
        raise AssertionError("data was looked at")

    by, others = Exponential(1.0), data(40)
    with pytest.raises(deniable.errors.LedgerError, match="belongs to the data set"):  # type: ignore[attr-defined]
        Clip.privately(network(), never, others, CANDIDATES, by=by, ledger=ledger)
    assert len(ledger.runs()) == 1
    named = Ledger(None, data="measurements")
    for each in (data(), others):
        Clip.privately(network(), loss, each, CANDIDATES, by=by, ledger=named)
    assert len(named.runs()) == 2


def test_the_choice_composes_with_the_training_that_follows() -> None:
    ledger = Ledger(None)
    model = network()
    clip = chosen(0.5, ledger)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(41, 8, steps=3, noise_multiplier=1.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan, clip, ledger=ledger)
    for inputs, labels in private.batches(data()):
        loss(model, inputs, labels).backward()
        optimizer.step()
    private.detach()
    from deniable.accounting import spent

    alone = private.spent().epsilon
    assert alone < spent(ledger.event(), 1e-3).epsilon <= alone + 0.5 + 1e-6


def test_one_row_moves_no_score_by_more_than_one() -> None:
    """Added, removed, replaced; a norm that is not a number included."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        rows = generator.exponential(size=int(generator.integers(0, 12)))
        rows = np.where(generator.random(len(rows)) < 0.2, math.nan, rows)
        quantile, new = generator.random(), generator.choice([0.0, 1.0, math.nan, math.inf, 3.0])
        tables = [rows, np.append(rows, new), np.append(rows[1:], new) if len(rows) else rows]
        scores = [closeness(torch.tensor(each), [0.5, 1.0, 2.0], quantile) for each in tables]
        for other in scores[1:]:
            assert all(abs(a - b) <= 1 for a, b in zip(scores[0], other, strict=True))
