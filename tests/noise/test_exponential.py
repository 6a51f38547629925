"""The exponential mechanism: the law it states, exactly, and nothing that is not finite."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from deniable.events import PureEvent
from deniable.noise import Exponential
from deniable.noise.exponential import _happens
from deniable.units import Neighbouring, Sensitivity

ONE = Sensitivity(1.0)
ALPHA = 1e-6


def below(seed: int):  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(seed)
    return lambda bound: (
        int(generator.integers(bound)) if bound < 2**62 else _large(generator, bound)
    )


def _large(generator: np.random.Generator, bound: int) -> int:
    while True:
        found = int.from_bytes(generator.bytes((bound.bit_length() + 7) // 8)) >> (
            -bound.bit_length() % 8
        )
        if found < bound:
            return found


def frequencies(epsilon: float, scores: list[float], times: int = 20_000) -> np.ndarray:  # type: ignore[type-arg]
    random = below(1)
    mechanism = Exponential(epsilon)
    chosen = [mechanism.choose(scores, ONE, random) for _ in range(times)]
    return np.bincount(chosen, minlength=len(scores))


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_choices_follow_the_law(epsilon: float) -> None:
    """Chi-square at level 1e-6; the law of 1.5 epsilon is rejected."""
    scores = [0.0, -1.0, -2.5, -4.0, -0.5]

    def p_value(stated: float) -> float:
        law = np.exp(stated * np.array(scores) / 2)
        found = frequencies(epsilon, scores)
        return float(stats.chisquare(found, law / law.sum() * found.sum()).pvalue)

    assert p_value(epsilon) > ALPHA
    assert p_value(1.5 * epsilon) < ALPHA


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 2.7])
def test_coins_of_exp_are_exact(exponent: float) -> None:
    """A binomial count, false failure 1e-6."""
    random, times = below(2), 20_000
    found = sum(_happens(Fraction(exponent), random) for _ in range(times))
    assert stats.binom.cdf(found, times, math.exp(-exponent)) + 1e-9 > ALPHA
    assert stats.binom.sf(found - 1, times, math.exp(-exponent)) > ALPHA


def test_scores_far_below_the_best_are_never_waited_for() -> None:
    assert Exponential(1.0).choose([-1e300, 0, -1e6], ONE) == 1


def test_a_better_score_is_likelier_and_its_level_does_not_matter() -> None:
    low, high = frequencies(1.0, [1e9, 1e9 + 4])
    assert high > 3 * low
    assert (frequencies(1.0, [0, 4]) == [low, high]).all()


@pytest.mark.parametrize("scores", [[], [0.0, math.nan], [math.inf]])
def test_scores_that_cannot_be_compared_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="needs scores, all of them finite"):
        Exponential(1.0).choose(scores, ONE)


def test_a_sensitivity_for_another_relation_or_of_0_is_refused() -> None:
    for wrong in (Sensitivity(1.0, Neighbouring.REPLACE), Sensitivity(0.0)):
        with pytest.raises(ValueError, match="needs the sensitivity of its scores"):
            Exponential(1.0).choose([0.0], wrong)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="finite number above 0"):
        Exponential(epsilon)


def test_the_event_is_pure() -> None:
    assert Exponential(0.5, Neighbouring.REPLACE).event == PureEvent(0.5, Neighbouring.REPLACE)
