from __future__ import annotations

import math

import numpy as np
import pytest

from deniable.audit.roc import Roc
from oracles.attacks import area_under_curve, most_found

CASES = {
    "normal": lambda g: (g.normal(0.5, 1, 40), g.normal(0, 1, 70)),
    "many ties": lambda g: (g.integers(0, 4, 40), g.integers(0, 4, 70)),
    "apart": lambda g: (g.random(9) + 1, g.random(5)),
    "reversed": lambda g: (g.random(9), g.random(5) + 1),
    "infinite": lambda g: ([math.inf, 0.0, -math.inf], [0.0, math.inf, -1.0]),
    "one each": lambda g: ([1.0], [1.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_area_and_operating_points_are_those_of_counting_pairs(name: str) -> None:
    members, others = CASES[name](np.random.default_rng(1))
    roc = Roc(members, others)
    assert roc.auc.value == pytest.approx(area_under_curve(list(members), list(others)))
    for rate in (0.0, 0.01, 0.1, 0.3, 0.7):
        found = roc.at(rate)
        assert found.true_positive_rate.value == pytest.approx(
            most_found(list(members), list(others), rate)
        )
        assert found.false_positive_rate.value <= rate


def test_the_curve_passes_through_its_operating_points() -> None:
    generator = np.random.default_rng(2)
    roc = Roc(generator.normal(1, 1, 300), generator.normal(0, 1, 400))
    false, true = roc.curve()
    assert len(false) == 401
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
    assert (false[-1], true[-1]) == (1.0, 1.0)
    for rate in (0.01, 0.2):
        at = roc.at(rate)
        assert true[false <= rate].max() == at.true_positive_rate.value
    thinned = roc.curve(20)
    assert len(thinned[0]) <= 21
    assert set(zip(*thinned, strict=True)) <= set(zip(false, true, strict=True))


def test_the_curve_of_a_perfect_attack_rises_at_once() -> None:
    assert Roc([3.0, 2.0], [1.0]).points() == [(0.0, 1.0), (1.0, 1.0)]


def test_intervals_hold_the_true_area_as_often_as_they_say() -> None:
    """Of 400 intervals at 95%, fewer than 360 hold with probability below 1e-4."""
    generator = np.random.default_rng(3)
    truth = 0.5 * (1 + math.erf(0.8 / 2))  # normal scores 0.8 apart, with deviations of 1
    held = 0
    for _ in range(400):
        found = Roc(generator.normal(0.8, 1, 60), generator.normal(0, 1, 90)).auc
        held += found.low <= truth <= found.high
    assert held >= 360


def intervals_that_hold(members: int, others: int, shift: float) -> int:
    """Of 200, drawn with that shift: how many hold the true area."""
    generator = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(shift / 2))
    held = 0
    for _ in range(200):
        found = Roc(generator.normal(shift, 1, members), generator.normal(0, 1, others)).auc
        held += found.low <= truth <= found.high
    return held


@pytest.mark.parametrize(("members", "others"), [(1, 100), (3, 100), (5, 5), (20, 20)])
@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_intervals_of_few_examples_hold_the_true_area_too(
    members: int, others: int, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 intervals at 95%, fewer than 178 hold with probability below 1e-3; without the exact
    interval, that of one member and 100 others holds it in a quarter."""
    assert intervals_that_hold(members, others, shift) >= 178
    if (members, shift) == (1, 0.0):
        monkeypatch.setattr("deniable.audit.roc.FEWEST_OF_EACH", 0)
        assert intervals_that_hold(members, others, shift) < 100


def test_the_interval_of_scores_that_tell_nothing_holds_one_half_and_of_others_does_not() -> None:
    """A null interval at 95% misses by chance; this seed is one of the 95, the control is not."""
    generator = np.random.default_rng(4)
    null = Roc(generator.normal(0, 1, 2000), generator.normal(0, 1, 2000)).auc
    told = Roc(generator.normal(0.2, 1, 2000), generator.normal(0, 1, 2000)).auc
    assert null.low < 0.5 < null.high
    assert told.low > 0.5


def test_where_the_sides_do_not_overlap_the_interval_does_not_shrink_to_a_point() -> None:
    found = Roc(np.ones(20), np.zeros(30)).auc
    assert found.value == found.high == 1.0
    assert 0.7 < found.low < 0.9


def test_what_too_few_others_cannot_resolve_is_said() -> None:
    roc = Roc(np.arange(10.0), np.arange(200.0))
    assert not roc.resolves(0.001)
    assert roc.resolves(0.005)


@pytest.mark.parametrize("scores", [[], [0.0, math.nan]])
def test_a_missing_score_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="score for each of the members"):
        Roc(scores, [0.0])
    with pytest.raises(ValueError, match="score for each of the non-members"):
        Roc([0.0], scores)


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="false-positive rate"):
        Roc([0.0], [1.0]).at(rate)
