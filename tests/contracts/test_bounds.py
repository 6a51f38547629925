"""The contract of every bound: no unit moves the sum further than the sensitivity it states."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deniable.bounds import Bound, Clip
from deniable.gradients.contributions import Dense
from deniable.gradients.per_unit import PerUnitGradients

# A new bound is one line here.
BOUNDS: dict[str, Callable[[], Bound]] = {
    "Clip(1.0)": lambda: Clip(1.0),
    "Clip(0.01)": lambda: Clip(0.01),
    "Clip(1000.0)": lambda: Clip(1000.0),
}
ROUNDING = 1e-5  # of float32 sums, relative to the sensitivity

SPECIAL = [0.0, 1e-42, 1e-20, 1.0, -1.0, 1e10, 1e30, -3e38, math.inf, -math.inf, math.nan]
values = st.one_of(st.floats(-10, 10, width=32), st.sampled_from(SPECIAL))
units = st.lists(st.lists(values, min_size=5, max_size=5), min_size=0, max_size=4)
one_unit = st.lists(values, min_size=5, max_size=5)


def gradients_of(rows: list[list[float]]) -> PerUnitGradients:
    """Per-unit gradients of two parameters, of 2 and 3 elements."""
    table = torch.tensor(rows, dtype=torch.float32).view(len(rows), 5)
    return PerUnitGradients(
        len(rows),
        {"a": torch.zeros(2), "b": torch.zeros(3)},
        {"a": Dense(table[:, :2].clone()), "b": Dense(table[:, 2:].clone())},
    )


def total(bound: Bound, rows: list[list[float]]) -> Tensor:
    bounded, _ = bound(gradients_of(rows))
    return torch.cat([bounded.sums["a"], bounded.sums["b"]]).double()


def moved(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm())


@pytest.mark.parametrize("name", BOUNDS)
@given(rows=units, unit=one_unit)
@settings(max_examples=150, deadline=None)
def test_adding_or_removing_a_unit_moves_the_sum_by_at_most_the_sensitivity(
    name: str, rows: list[list[float]], unit: list[float]
) -> None:
    """Adversarial values included: huge, denormal, infinite, NaN. Pitfall: privacy 9."""
    bound = BOUNDS[name]()
    sensitivity = bound.sensitivity().value
    distance = moved(total(bound, [*rows, unit]), total(bound, rows))
    assert distance <= sensitivity * (1 + ROUNDING * (1 + len(rows)))


@pytest.mark.parametrize("name", BOUNDS)
@given(rows=units, before=one_unit, after=one_unit)
@settings(max_examples=100, deadline=None)
def test_replacing_a_unit_moves_the_sum_by_at_most_twice_that(
    name: str, rows: list[list[float]], before: list[float], after: list[float]
) -> None:
    bound = BOUNDS[name]()
    sensitivity = bound.sensitivity().value
    distance = moved(total(bound, [*rows, before]), total(bound, [*rows, after]))
    assert distance <= 2 * sensitivity * (1 + ROUNDING * (1 + len(rows)))


@pytest.mark.parametrize("name", BOUNDS)
def test_the_worst_unit_moves_the_sum_by_nearly_the_sensitivity(name: str) -> None:
    bound = BOUNDS[name]()
    worst = [1e6, -2e6, 3e6, 0.0, 1e6]
    assert moved(total(bound, [worst]), total(bound, [])) >= 0.999 * bound.sensitivity().value


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_unit_that_is_not_finite_counts_as_absent(name: str, bad: float) -> None:
    bound = BOUNDS[name]()
    good = [[1.0, 2.0, 3.0, 4.0, 5.0], [-1.0, 0.5, 0.25, 0.0, 1.0]]
    assert torch.equal(total(bound, [good[0], [0, bad, 0, 0, 0], good[1]]), total(bound, good))


@pytest.mark.parametrize("name", BOUNDS)
def test_no_units_sum_to_zero(name: str) -> None:
    assert torch.equal(total(BOUNDS[name](), []), torch.zeros(5, dtype=torch.float64))


def test_the_contract_rejects_a_bound_that_clips_each_parameter_on_its_own() -> None:
    """The negative control: such a sum moves by up to sqrt(2) times what it states."""

    class EachOnItsOwn(Clip):
        def __call__(self, gradients):  # type: ignore[no-untyped-def]
            parts = [
                PerUnitGradients(
                    gradients.units, {name: value}, {name: gradients.contributions[name]}
                )
                for name, value in gradients.parameters.items()
            ]
            bounded = [super(EachOnItsOwn, self).__call__(part)[0] for part in parts]
            merged = bounded[0].sums | bounded[1].sums
            return type(bounded[0])(merged, self.sensitivity()), None

    bound = EachOnItsOwn(1.0)
    worst = [1e6, -2e6, 3e6, 0.0, 1e6]
    assert moved(total(bound, [worst]), total(bound, [])) > 1.4
