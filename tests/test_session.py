"""The session: one release per logical batch, whatever the loop does."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import deniable
from deniable.accounting import spent
from deniable.errors import (
    AttachError,
    BudgetError,
    CaptureError,
    CheckpointError,
    DeniableWarning,
    PlanError,
    StepError,
)
from oracles.gradients import clipped_sum, relative_error
from oracles.release import everyone, no_one

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "Adamax": lambda parameters: torch.optim.Adamax(parameters, lr=0.01),
    "RAdam": lambda parameters: torch.optim.RAdam(parameters, lr=0.01),
}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def small_data(n: int = 40) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 4), torch.randint(3, (n,))


def small_plan(**changes: Any) -> deniable.Plan:
    settings = {"examples": 40, "batch_size": 8, "steps": 6, "noise_multiplier": 1.0, "delta": 1e-3}
    return deniable.Plan(**(settings | changes))


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def train(private: Any, model: nn.Module, optimizer: Any, data: Any, **options: Any) -> None:
    for inputs, labels in private.batches(data, **options):
        loss_of(model, inputs, labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def attached(**options: Any) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = options.pop("plan", None) or small_plan()
    return model, optimizer, deniable.attach(model, optimizer, plan, **options)


# -- the release ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_first_order_optimizer_takes_the_clipped_mean_as_its_gradient(name: str) -> None:
    """Against the same optimizer fed by hand with the oracle's sums."""
    model, data = small_model(), small_data()
    twin = copy.deepcopy(model).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    by_hand = OPTIMIZERS[name](twin.parameters())
    plan = small_plan(noise_multiplier=0.0, steps=3, batch_size=40)
    private = deniable.attach(model, optimizer, plan, deniable.Clip(0.5))
    everyone(private)
    train(private, model, optimizer, data)
    for _ in range(3):
        total = clipped_sum(twin, data, loss_of, 0.5)
        for key, parameter in twin.named_parameters():
            parameter.grad = total[key] / 40
        by_hand.step()
    found = dict(model.named_parameters())
    assert relative_error(found, dict(twin.named_parameters())) < 1e-5


def test_the_denominator_is_the_expected_batch_size_not_the_drawn_one() -> None:
    """Pitfall: privacy 2."""
    model, optimizer, private = attached(plan=small_plan(noise_multiplier=0.0, steps=1))
    everyone(private)  # 40 rows where 8 are expected
    data = small_data()
    expected = {k: v / 8 for k, v in clipped_sum(model, data, loss_of, 1.0).items()}
    for inputs, labels in private.batches(data):
        loss_of(model, inputs, labels).backward()
        optimizer.step()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert relative_error(found, expected) < 1e-5


class Idle(nn.Module):
    """A model whose gradient is exactly zero, so that a release is noise and nothing else."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.zeros(x.shape[1]) + (self.weight * 0.0 * x[:, :1]).sum(1)


def noise_released(size: int, rows: int | None, **options: Any) -> np.ndarray:
    """The releases of one step of a zero-gradient model, brought to N(0, 1)."""
    sigma, norm, expected = 1.7, 0.25, 16
    model = Idle(size)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    plan = deniable.Plan(
        examples=64, batch_size=expected, steps=1, noise_multiplier=sigma, delta=1e-3
    )
    private = deniable.attach(model, optimizer, plan, deniable.Clip(norm), **options)
    everyone(private)
    for (inputs,) in private.batches((torch.randn(64, 3),), rows=rows):
        model(inputs).sum().backward()
        optimizer.step()
    private.detach()
    values: np.ndarray = (-model.weight.detach() / (sigma * norm / expected)).double().numpy()
    return values


@pytest.mark.parametrize("secure", [False, True], ids=["default", "secure"])
@pytest.mark.parametrize("rows", [None, 8, 30])
def test_noise_appears_exactly_once_per_logical_batch(rows: int | None, secure: bool) -> None:
    """Kolmogorov-Smirnov against N(0, (sigma C / batch)^2); false failure once in 10^6 runs.

    The negative control, noise larger by a tenth, must be rejected by the same test.
    Pitfall: privacy 5.
    """
    values = noise_released(200_000, rows, secure=secure)
    assert stats.kstest(values, "norm").pvalue > 1e-6
    assert stats.kstest(values * 1.1, "norm").pvalue < 1e-6


def test_an_empty_batch_releases_noise_alone() -> None:
    """Pitfall: users 6. KS test at 10^-6 as above; the model's weights move by noise only."""
    model = nn.Linear(300, 200)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    plan = deniable.Plan(examples=50, batch_size=5, steps=1, noise_multiplier=2.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    no_one(private)
    for inputs, labels in private.batches((torch.randn(50, 300), torch.zeros(50).long())):
        assert inputs.shape == (0, 300)
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    moved = (model.weight.detach() - before).flatten().double().numpy() / (2.0 / 5)
    assert private.steps == 1
    assert stats.kstest(moved, "norm").pvalue > 1e-6
    assert stats.kstest(moved * 1.1, "norm").pvalue < 1e-6


def test_an_empty_batch_needs_no_backward() -> None:
    _, optimizer, private = attached(plan=small_plan(steps=2))
    no_one(private)
    for _ in private.batches(small_data()):
        optimizer.step()
    assert private.steps == 2


# -- the loop ------------------------------------------------------------------------------------


def test_pieces_are_one_release_and_equal_the_whole_batch() -> None:
    weights = []
    for rows in (None, 1, 3, 100):
        model, optimizer, private = attached(seed=5)
        train(private, model, optimizer, small_data(), rows=rows)
        assert private.steps == private.plan.steps
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-5)


def test_between_pieces_the_optimizer_does_nothing() -> None:
    model, optimizer, private = attached(plan=small_plan(steps=1))
    everyone(private)
    before = copy.deepcopy(model.state_dict())
    for k, (inputs, labels) in enumerate(private.batches(small_data(), rows=8)):
        loss_of(model, inputs, labels).backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        optimizer.step()
        same = all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert same == (k < 4)


def test_a_step_may_be_left_to_the_last_piece() -> None:
    """Gradient accumulation as loops write it: `if whole: optimizer.step()`."""
    found = []
    for every_piece in (True, False):
        model, optimizer, private = attached(plan=small_plan(steps=1), seed=2)
        everyone(private)
        for k, (inputs, labels) in enumerate(private.batches(small_data(), rows=8)):
            loss_of(model, inputs, labels).backward()
            if every_piece or k == 4:
                optimizer.step()
        found.append([parameter.detach() for parameter in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_two_backward_passes_on_one_batch_are_clipped_together() -> None:
    """Clipping each on its own would let one example move the sum by twice the norm."""
    model, optimizer, private = attached(
        plan=small_plan(noise_multiplier=0.0, steps=1, batch_size=40)
    )
    everyone(private)
    data = small_data()

    def both(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return loss_of(model, inputs, labels) + model(inputs).square().mean(1).mean()

    expected = clipped_sum(model, data, both, 1.0)
    for inputs, labels in private.batches(data):
        loss_of(model, inputs, labels).backward()
        model(inputs).square().mean(1).mean().backward()
        optimizer.step()
    found = {name: parameter.grad * 40 for name, parameter in model.named_parameters()}
    assert relative_error(found, expected) < 1e-5


def test_leaving_the_loop_early_merges_nothing_into_the_next_batch() -> None:
    """Pitfall: privacy 5."""
    model, optimizer, private = attached(plan=small_plan(noise_multiplier=0.0, batch_size=40))
    everyone(private)
    data = small_data()
    for inputs, labels in private.batches(data, rows=8):
        loss_of(model, inputs, labels).backward()
        optimizer.step()
        break
    gc.collect()
    assert private.steps == 0
    expected = clipped_sum(model, data, loss_of, 1.0)
    for inputs, labels in private.batches(data, steps=1):
        loss_of(model, inputs, labels).backward()
        optimizer.step()
    found = {name: parameter.grad * 40 for name, parameter in model.named_parameters()}
    assert relative_error(found, expected) < 1e-5


def test_the_loop_ends_when_the_plan_does() -> None:
    model, optimizer, private = attached()
    train(private, model, optimizer, small_data(), steps=4)
    assert private.steps == 4
    train(private, model, optimizer, small_data())
    assert private.steps == 6
    with pytest.warns(DeniableWarning, match="no batch: the 6 steps of the plan") as found:
        assert list(private.batches(small_data())) == []
    assert found[0].filename == __file__
    assert list(private.batches(small_data(), steps=0)) == []  # as asked


@pytest.mark.parametrize("rows", [None, 8])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_is_evaluated_once_and_before_the_noise(by_name: bool, rows: int | None) -> None:
    """Pitfall: privacy 5: after the noise its gradient would go around the bound."""
    model, optimizer, private = attached(plan=small_plan(noise_multiplier=0.0, batch_size=40))
    everyone(private)
    data, losses, evaluated = small_data(), [], 0
    expected = clipped_sum(model, data, loss_of, 1.0)

    def closure(batch: Any) -> Tensor:
        nonlocal evaluated
        evaluated += 1
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        return loss

    for batch in private.batches(data, rows=rows, steps=1):
        once = partial(closure, batch)
        losses.append(optimizer.step(closure=once) if by_name else optimizer.step(once))
    assert private.steps == 1
    assert evaluated == len(losses) == (1 if rows is None else 5)
    assert all(loss.requires_grad for loss in losses)
    found = {name: parameter.grad * 40 for name, parameter in model.named_parameters()}
    assert relative_error(found, expected) < 1e-5


def test_a_closure_that_fails_releases_nothing() -> None:
    model, optimizer, private = attached()

    def fails() -> None:
        raise ValueError("no loss")

    for batch in private.batches(small_data()):
        with pytest.raises(ValueError, match="no loss"):
            optimizer.step(fails)  # type: ignore[arg-type]
        assert private.steps == 0
        loss_of(model, *batch).backward()
        optimizer.step(lambda: None)
        break
    assert private.steps == 1


def test_an_optimizer_that_evaluates_a_closure_twice_is_refused() -> None:
    """Its second gradient would be the first, with the same noise. Pitfall: privacy 5."""

    class Twice(torch.optim.SGD):
        def step(self, closure):  # type: ignore[no-untyped-def]
            closure()
            return closure()

    model = small_model()
    optimizer = Twice(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    for batch in private.batches(small_data()):
        loss_of(model, *batch).backward()
        with pytest.raises(StepError, match="evaluated its closure twice"):
            optimizer.step(lambda: None)
        break


def test_a_step_without_a_backward_is_refused() -> None:
    model, optimizer, private = attached()
    everyone(private)
    for inputs, labels in private.batches(small_data()):
        with pytest.raises(StepError, match="before any backward"):
            optimizer.step()
        loss_of(model, inputs, labels).backward()
        optimizer.step()
        with pytest.raises(StepError, match="One step belongs to each batch"):
            optimizer.step()
        break


def test_a_step_outside_the_loop_is_refused() -> None:
    _, optimizer, _ = attached()
    with pytest.raises(StepError, match="no batch is open"):
        optimizer.step()


def test_a_batch_passed_over_is_refused() -> None:
    model, _, private = attached()
    everyone(private)
    with pytest.raises(StepError, match="passed over"):
        for inputs, labels in private.batches(small_data()):
            loss_of(model, inputs, labels).backward()


def test_losses_must_have_one_entry_per_row_and_one_kind_of_backward() -> None:
    model, optimizer, private = attached()
    everyone(private)
    for inputs, labels in private.batches(small_data()):
        with pytest.raises(StepError, match=r"shape \(40,\)"):
            private.backward(loss_of(model, inputs, labels))
        private.backward(F.cross_entropy(model(inputs), labels, reduction="none"))
        loss_of(model, inputs, labels).backward()
        with pytest.raises(StepError, match="both"):
            optimizer.step()
        break


def test_a_data_set_of_another_size_is_refused() -> None:
    """Pitfall: privacy 2: the number of examples is public and decides the rate."""
    _, _, private = attached()
    with pytest.raises(PlanError, match="40 examples, got a data set of 39"):
        next(private.batches(small_data(39)))


class Rows(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set, read one row at a time."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[0][index], self.data[1][index]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_data_set_read_by_workers_gives_the_same_batches_as_tensors(workers: int) -> None:
    seen = []
    for source, options in (
        (small_data(), {}),
        (Rows(small_data()), {"workers": workers}),
    ):
        model, optimizer, private = attached(plan=small_plan(batch_size=1, steps=20), seed=9)
        sizes = []
        for inputs, labels in private.batches(source, rows=2, **options):
            sizes.append(inputs.tolist())
            loss_of(model, inputs, labels).backward()
            optimizer.step()
        seen.append(sizes)
    assert seen[0] == seen[1]
    assert [] in seen[0], "an expected size of 1 draws empty batches too"


# -- budget and live cost -----------------------------------------------------------------------


def test_the_loop_ends_before_the_step_that_would_exceed_the_budget() -> None:
    """The model is that of the last step that fits; one more step is refused."""
    whole = small_plan()
    budget = spent(whole.part(0, 4), whole.delta).epsilon * 1.0001
    model, optimizer, private = attached(budget=budget, seed=3)
    assert private.ends_at == 4
    train(private, model, optimizer, small_data())
    assert private.steps == 4
    assert private.spent().epsilon <= budget < private.spent_at_most(ahead=1).epsilon

    unlimited, its_optimizer, other = attached(seed=3)
    train(other, unlimited, its_optimizer, small_data(), steps=4)
    for a, b in zip(model.parameters(), unlimited.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_beyond_the_budget_is_refused_and_changes_nothing() -> None:
    """Even where the end of the loop is gone around."""
    model, optimizer, private = attached(budget=small_plan().epsilon * 0.8)
    train(private, model, optimizer, small_data())
    before = copy.deepcopy(model.state_dict()), private.spent()
    last = private.ends_at
    private._ends_at = None  # the loop asks once, and is told a step too many
    beyond = private.batches(small_data(), steps=1)
    private._ends_at = last + 1
    inputs, labels = next(beyond)
    private._ends_at = last
    loss_of(model, inputs, labels).backward()
    with pytest.raises(BudgetError, match=rf"{last} of the plan's 6 steps .* would exceed"):
        optimizer.step()
    assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())
    assert private.spent() == before[1]


def test_a_budget_with_no_room_for_a_step_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"epsilon 0\.01 has no room for a single step"):
        attached(budget=0.01)
    with pytest.raises(PlanError, match="above 0, got nan"):
        attached(budget=float("nan"))


def test_no_more_is_reserved_than_the_budget_has_room_for(tmp_path: Any) -> None:
    """Killed at any instant, the ledger states no more than the budget."""
    path = tmp_path / "ledger.sqlite"
    budget = small_plan().epsilon * 0.8
    model, optimizer, private = attached(ledger=path, run_id="r", budget=budget)
    train(private, model, optimizer, small_data(), steps=1)
    assert spent(deniable.Ledger(path).event("r"), 1e-3).epsilon <= budget


def test_a_run_that_was_taken_over_counts_what_it_spent_before(tmp_path: Any) -> None:
    """Without its saved state it cannot repeat steps, so they count beside the new ones."""
    path = tmp_path / "ledger.sqlite"
    model, optimizer, private = attached(ledger=path, run_id="r")
    train(private, model, optimizer, small_data(), steps=4)
    private.detach()
    model, optimizer, private = attached(ledger=path, run_id="r")
    assert private.ends_at == 2
    train(private, model, optimizer, small_data())
    assert private.spent().epsilon <= private.plan.epsilon
    assert private.spent_at_most(ahead=1).epsilon > private.plan.epsilon


def test_a_resumed_run_ends_where_it_would_have(tmp_path: Any) -> None:
    path = tmp_path / "ledger.sqlite"
    options = {"ledger": path, "run_id": "r", "budget": small_plan().epsilon * 0.8}
    model, optimizer, private = attached(**options)
    ends_at = private.ends_at
    train(private, model, optimizer, small_data(), steps=2)
    saved = private.state_dict()
    _, _, private = attached(**options)
    private.load_state_dict(saved, replay=True)
    assert private.ends_at == ends_at < 6


def test_what_is_and_will_be_spent_can_be_asked_at_every_step() -> None:
    model, optimizer, private = attached(plan=small_plan(steps=20))
    assert private.spent_at_most().epsilon == 0
    for inputs, labels in private.batches(small_data()):
        expected = private.spent_at_most(ahead=1)
        loss_of(model, inputs, labels).backward()
        optimizer.step()
        assert private.spent_at_most() == expected
        exact = private.spent().epsilon
        assert exact <= expected.epsilon * (1 + 1e-12) <= exact * 1.02
    assert private.spent_at_most(ahead=9) == private.spent_at_most()
    assert private.spent_at_most().epsilon == private.plan.epsilon


# -- what stays the user's -----------------------------------------------------------------------


def test_the_state_dict_class_and_names_are_untouched() -> None:
    model = small_model()
    before = type(model), list(model.state_dict()), [id(p) for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    assert before == (type(model), list(model.state_dict()), [id(p) for p in model.parameters()])
    private.detach()
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    loss_of(model, *small_data()).backward()
    optimizer.step()  # plain again


def test_schedulers_and_gradient_clipping_calls_go_on_working() -> None:
    model, optimizer, private = attached()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    for inputs, labels in private.batches(small_data()):
        loss_of(model, inputs, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=False)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_evaluation_in_the_loop_is_not_captured() -> None:
    results = []
    for evaluate in (False, True):
        model, optimizer, private = attached(seed=1)
        for inputs, labels in private.batches(small_data()):
            loss = loss_of(model, inputs, labels)
            if evaluate:
                model.eval()
                model(torch.randn(1000, 4))
                with torch.no_grad():
                    model.train()(torch.randn(1000, 4))
            loss.backward()
            optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


# -- what cannot be made private -----------------------------------------------------------------


def test_batch_norm_is_refused_by_name() -> None:
    """Pitfall: users 4."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(AttachError, match=r"'1' is a BatchNorm1d.*GroupNorm"):
        deniable.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), small_plan())


def test_batch_norm_that_is_thawed_later_is_refused_even_without_a_graph() -> None:
    """`model.train()` turns a frozen feature extractor's batch statistics on again."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.norm(x)
            return self.head(x)

    model = Frozen()
    model.norm.requires_grad_(False).eval()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    everyone(private)
    with pytest.raises(CaptureError, match="Batch normalisation in training mode"):
        for inputs, labels in private.batches(small_data()):
            loss_of(model, inputs, labels).backward()
            optimizer.step()
            model.train()
    assert private.steps == 1


def test_lbfgs_is_refused() -> None:
    model = small_model()
    with pytest.raises(AttachError, match="LBFGS"):
        deniable.attach(model, torch.optim.LBFGS(model.parameters()), small_plan())


def test_a_trainable_parameter_outside_the_optimizer_is_refused() -> None:
    model = small_model()
    with pytest.raises(AttachError, match=r"Parameter '0\.weight'.*not in the optimizer"):
        deniable.attach(model, torch.optim.SGD(model[2].parameters(), lr=0.1), small_plan())


def test_frozen_parameters_stay_as_they_are() -> None:
    """Pitfall: users 2."""
    model = small_model()
    model[0].requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    train(private, model, optimizer, small_data())
    assert torch.equal(model[0].weight, frozen)


@pytest.mark.parametrize("change", ["layer", "parameter", "unfreeze", "freeze", "optimizer"])
def test_parameters_changed_after_attach_are_noticed(change: str) -> None:
    """Pitfall: users 2."""
    model = small_model()
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    everyone(private)
    for inputs, labels in private.batches(small_data()):
        loss_of(model, inputs, labels).backward()
        if change == "layer":
            model[2] = nn.Linear(6, 3)
        elif change == "parameter":
            model[2].weight = nn.Parameter(torch.zeros(3, 6))
        elif change == "optimizer":
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
        elif change == "unfreeze":
            model[0].bias.requires_grad_(True)
        else:
            model[2].weight.requires_grad_(False)
        with pytest.raises(AttachError, match="after attach"):
            optimizer.step()
        break


def test_a_parameter_unfrozen_for_one_backward_is_noticed() -> None:
    """Its gradient would be the optimizer's, without bound or noise."""
    model = small_model()
    model[0].requires_grad_(False)
    model[0].weight.grad = torch.ones(6, 4)  # of an earlier training
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    frozen = model[0].weight.detach().clone()
    everyone(private)
    steps = 0
    with pytest.raises(AttachError, match="unfrozen after attach"):
        for inputs, labels in private.batches(small_data()):
            model[0].requires_grad_(steps > 0)
            loss_of(model, inputs, labels).backward()
            model[0].requires_grad_(False)
            optimizer.step()
            steps += 1
    assert steps == 1
    assert torch.equal(model[0].weight, frozen)


def test_a_bound_that_changes_between_pieces_is_refused() -> None:
    """The sum would hold units that were bounded otherwise than the noise is for."""
    model, optimizer, private = attached(bound=deniable.Clip(1000.0))
    everyone(private)
    with pytest.raises(StepError, match="changed between the pieces"):
        for inputs, labels in private.batches(small_data(), rows=20):
            loss_of(model, inputs, labels).backward()
            optimizer.step()
            private.bound.norm = 1.0


# -- the ledger and saved state ------------------------------------------------------------------


def test_every_release_is_in_the_ledger_and_spent_reads_only_the_ledger() -> None:
    """Pitfall: privacy 10. Pitfall: privacy 1: the sampler states its own event."""
    model, optimizer, private = attached()
    assert private.spent().epsilon == 0
    train(private, model, optimizer, small_data(), steps=4)
    event = private._run.released_event()
    assert event == private.plan.part(0, 4)
    assert 0 < private.spent().epsilon < private.plan.epsilon
    train(private, model, optimizer, small_data())
    assert private.spent().epsilon == pytest.approx(private.plan.epsilon)


def test_the_ledger_is_written_before_the_release_takes_effect() -> None:
    """Pitfall: privacy 10: a release that cannot be recorded does not happen."""
    model, optimizer, private = attached()
    everyone(private)
    before = copy.deepcopy(model.state_dict())

    def broken(event: object, alike: int | None = None) -> None:
        raise OSError("disk full")

    private._run.release = broken
    for inputs, labels in private.batches(small_data()):
        loss_of(model, inputs, labels).backward()
        with pytest.raises(OSError, match="disk full"):
            optimizer.step()
        break
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert private.state_dict()["steps"] == 0


def test_no_noise_is_infinite_epsilon() -> None:
    model, optimizer, private = attached(plan=small_plan(noise_multiplier=0.0))
    train(private, model, optimizer, small_data())
    assert private.spent().epsilon == float("inf")


@pytest.mark.parametrize("secure", [False, True], ids=["default", "secure"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Any, secure: bool) -> None:
    """Pitfall: privacy 11. Unseeded: the saved state alone carries the generators."""
    path = tmp_path / "ledger.sqlite"
    model, optimizer, private = attached(ledger=path, run_id="r", secure=secure)
    train(private, model, optimizer, small_data(), steps=3)
    saved = private.state_dict(), copy.deepcopy(model.state_dict())
    train(private, model, optimizer, small_data())
    private.detach()

    again, optimizer, private = attached(ledger=path, run_id="r", secure=secure)
    with pytest.raises(CheckpointError, match=r"counts 6 steps .* the saved state 3"):
        private.load_state_dict(saved[0])
    private.load_state_dict(saved[0], replay=True)
    again.load_state_dict(saved[1])
    train(private, again, optimizer, small_data())
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert private.steps == 6
    assert private._run.event() == private.plan.part(0, 6)


def test_noise_is_never_repeated_on_other_data() -> None:
    """Pitfall: privacy 11."""
    model, optimizer, private = attached()
    train(private, model, optimizer, small_data(), steps=3)
    saved = private.state_dict()
    _, _, other = attached(run_id=private.run_id)
    other.load_state_dict(saved)
    inputs, labels = small_data()
    with pytest.raises(CheckpointError, match="same noise to other data"):
        next(other.batches((inputs + 1, labels)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_id": "other"}, "of run"),
        ({"secure": True}, "secure"),
        ({"plan": {}}, "plan .* the settings of the saved run"),
        ({"version": 3}, "the deniable that saved it"),
    ],
)
def test_a_state_of_another_run_is_refused(change: dict[str, Any], message: str) -> None:
    _, _, private = attached(run_id="mine")
    with pytest.raises(CheckpointError, match=message):
        private.load_state_dict(private.state_dict() | change)


def test_two_sessions_without_a_seed_differ_and_with_a_seed_agree() -> None:
    """Pitfall: privacy 13."""

    def weights(seed: int | None) -> Tensor:
        model, optimizer, private = attached(seed=seed)
        train(private, model, optimizer, small_data())
        assert private.seeded == (seed is not None)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(4), weights(4))
    assert not torch.equal(weights(4), weights(5))
    assert not torch.equal(weights(None), weights(None))


def test_a_copy_of_an_attached_model_is_an_ordinary_model() -> None:
    """Whenever it is made: before a batch, between forward and backward, after a step."""
    twins: list[nn.Module] = []
    model, (inputs, labels) = small_model(), small_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    private._source.sampling.draw = lambda: np.arange(4)  # not as many as the copies will see
    twins.append(copy.deepcopy(model))
    for batch in private.batches((inputs, labels)):
        loss = loss_of(model, *batch)
        twins.append(copy.deepcopy(model))
        loss.backward()
        optimizer.step()
        twins.append(copy.deepcopy(model))
    private.detach()
    for twin in twins:
        loss_of(twin, inputs, labels).backward()
        plain = small_model()
        plain.load_state_dict(twin.state_dict())
        loss_of(plain, inputs, labels).backward()
        for mine, its in zip(plain.parameters(), twin.parameters(), strict=True):
            assert mine.grad is not None
            assert its.grad is not None
            torch.testing.assert_close(its.grad, mine.grad)


def test_what_is_attached_is_not_pickled_and_says_what_to_save() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    private = deniable.attach(model, optimizer, small_plan())
    with pytest.raises(CheckpointError, match=r"Save model\.state_dict\(\)"):
        torch.save(model, io.BytesIO())
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(CheckpointError, match=r"Save private\.state_dict\(\)"):
            copied(private)
    private.detach()
    torch.save(model, io.BytesIO())


@pytest.mark.parametrize("within", [False, True])
def test_a_model_of_torch_jit_is_refused_by_name(within: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is old
        scripted = torch.jit.script(small_model())
    model = nn.Sequential(scripted) if within else scripted
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(AttachError, match=r"('0'|The model) was made by torch\.jit.*compile works"):
        deniable.attach(model, optimizer, small_plan())


def test_a_session_says_how_far_it_is_and_ends_with_its_block() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(8, 8, steps=3, noise_multiplier=1.0, delta=1e-3)
    with deniable.attach(model, optimizer, plan, run_id="a") as private:
        for rows in private.batches(torch.ones(8, 2), steps=1):
            model(rows).mean().backward()
            optimizer.step()
        assert re.fullmatch(
            r"PrivateSession\(run 'a': 1 of 3 steps, clipped to norm 1, "
            r"epsilon at most [\d.]+ at delta 0.001\)",
            repr(private),
        )
    assert repr(private).endswith("delta 0.001, detached)")
    with pytest.raises(StepError, match="detached"):
        next(iter(private.batches(torch.ones(8, 2))))
