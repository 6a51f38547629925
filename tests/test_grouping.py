"""Units of several rows: the bound sees their mean, in every form that a gradient can take."""

from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import deniable
from deniable.batches import _cuts
from deniable.errors import PlanError
from deniable.units import Neighbouring, Sensitivity
from gradients.networks import CASES
from oracles.gradients import clipped_means, gradients_of_rows, relative_error
from oracles.release import everyone

NORM = 0.2
MLP = next(each for each in CASES if each.name == "mlp")


def release(
    model: nn.Module, data: Any, plan: deniable.Plan, unit: Any, rows: int | None
) -> tuple[dict[str, Tensor], Any]:
    """What one step over every unit releases, as a sum."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    private = deniable.attach(model, optimizer, plan, deniable.Clip(NORM), unit=unit, seed=1)
    everyone(private)
    for piece in private.batches(data, rows=rows):
        MLP.loss(model, *piece).backward()
        optimizer.step()
    found = {
        name: p.grad * unit.denominator(plan.batch_size)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return found, private


def plan_for(units: int) -> deniable.Plan:
    return deniable.Plan(
        examples=units, batch_size=units, steps=1, noise_multiplier=0.0, delta=1e-3
    )


def rows_in_double(n: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(n)
    model, (inputs, labels) = MLP.build().double(), MLP.batch(n)
    return model, (inputs.double(), labels)


@pytest.mark.parametrize("rows", [None, 5], ids=["whole", "pieces"])
def test_users_of_any_number_of_rows_are_bounded_whole(rows: int | None) -> None:
    model, batch = rows_in_double(12)
    owners = [3, 1, 1, 7, 3, 1, 9, 1, 7, 1, 3, 1]
    groups = [[k for k, each in enumerate(owners) if each == user] for user in sorted(set(owners))]
    expected = clipped_means(gradients_of_rows(model, batch, MLP.loss), groups, NORM)
    found, private = release(model, batch, plan_for(4), deniable.User(owners), rows)
    assert relative_error(found, expected) < 1e-10
    assert private.sensitivity.unit.startswith("one user")
    assert private.sensitivity.value == NORM


def test_views_of_an_example_are_averaged_before_the_bound() -> None:
    model, (inputs, labels) = rows_in_double(4)
    views = 3
    noisy = inputs.repeat_interleave(views, 0)
    noisy = noisy + torch.randn_like(noisy)
    groups = [[views * k + j for j in range(views)] for k in range(4)]
    batch = (noisy, labels.repeat_interleave(views, 0))
    expected = clipped_means(gradients_of_rows(model, batch, MLP.loss), groups, NORM)
    unit = deniable.Augmented(views, lambda repeated: noisy)
    found, private = release(model, (inputs, labels), plan_for(4), unit, None)
    assert relative_error(found, expected) < 1e-10
    assert private.sensitivity.value == NORM


@pytest.mark.parametrize("rows", [None, 4], ids=["whole", "pieces"])
@pytest.mark.parametrize("n", [1, 7, 12])
def test_microbatches_take_any_batch_size_and_state_twice_the_bound(
    n: int, rows: int | None
) -> None:
    """Pitfall: privacy 12. Pitfall: users 11."""
    model, batch = rows_in_double(n)
    unit = deniable.Microbatch(3)
    count = unit.denominator(n)
    drawn: list[list[int]] = []
    arrange = unit.rows

    def watched(chosen: Any, generator: Any, batch_size: int) -> Any:
        order, sizes = arrange(chosen, generator, batch_size)
        drawn.extend(part.tolist() for part in np.split(order, np.cumsum(sizes)[:-1]))
        return order, sizes

    unit.rows = watched  # type: ignore[method-assign]
    found, private = release(model, batch, plan_for(n), unit, rows)
    assert len(drawn) == count
    expected = clipped_means(gradients_of_rows(model, batch, MLP.loss), drawn, NORM)
    assert relative_error(found, expected) < 1e-10
    assert private.sensitivity.value == 2 * NORM


def test_one_example_more_can_move_a_microbatch_by_twice_the_bound_and_not_by_more() -> None:
    """Two opposed examples in one microbatch: the second turns its mean around.

    Pitfall: privacy 12.
    """
    inputs = torch.tensor([[1.0, 0.0], [-1000.0, 0.0]])

    def total(rows: int) -> Tensor:
        model = nn.Linear(2, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        plan = deniable.Plan(
            examples=rows, batch_size=rows, steps=1, noise_multiplier=0.0, delta=1e-3
        )
        private = deniable.attach(
            model, optimizer, plan, deniable.Clip(0.1), unit=deniable.Microbatch(2)
        )
        everyone(private)
        for (batch,) in private.batches((inputs[:rows],)):
            private.backward(model(batch)[:, 0])
            optimizer.step()
        return model.weight.grad

    moved = float((total(2) - total(1)).norm())
    assert moved == pytest.approx(0.2, rel=1e-5)


def most_told(data: list[float], other: list[float], deviation: float, epsilon: float) -> float:
    """Delta at epsilon of one noisy sum of 2 of 4 examples, in 2 microbatches clipped to 1."""
    at = np.linspace(-4 - 9 * deviation, 4 + 9 * deviation, 20_001)

    def density(rows: list[float]) -> Any:
        sums = [
            np.clip([one, two], -1, 1).sum() if apart else np.clip((one + two) / 2, -1, 1)
            for one, two in combinations(rows, 2)
            for apart in (True, False)
        ]
        return np.mean([stats.norm.pdf(at, total, deviation) for total in sums], axis=0)

    exceeding = density(data) - math.exp(epsilon) * density(other)
    return float(np.trapezoid(np.maximum(exceeding, 0), at))


def test_replacing_an_example_in_its_place_tells_no_more_than_is_stated() -> None:
    """By integration over all batches and microbatches; half of that noise is too little."""
    plan = deniable.Plan(4, 2, steps=1, epsilon=1.0, delta=0.01, sampling="fixed-size")
    deviation = 2 * plan.noise_multiplier
    told = [
        (most_told([u, *rest], [v, *rest], deviation, plan.epsilon),
         most_told([u, *rest], [v, *rest], deviation / 2, plan.epsilon))
        for u, v in permutations((9.0, 0.5, -9.0), 2)
        for rest in ([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, 0.5, 1.0])
    ]  # fmt: skip
    assert max(once for once, _ in told) <= 0.01
    assert max(half for _, half in told) > 0.01


@pytest.mark.parametrize(
    ("sampling", "bounds"), [("fixed-size", 2), ("shuffled", 2), ("poisson", 4)]
)
def test_noise_on_microbatches_is_for_twice_the_bound_where_batches_are_of_places(
    sampling: str, bounds: int
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(
        4, 2, steps=1, noise_multiplier=1.0, delta=0.01, sampling=sampling, neighbouring="replace"
    )
    private = deniable.attach(model, optimizer, plan, unit=deniable.Microbatch(1))
    assert private.sensitivity == Sensitivity(bounds, Neighbouring.REPLACE)


def test_no_piece_is_empty_where_some_units_have_no_rows() -> None:
    """Many a model refuses an empty batch."""
    for sizes in ([0, 3, 0, 0, 1, 0], [0, 0, 5, 0], [2, 0, 0], [1, 1, 0, 1, 0]):
        ends = np.cumsum(sizes)
        cuts = _cuts(ends, 2)
        pieces = [sum(sizes[start:stop]) for start, stop in pairwise(cuts)]
        assert cuts[0] == 0 and cuts[-1] == len(sizes)
        assert all(pieces), (sizes, cuts)
    assert _cuts(np.cumsum([0, 0]), 2) == [0, 2]


def test_a_users_rows_are_capped_at_random() -> None:
    owners = [0] * 10 + [1] * 2
    unit = deniable.User(owners, rows_at_most=3)
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        rows, sizes = unit.rows(np.array([0, 1]), generator, 2)
        assert sizes == [3, 2]
        assert set(rows[3:]) == {10, 11}
        seen |= set(rows[:3].tolist())
    assert seen == set(range(10)), "misses a given row once in 10^30 runs"


def test_the_plan_counts_users() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = (torch.randn(6, 2), torch.zeros(6).long())
    unit = deniable.User([0, 0, 1, 1, 2, 2])
    wrong = deniable.attach(model, optimizer, plan_for(6), unit=unit)
    with pytest.raises(PlanError, match="number of users"):
        next(wrong.batches(data))
    wrong.detach()
    private = deniable.attach(model, optimizer, plan_for(3), unit=unit)
    for inputs, labels in private.batches(data):
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    stated = private._ledger.contents()
    assert stated.unit is not None
    assert stated.unit.startswith("one user")


@pytest.mark.parametrize(
    "build",
    [
        lambda: deniable.Microbatch(0),
        lambda: deniable.User([]),
        lambda: deniable.User([[1]]),
        lambda: deniable.User([1], rows_at_most=0),
        lambda: deniable.User([1], rows_at_most=1.5),  # type: ignore[arg-type]
        lambda: deniable.Augmented(0),
    ],
)
def test_a_unit_that_makes_no_sense_is_refused(build: Any) -> None:
    with pytest.raises(PlanError):
        build()


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", None, "b"], "whose row 1 is"),
        ([1.0, 2.0, math.nan], "whose row 2 is"),
        (np.array([1.0, math.nan, math.nan], dtype=object), "of 2 in all"),
        (np.array([1, "1"], dtype=object), "one type, to be told apart, got int, str"),
    ],
)
def test_rows_that_are_nobodys_are_neither_one_users_nor_a_user_each(ids: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        deniable.User(ids)
