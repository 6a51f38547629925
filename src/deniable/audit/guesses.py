"""Lower bounds on epsilon from one run: many canaries, each with a fair coin, and guesses on them.

On numpy and scipy alone: importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from deniable.audit.estimators import Family, LowerBound, check
from deniable.audit.tradeoff import (
    MOST,
    gaussian_epsilon,
    gaussian_mu,
    largest,
    least_false_positives,
)
from deniable.numeric import is_whole
from deniable.units import PrivacyCurve, Spent

# Shares of canaries that are guessed on.
_SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)


def from_one_run(
    coins: ArrayLike,
    scores: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    family: Family = Family.ANY,
    guesses: int | Sequence[int],
) -> LowerBound:
    """From one run in which each canary was in or out by a fair coin of its own.

    The largest scores are guessed in, the smallest out, half of the guesses each; of all others
    nothing is said. Under (epsilon, delta) the number of right guesses is hardly more than that of
    randomized response: Steinke, Nasr & Jagielski (2023, "Privacy Auditing with One (1) Training
    Run", theorem 5.2). With the Gaussian family: the refinement of Mahloujifar, Melis & Chaudhuri
    (2024, "Auditing f-Differential Privacy in One Run", theorem 9 and algorithm 3).

    Canaries may influence each other's scores, and the run may do what it likes: only the coins
    must be fair, and the guesses made without them.

    Args:
        coins: whether each canary was in.
        scores: of each, larger where it seems to be in.
        delta: at which epsilon is stated.
        confidence: with which the bound holds.
        family: what may be assumed.
        guesses: how many; if several numbers are given, all are tried and paid for.

    Raises:
        ValueError: coins and scores do not fit together, a score is NaN, or there are more guesses
            than canaries.

    >>> generator = np.random.default_rng(0)
    >>> coins = generator.random(5000) < 0.5
    >>> scores = generator.normal(size=5000) + 2 * coins
    >>> bound = from_one_run(coins, scores, delta=1e-5, guesses=200)
    >>> 2.5 < bound.epsilon
    True
    """
    check(delta, confidence)
    tried = list(guesses) if isinstance(guesses, Iterable) else [guesses]
    if not tried:
        raise ValueError("from_one_run needs at least one number of guesses, got none.")
    error, best = (1 - confidence) / len(tried), None
    for count in tried:
        canaries, correct = right_guesses(coins, scores, count)
        mu = _largest_mu(canaries, count, correct, error) if family is Family.GAUSSIAN else None
        epsilon = (
            _largest_epsilon(canaries, count, correct, delta, error)
            if mu is None
            else gaussian_epsilon(mu, delta)
        )
        if best is None or epsilon > best.epsilon:
            seen = (("canaries", canaries), ("guesses", count), ("correct", correct))
            best = LowerBound(epsilon, delta, confidence, family, mu, seen)
    assert best is not None
    return best


def _largest_epsilon(
    canaries: int, guesses: int, correct: int, delta: float, error: float
) -> float:
    """The largest epsilon under which so many right guesses are too improbable."""

    def refuted(epsilon: float) -> bool:
        return _probability(canaries, guesses, correct, epsilon, delta) <= error

    return largest(refuted)


def _largest_mu(canaries: int, guesses: int, correct: int, error: float) -> float:
    """The same of a Gaussian mechanism's mu."""

    def refuted(mu: float) -> bool:
        def least(rate: float) -> float:
            return float(special.ndtr(special.ndtri(rate) - mu))

        return _refuted(canaries, guesses, correct, least, error)

    return largest(refuted)


def one_run_probability(
    coins: ArrayLike, scores: ArrayLike, claim: Spent | PrivacyCurve, *, guesses: int
) -> float:
    """How probable so many right guesses were, at most, if the claim were true: a p-value.

    The test of Mahloujifar et al. (2024) against the claim's own trade-off of errors, with nothing
    assumed.

    Args:
        coins: whether each canary was in.
        scores: of each, larger where it seems to be in.
        claim: what is claimed of the run.
        guesses: how many.

    >>> generator = np.random.default_rng(0)
    >>> coins = generator.random(5000) < 0.5
    >>> scores = generator.normal(size=5000) + 2 * coins
    >>> one_run_probability(coins, scores, Spent(1.0, 1e-5), guesses=200) < 0.01
    True
    """
    canaries, correct = right_guesses(coins, scores, guesses)

    def least(rate: float) -> float:
        return least_false_positives(claim, rate)

    def refuted(surprise: float) -> bool:
        error = min(math.exp(-surprise), 1 - 1e-9)
        return _refuted(canaries, guesses, correct, least, error)

    return math.exp(-largest(refuted, -math.log(1e-12)))


def right_guesses(coins: ArrayLike, scores: ArrayLike, guesses: int) -> tuple[int, int]:
    """How many canaries there are, and how many of the guesses on them are right.

    >>> right_guesses([True, True, False, False], [3.0, 1.0, 2.0, 0.0], guesses=2)
    (4, 2)
    """
    given, found = np.asarray(coins, dtype=bool), np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != found.shape or np.isnan(found).any():
        raise ValueError(
            "from_one_run expects one coin and one score a canary, none of them NaN; got shapes "
            f"{given.shape} and {found.shape}, {int(np.isnan(found).sum())} of them NaN."
        )
    if not (is_whole(guesses) and 1 <= guesses <= len(given)):
        raise ValueError(
            "guesses must be a whole number between 1 and the number of canaries, "
            f"{len(given)}; got {guesses!r}."
        )
    order = np.argsort(found, kind="stable")
    low = guesses // 2
    said_in, said_out = order[len(order) - (guesses - low) :], order[:low]
    return len(given), int(given[said_in].sum() + (~given[said_out]).sum())


def guesses_for(canaries: int, epsilon: float, delta: float, confidence: float = 0.95) -> int:
    """How many guesses promise the largest bound if the claim is just met: known before any score.

    Few guesses are surer, many are more. Of some shares of the canaries, the one with which a
    Gaussian mechanism of that epsilon would have the largest bound on average.

    >>> 100 <= guesses_for(5000, epsilon=3.0, delta=1e-5) <= 500
    True
    """
    mu = gaussian_mu(min(epsilon, MOST), delta)
    error = 1 - confidence
    best, chosen = -1.0, 2
    for share in _SHARES:
        count = max(2, round(share * canaries))
        if count > canaries:
            continue
        right = int(count * _accuracy(mu, count / canaries))
        bound = _largest_epsilon(canaries, count, right, delta, error)
        if bound > best:
            best, chosen = bound, count
    return chosen


def _accuracy(mu: float, share: float) -> float:
    """Of guesses on a share of canaries, half of them at each end, how many a Gaussian allows."""

    def beyond(level: float) -> float:
        inside, outside = special.ndtr(mu / 2 - level), special.ndtr(-mu / 2 - level)
        return float(inside + outside) / 2

    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > share / 2 else (low, middle)
    return float(special.ndtr(mu / 2 - low)) / share


def _probability(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The most that P[at least so many right] can be under (epsilon, delta): theorem 5.2."""
    rate = 1 / (1 + math.exp(-epsilon))
    if not correct:
        return 1.0
    tail = float(special.bdtrc(correct - 1, guesses, rate))
    if not delta:
        return min(1.0, tail)
    fewer = np.arange(1, correct + 1)
    up_to = special.bdtr(correct - 1.0 - fewer[:-1], guesses, rate)
    below = special.bdtr(correct - 1.0, guesses, rate) - np.append(up_to, 0.0)
    return min(1.0, tail + 2 * canaries * delta * float((below / fewer).max()))


def _refuted(
    canaries: int,
    guesses: int,
    correct: int,
    least: Callable[[float], float],
    error: float,
) -> bool:
    """Whether at least so many right has a probability below `error`, by the trade-off function.

    Let `right` be the probability that a canary drawn at random is guessed right and at least i of
    all guesses are, and `wrong` that it is guessed wrong and at least i - 1 are. The two events
    differ in that canary's coin alone, so `wrong >= least(right)`. From the top downwards that says
    how much probability there must be in all; more than there is refutes.
    """
    right, wrong = error * correct / canaries, error * (guesses - correct) / canaries
    for count in range(correct - 1, -1, -1):
        more = max(wrong, least(right))
        right += count / (guesses - count) * (more - wrong)
        wrong = more
        if right + wrong > guesses / canaries:
            return True
    return False
