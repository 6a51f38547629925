"""The contract of every bound: no unit moves the sum further than the sensitivity it states."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deniable.bounds import AdaptiveClip, AutomaticClip, Bound, Chain, Clip, PerLayerClip, Tanh
from deniable.gradients.contributions import Dense
from deniable.gradients.per_unit import PerUnitGradients
from deniable.units import Neighbouring

# A new bound is one line here.
BOUNDS: dict[str, Callable[[], Bound]] = {
    "Clip(1.0)": lambda: Clip(1.0),
    "Clip(0.01)": lambda: Clip(0.01),
    "Clip(1000.0)": lambda: Clip(1000.0),
    "PerLayerClip(1.0)": lambda: PerLayerClip(1.0),
    "PerLayerClip by name": lambda: PerLayerClip({"a": 3.0, "b": 0.04}),
    "PerLayerClip by module": lambda: PerLayerClip(2.0, layer="module"),
    "AutomaticClip": lambda: AutomaticClip(),
    "AutomaticClip(5.0)": lambda: AutomaticClip(5.0, stability=1e-8),
    "AdaptiveClip": lambda: AdaptiveClip(1.0),
    "AdaptiveClip, heavy count": lambda: AdaptiveClip(0.3, count_weight=2.0),
    "Tanh": lambda: Tanh(),
    "Tanh(0.1, 20.0)": lambda: Tanh(output_range=0.1, active_range=20.0),
    "Tanh, then Clip": lambda: Chain(Tanh(2.0, 0.5), Clip(0.7)),
    "Clip, then Tanh": lambda: Chain(Clip(1e4), Tanh(0.5, 1e-4)),
    "Tanh, then AdaptiveClip": lambda: Chain(Tanh(), AdaptiveClip(0.5)),
    "PerLayerClip, then Clip": lambda: Chain(PerLayerClip(1.0), Clip(0.5)),
    "Clip, then a shorter one": lambda: Chain(Clip(1e-4), Clip(1e-6)),
    "three in a chain": lambda: Chain(AutomaticClip(), Tanh(1.0, 0.1), PerLayerClip(0.3)),
}
PARAMETERS = {"a": torch.zeros(2), "b": torch.zeros(3)}
ROUNDING = 1e-5  # of float32 sums, relative to the sensitivity

SPECIAL = [
    0.0,
    1e-42,
    1e-20,
    1.0,
    -1.0,
    1e10,
    1e15,
    1.2e19,
    1e30,
    -3e38,
    math.inf,
    -math.inf,
    math.nan,
]
values = st.one_of(st.floats(-10, 10, width=32), st.sampled_from(SPECIAL))
units = st.lists(st.lists(values, min_size=5, max_size=5), min_size=0, max_size=4)
one_unit = st.lists(values, min_size=5, max_size=5)
scales = st.sampled_from([1.0, 64.0, 4096.0])  # rows, of which a loss was the mean
WORST = [1e6, -2e6, 3e6, 5e5, 1e6]

every_bound = pytest.mark.parametrize("name", BOUNDS)


def gradients_of(rows: list[list[float]], scale: float = 1.0) -> PerUnitGradients:
    """Per-unit gradients of two parameters, of 2 and 3 elements."""
    table = torch.tensor(rows, dtype=torch.float32).view(len(rows), 5)
    return PerUnitGradients(
        len(rows),
        PARAMETERS,
        {"a": Dense(table[:, :2].clone()), "b": Dense(table[:, 2:].clone())},
        scale,
    )


def total(bound: Bound, rows: list[list[float]], scale: float = 1.0) -> Tensor:
    """All that is summed, what is summed aside included."""
    bounded, _ = bound(gradients_of(rows, scale))
    return torch.cat([each.double().flatten() for each in bounded.sums.values()])


def sensitivity(bound: Bound, neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE) -> float:
    return bound.sensitivity(PARAMETERS).under(neighbouring).value


def moved(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm())


@every_bound
@given(rows=units, unit=one_unit, scale=scales)
@settings(max_examples=150, deadline=None)
def test_adding_or_removing_a_unit_moves_the_sum_by_at_most_the_sensitivity(
    name: str, rows: list[list[float]], unit: list[float], scale: float
) -> None:
    """Adversarial values included: huge, denormal, infinite, NaN. Pitfall: privacy 9."""
    bound = BOUNDS[name]()
    distance = moved(total(bound, [*rows, unit], scale), total(bound, rows, scale))
    assert distance <= sensitivity(bound) * (1 + ROUNDING * (1 + len(rows)))


@every_bound
@given(rows=units, before=one_unit, after=one_unit, scale=scales)
@settings(max_examples=100, deadline=None)
def test_replacing_a_unit_moves_the_sum_by_at_most_twice_that(
    name: str, rows: list[list[float]], before: list[float], after: list[float], scale: float
) -> None:
    bound = BOUNDS[name]()
    one, other = (total(bound, [*rows, each], scale) for each in (before, after))
    distance = moved(one, other)
    most = sensitivity(bound, Neighbouring.REPLACE)
    assert distance <= most * (1 + ROUNDING * (1 + len(rows)))


@every_bound
def test_the_worst_unit_moves_the_sum_by_nearly_the_sensitivity(name: str) -> None:
    bound = BOUNDS[name]()
    assert moved(total(bound, [WORST]), total(bound, [])) >= 0.999 * sensitivity(bound)


@every_bound
def test_the_worst_replacement_moves_the_sum_by_nearly_twice_that(name: str) -> None:
    """Where a count is summed too, one of the two lies beyond the threshold, one within."""
    bound = BOUNDS[name]()
    length = math.hypot(*WORST)
    others = [[-scale * each / length for each in WORST] for scale in (length, 0.9995, 0.29985)]
    filtered = math.atanh(0.4998 / math.sqrt(5))  # whose tanh has norm just below 0.5
    others += [[-math.copysign(filtered, each) for each in WORST]]
    distance = max(moved(total(bound, [WORST]), total(bound, [other])) for other in others)
    assert distance >= 0.999 * sensitivity(bound, Neighbouring.REPLACE)


@every_bound
@pytest.mark.parametrize("bad", [math.nan, math.inf, -3e38, 1e25])
def test_a_unit_that_is_not_finite_or_whose_square_is_not_counts_as_absent(
    name: str, bad: float
) -> None:
    """Pitfall: privacy 9."""
    bound = BOUNDS[name]()
    good = [[1.0, 2.0, 3.0, 4.0, 5.0], [-1.0, 0.5, 0.25, 0.0, 1.0]]
    assert torch.equal(total(bound, [good[0], [0, bad, 0, 0, 0], good[1]]), total(bound, good))
    _, observed = bound(gradients_of([good[0], [0, bad, 0, 0, 0]]))
    assert observed.summary()["not_finite"] == 1
    assert observed.factors[1] == 0


@every_bound
def test_no_units_sum_to_zero(name: str) -> None:
    assert not total(BOUNDS[name](), []).any()


@every_bound
def test_no_unit_depends_on_another(name: str) -> None:
    """So that pieces of a batch add up to the batch."""
    bound = BOUNDS[name]()
    rows = [[1.0, -2.0, 3.0, 0.0, 1e6], [0.1, 0.0, 0.0, 0.0, 0.0], [math.nan] * 5, [1e-3] * 5]
    one_by_one = sum(total(bound, [row]) for row in rows)
    torch.testing.assert_close(total(bound, rows), one_by_one)


@every_bound
def test_a_parameter_that_no_unit_used_has_gradient_zero(name: str) -> None:
    bound = BOUNDS[name]()
    rows = torch.tensor([[1.0, 2.0], [-3.0, 1.0]])
    used = PerUnitGradients(2, PARAMETERS, {"a": Dense(rows)})
    zeros = gradients_of([[*row, 0.0, 0.0, 0.0] for row in rows.tolist()])
    found, expected = bound(used)[0].sums, bound(zeros)[0].sums
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


@every_bound
def test_it_says_what_it_is_in_json_and_in_words(name: str) -> None:
    bound = BOUNDS[name]()
    assert bound.settings()["name"] == type(bound).__name__
    assert 10 < len(bound.in_words) < 150


def test_the_contract_rejects_a_bound_that_clips_each_parameter_on_its_own() -> None:
    """The negative control: such a sum moves by up to sqrt(2) times what it states."""

    class EachOnItsOwn(PerLayerClip):
        def thresholds(self, parameters):  # type: ignore[no-untyped-def]
            return dict.fromkeys(parameters, self.norm)

        def sensitivity(self, parameters):  # type: ignore[no-untyped-def]
            return Clip(1.0).sensitivity(parameters)

    assert moved(total(EachOnItsOwn(1.0), [WORST]), total(EachOnItsOwn(1.0), [])) > 1.4
