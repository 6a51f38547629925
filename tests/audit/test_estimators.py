"""Lower bounds on epsilon hold as often as they say, and come near the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from benchmarks.audits import CONFIDENCE, DELTA, gaussian, measures, randomized_response
from deniable.accounting import spent
from deniable.audit.estimators import Family, from_rates, from_scores
from deniable.audit.guesses import from_one_run, guesses_for, one_run_probability
from deniable.audit.tradeoff import gaussian_epsilon, gaussian_mu, least_false_positives
from deniable.events import GaussianEvent
from deniable.units import PrivacyCurve, Spent

DRAWS, REPETITIONS = 600, 150
# A bound that is too high in 5% of all cases exceeds this in 1 of 100,000 tests, and a test has
# about 30 cases.
MOST_ABOVE = int(stats.binom.isf(1e-5, REPETITIONS, 1 - CONFIDENCE))
MEASURES = measures(DRAWS)


def above(
    measure: Callable[..., float],
    draw: Callable[..., np.ndarray],
    parameter: float,
    truth: float,
    delta: float,
) -> int:
    """How many of the repetitions exceed the truth."""
    count = 0
    for seed in range(REPETITIONS):
        generator = np.random.default_rng([7, seed])
        coins = generator.random(DRAWS) < 0.5
        scores = draw(generator, parameter, coins)
        count += measure(coins, scores, truth, delta) > truth + 1e-9
    return count


@pytest.mark.parametrize("name", MEASURES)
def test_scores_that_say_nothing_report_nothing(name: str) -> None:
    assert above(MEASURES[name][1], gaussian, 0.0, 0.0, DELTA) <= MOST_ABOVE


@pytest.mark.parametrize("mu", [0.5, 2.0])
@pytest.mark.parametrize("name", MEASURES)
def test_bounds_stay_below_the_epsilon_of_a_gaussian_mechanism(name: str, mu: float) -> None:
    truth = gaussian_epsilon(mu, DELTA)
    assert above(MEASURES[name][1], gaussian, mu, truth, DELTA) <= MOST_ABOVE


@pytest.mark.parametrize("name", [name for name in MEASURES if MEASURES[name][0] is Family.ANY])
def test_bounds_stay_below_the_epsilon_of_randomized_response(name: str) -> None:
    """The mechanism that nothing with its epsilon is worse than."""
    assert above(MEASURES[name][1], randomized_response, 1.0, 1.0, 0.0) <= MOST_ABOVE


def test_rates_taken_as_they_were_counted_are_found_out() -> None:
    """The negative control: no confidence, and the best of many thresholds."""

    def naive(coins: np.ndarray, scores: np.ndarray, _: float, delta: float) -> float:
        ordered = np.sort(scores)[20:-20:20]
        rates = [((scores[coins] > e).mean(), (scores[~coins] > e).mean()) for e in ordered]
        mu = max(stats.norm.ppf(hit) - stats.norm.ppf(wrong) for hit, wrong in rates)
        return gaussian_epsilon(mu, delta)

    assert above(naive, gaussian, 0.0, 0.0, DELTA) > MOST_ABOVE


def test_a_number_of_guesses_that_is_chosen_and_not_paid_for_is_found_out() -> None:
    def naive(coins: np.ndarray, scores: np.ndarray, _: float, delta: float) -> float:
        bounds = (
            from_one_run(coins, scores, delta=delta, guesses=count).epsilon
            for count in range(4, DRAWS, 8)
        )
        return max(bounds)

    assert above(naive, gaussian, 0.0, 0.0, DELTA) > MOST_ABOVE


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("thresholds by union, gaussian", 0.9),
        ("thresholds by split, gaussian", 0.85),
        ("one run, guesses by the claim, any", 0.35),
        ("one run, guesses by the claim, gaussian", 0.5),
    ],
)
def test_with_many_draws_bounds_come_near_the_truth(name: str, share: float) -> None:
    generator, mu = np.random.default_rng(3), 1.0
    coins = generator.random(20_000) < 0.5
    measure = measures(20_000)[name][1]
    truth = gaussian_epsilon(mu, DELTA)
    assert measure(coins, gaussian(generator, mu, coins), truth, DELTA) > share * truth


def test_one_run_comes_near_the_epsilon_of_randomized_response() -> None:
    generator = np.random.default_rng(3)
    coins = generator.random(5000) < 0.5
    scores = randomized_response(generator, 2.0, coins)
    assert 1.8 < from_one_run(coins, scores, delta=0.0, guesses=5000).epsilon < 2.0


def test_without_delta_right_guesses_are_as_probable_as_biased_coins() -> None:
    """Theorem 5.2 with delta 0; the same claim as a trade-off of errors is no sharper."""
    coins = np.arange(100) % 10 != 0
    scores = np.linspace(1, 0, 100)  # of 40 guesses the 20 that say in are 18 times right
    count = int(coins[:20].sum() + (~coins[80:]).sum())
    bound = from_one_run(coins, scores, delta=0.0, guesses=40)
    rate = 1 / (1 + math.exp(-bound.epsilon)) if bound.epsilon else 0.5
    assert bound.epsilon > 0 or stats.binom.sf(count - 1, 40, 0.5) > 0.05
    assert stats.binom.sf(count - 1, 40, rate) <= 0.05 + 1e-6 or not bound.epsilon
    claim = Spent(1.0, 0.0)
    exact = stats.binom.sf(count - 1, 40, 1 / (1 + math.exp(-1.0)))
    assert one_run_probability(coins, scores, claim, guesses=40) >= exact - 1e-9


CURVE = PrivacyCurve((Spent(1.0, 1e-5), Spent(0.3, 0.1)))


@pytest.mark.parametrize("claim", [Spent(1.0, 0.0), CURVE])
def test_a_true_claim_is_rarely_improbable(claim: Spent | PrivacyCurve) -> None:
    """Randomized response at the claim: below 5% in no more than 5%, but for 1 in 100,000."""
    epsilon, low = 1.0 if isinstance(claim, Spent) else 0.3, 0
    for seed in range(REPETITIONS):
        generator = np.random.default_rng([8, seed])
        coins = generator.random(DRAWS) < 0.5
        scores = randomized_response(generator, epsilon, coins)
        low += one_run_probability(coins, scores, claim, guesses=200) < 0.05
    assert low <= MOST_ABOVE


def test_a_false_claim_is_improbable() -> None:
    generator = np.random.default_rng(0)
    coins = generator.random(2000) < 0.5
    scores = gaussian(generator, 1.5, coins)
    assert one_run_probability(coins, scores, Spent(1.0, 1e-5), guesses=200) < 1e-3


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.0])
def test_epsilon_of_a_gaussian_mechanism_is_the_accountants(sigma: float) -> None:
    found = gaussian_epsilon(1 / sigma, 1e-5)
    assert found == pytest.approx(spent(GaussianEvent(sigma), 1e-5).epsilon, rel=2e-3)
    assert gaussian_mu(found, 1e-5) == pytest.approx(1 / sigma, rel=1e-6)


def test_fewest_false_positives_undo_the_most_true_positives() -> None:
    curve = PrivacyCurve((Spent(3.0, 1e-5), Spent(1.0, 0.02), Spent(math.inf, 0.0)))
    for rate in (0.0, 0.01, 0.2, 0.7, 0.99):
        found = curve.attacker_true_positive_rate(rate)
        if found < 1:
            assert least_false_positives(curve, found) == pytest.approx(rate, abs=1e-9)


def test_the_number_of_guesses_is_known_before_any_score() -> None:
    assert guesses_for(5000, 3.0, 1e-5) == guesses_for(5000, 3.0, 1e-5)
    assert guesses_for(30, 3.0, 1e-5) <= 30
    assert guesses_for(5000, math.inf, 1e-5) <= 5000


def test_more_guesses_of_the_same_quality_give_a_larger_bound() -> None:
    bounds = [from_rates(9 * n, 10 * n, n, 10 * n, delta=0.0).epsilon for n in (5, 50, 500)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < math.log(9)


def test_a_score_without_an_end_tells_as_much_as_a_large_one() -> None:
    inside, outside = np.full(50, 5.0), np.full(50, -5.0)
    large = from_scores(inside, outside, delta=0.0)
    assert large.epsilon > 1
    assert from_scores(inside * math.inf, outside * math.inf, delta=0.0) == large


def test_guesses_may_be_counted_by_numpy() -> None:
    coins = np.arange(40) % 2 == 0
    found = from_one_run(coins, coins, delta=0.0, guesses=np.int64(20))
    assert found == from_one_run(coins, coins, delta=0.0, guesses=20)


def test_what_cannot_be_scored_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="NaN"):
        from_scores([1.0, math.nan], [0.0, 1.0], delta=0.0)
    with pytest.raises(ValueError, match="one coin and one score a canary"):
        from_one_run([True, False], [1.0], delta=0.0, guesses=1)
    with pytest.raises(ValueError, match="guesses must be a whole number between 1"):
        from_one_run([True, False], [1.0, 0.0], delta=0.0, guesses=3)
    with pytest.raises(ValueError, match=r"got 1\.0"):
        from_one_run([True, False], [1.0, 0.0], delta=0.0, guesses=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one number of guesses"):
        from_one_run([True, False], [1.0, 0.0], delta=0.0, guesses=[])
    with pytest.raises(ValueError, match="between 0 and 1"):
        from_rates(1, 2, 1, 2, delta=1.5)
    with pytest.raises(ValueError, match="some of how many"):
        from_rates(3, 2, 1, 2, delta=0.0)
