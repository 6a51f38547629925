"""Lower bounds on epsilon, each at a stated confidence, from the scores of an attack.

| bound | from | holds if |
| --- | --- | --- |
| `from_rates` | counts at a threshold that was fixed beforehand | draws are independent |
| `from_scores` | many draws with the unit, many without | draws are independent |
| `one_run` | one score a canary, one fair coin a canary | the coins are fair; nothing else |
| `Family.GAUSSIAN`, with each | the same | the trade-off of errors is a Gaussian's, too |

Every function is a statistical test turned around: it returns the largest epsilon that the scores
refute. With probability at least `confidence` that is below the true one. What is searched over is
paid for: thresholds by a union bound or on a part of the scores, numbers of guesses by a union
bound.

On numpy and scipy alone: importable without torch.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from deniable.units import PrivacyCurve, Spent

_MOST = 64.0  # an epsilon beyond this says no more than this one does
_HALVINGS = 40
# Ranks at which thresholds are tried, and shares of canaries that are guessed on.
_THRESHOLDS = 12
_SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)

Scores = NDArray[np.float64]
Coins = NDArray[np.bool_]


class Family(enum.StrEnum):
    """What is assumed of the mechanism beside what is measured.

    `ANY`: nothing. `GAUSSIAN`: that its trade-off of errors is that of a Gaussian mechanism, which
    is (nearly) so of many composed noisy sums, so that epsilon at a small delta follows from errors
    that are common enough to be counted (Dong, Roth & Su, 2022, "Gaussian Differential Privacy").
    """

    ANY = "any"
    GAUSSIAN = "gaussian"

    @property
    def assumes(self) -> str:
        """In words."""
        if self is Family.ANY:
            return "nothing of the mechanism"
        return "that errors trade off as a Gaussian mechanism's do"


@dataclass(frozen=True)
class LowerBound:
    """What the scores refute: at `confidence`, the mechanism's epsilon at `delta` is above.

    Attributes:
        epsilon: at least 0; 0 says that nothing was found.
        delta: at which epsilon is stated.
        confidence: with which the bound is below the true epsilon.
        family: what is assumed.
        mu: of the Gaussian mechanism, where one is assumed.
        counts: what was counted: guesses and how many were right, or errors at the threshold.
    """

    epsilon: float
    delta: float
    confidence: float
    family: Family = Family.ANY
    mu: float | None = None
    counts: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "confidence": self.confidence,
            "assumes": self.family.assumes,
            "mu": self.mu,
            **dict(self.counts),
        }


# -- many draws of one mechanism -------------------------------------------------------------------


def from_rates(
    found: int,
    members: int,
    wrong: int,
    others: int,
    *,
    delta: float,
    confidence: float = 0.95,
    family: Family = Family.ANY,
) -> LowerBound:
    """From the errors of a test whose threshold was fixed before these draws were seen.

    Clopper & Pearson (1934) bound the true-positive rate from below and the false-positive rate
    from above, each with half of the error. For any mechanism
    `epsilon >= max(ln((TPR - delta) / FPR), ln((TNR - delta) / FNR))` (Kairouz, Oh & Viswanath,
    2015, theorem 2.1); for a Gaussian one `mu >= Phi^-1(TPR) - Phi^-1(FPR)` (Nasr et al., 2023,
    "Tight Auditing of Differentially Private Machine Learning", section 4).

    Args:
        found: draws with the unit that the test says have it.
        members: draws with the unit.
        wrong: draws without the unit that the test says have it.
        others: draws without.
        delta: at which epsilon is stated.
        confidence: with which the bound holds.
        family: what may be assumed.

    Raises:
        ValueError: counts that are none, or a delta or confidence that is not between 0 and 1.

    >>> bound = from_rates(900, 1000, 100, 1000, delta=1e-5)
    >>> 1.9 < bound.epsilon < math.log(9)
    True
    """
    _check(delta, confidence)
    if not (0 <= found <= members and 0 <= wrong <= others and members and others):
        raise ValueError(
            f"Counts must be some of how many, got {found} of {members} and {wrong} of {others}."
        )
    hit, false = _rates(found, members, wrong, others, (1 - confidence) / 2)
    mu = _from_errors(hit, false, delta, family)
    epsilon = gaussian_epsilon(mu, delta) if family is Family.GAUSSIAN else mu
    return LowerBound(
        epsilon,
        delta,
        confidence,
        family,
        mu if family is Family.GAUSSIAN else None,
        (("found", found), ("members", members), ("wrong", wrong), ("others", others)),
    )


def from_scores(
    inside: ArrayLike,
    outside: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    family: Family = Family.ANY,
    thresholds: Literal["union", "split"] = "union",
) -> LowerBound:
    """From scores of independent draws with the unit and without it, larger where it is in.

    The threshold is chosen honestly. "union": thresholds are the scores without the unit at ranks
    fixed beforehand. At each, the false-positive rate is that of an order statistic, of which
    Clopper and Pearson's bound is exact; all of them hold at once by a union bound. "split": one
    half of the scores chooses, the other half counts.

    Args:
        inside: scores with the unit.
        outside: scores without.
        delta: at which epsilon is stated.
        confidence: with which the bound holds.
        family: what may be assumed.
        thresholds: how one is chosen.

    Raises:
        ValueError: fewer than two scores of a kind, one that is NaN, or a delta or confidence that
            is not between 0 and 1.

    >>> generator = np.random.default_rng(0)
    >>> scores = generator.normal(size=20_000)
    >>> bound = from_scores(
    ...     scores[:10_000] + 1, scores[10_000:], delta=1e-5, family=Family.GAUSSIAN
    ... )
    >>> 0.9 < bound.mu < 1.0
    True
    """
    _check(delta, confidence)
    members, others = _scores(inside), _scores(outside)
    if thresholds == "split":
        half, rest = len(members) // 2, len(others) // 2
        level = _best(members[:half], others[:rest], delta, confidence, family).level
        members, others = members[half:], others[rest:]
        counts = int((members > level).sum()), int((others > level).sum())
        return from_rates(
            counts[0],
            len(members),
            counts[1],
            len(others),
            delta=delta,
            confidence=confidence,
            family=family,
        )
    best = _best(members, others, delta, confidence, family)
    gaussian = family is Family.GAUSSIAN
    return LowerBound(
        gaussian_epsilon(best.value, delta) if gaussian else best.value,
        delta,
        confidence,
        family,
        best.value if gaussian else None,
        (
            ("found", best.found),
            ("members", len(members)),
            ("wrong", best.wrong),
            ("others", len(others)),
        ),
    )


@dataclass(frozen=True)
class _Threshold:
    value: float
    level: float
    found: int
    wrong: int


def _best(
    members: Scores, others: Scores, delta: float, confidence: float, family: Family
) -> _Threshold:
    """The threshold of the largest bound, all of them holding at once."""
    ordered, sorted_members = np.sort(others)[::-1], np.sort(members)
    # From the fewest false positives that can be counted to the fewest false negatives.
    exponents = np.linspace(0, 1, _THRESHOLDS // 2)
    few = np.unique(np.round(len(others) ** exponents / 2**exponents).astype(int))
    ranks = np.unique(np.concatenate([few, len(others) + 1 - few]).clip(1, len(others)))
    error = (1 - confidence) / len(ranks)
    best = _Threshold(0.0, math.inf, 0, 0)
    for rank in ranks:
        level = float(ordered[rank - 1])
        found = len(members) - int(np.searchsorted(sorted_members, level, side="right"))
        hit, false = _rates(found, len(members), int(rank) - 1, len(others), error / 2)
        value = _from_errors(hit, false, delta, family)
        if value > best.value or not math.isfinite(best.level):
            best = _Threshold(value, level, found, int(rank) - 1)
    return best


def _rates(
    found: int, members: int, wrong: int, others: int, error: float
) -> tuple[float, float]:
    """The least true-positive and the largest false-positive rate, each with `error`."""
    hit = stats.beta.ppf(error, found, members - found + 1) if found else 0.0
    false = stats.beta.ppf(1 - error, wrong + 1, others - wrong) if wrong < others else 1.0
    return float(hit), float(false)


def _from_errors(hit: float, false: float, delta: float, family: Family) -> float:
    """Epsilon, or mu of the Gaussian family, of a test with such rates."""
    if family is Family.GAUSSIAN:
        return max(0.0, float(special.ndtri(hit) - special.ndtri(false)))
    ratios = ((hit - delta, false), (1 - false - delta, 1 - hit))
    found = [math.log(a / b) for a, b in ratios if a > 0 and b > 0]
    return max([0.0, *found])


# -- one run with many canaries --------------------------------------------------------------------


def one_run(
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
    >>> bound = one_run(coins, generator.normal(size=5000) + 2 * coins, delta=1e-5, guesses=200)
    >>> 2.5 < bound.epsilon
    True
    """
    _check(delta, confidence)
    tried = [guesses] if isinstance(guesses, int) else list(guesses)
    if not tried:
        raise ValueError("one_run needs at least one number of guesses, got none.")
    error, best = (1 - confidence) / len(tried), None
    for count in tried:
        canaries, correct = right_guesses(coins, scores, count)
        if family is Family.GAUSSIAN:
            mu = _largest(
                lambda mu, n=canaries, r=count, c=correct: _refuted(
                    n, r, c, lambda rate: float(special.ndtr(special.ndtri(rate) - mu)), error
                )
            )
            epsilon = gaussian_epsilon(mu, delta)
        else:
            mu = None
            epsilon = _largest(
                lambda each, n=canaries, r=count, c=correct: (
                    _probability(n, r, c, each, delta) <= error
                )
            )
        if best is None or epsilon > best.epsilon:
            seen = (("canaries", canaries), ("guesses", count), ("correct", correct))
            best = LowerBound(epsilon, delta, confidence, family, mu, seen)
    assert best is not None
    return best


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
    >>> one_run_probability(coins, scores, Spent(1.0, 1e-5), guesses=200) < 1e-6
    True
    """
    canaries, correct = right_guesses(coins, scores, guesses)

    def least(rate: float) -> float:
        return least_false_positives(claim, rate)

    if not _refuted(canaries, guesses, correct, least, 1 - 1e-9):
        return 1.0
    low, high = math.log(1e-12), 0.0
    if _refuted(canaries, guesses, correct, least, 1e-12):
        return 1e-12
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _refuted(canaries, guesses, correct, least, math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.exp(high)


def right_guesses(coins: ArrayLike, scores: ArrayLike, guesses: int) -> tuple[int, int]:
    """How many canaries there are, and how many of the guesses on them are right.

    >>> right_guesses([True, True, False, False], [3.0, 1.0, 2.0, 0.0], guesses=2)
    (4, 2)
    """
    given, found = np.asarray(coins, dtype=bool), np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or given.shape != found.shape or np.isnan(found).any():
        raise ValueError(
            "one_run expects one coin and one score a canary, none of them NaN; got shapes "
            f"{given.shape} and {found.shape}, {int(np.isnan(found).sum())} of them NaN."
        )
    if not 1 <= guesses <= len(given):
        raise ValueError(
            f"guesses must be between 1 and the number of canaries, {len(given)}; got {guesses}."
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
    mu = gaussian_mu(min(epsilon, _MOST), delta)
    error = 1 - confidence
    best, chosen = -1.0, 2
    for share in _SHARES:
        count = max(2, round(share * canaries))
        if count > canaries:
            continue
        right = int(count * _accuracy(mu, count / canaries))
        bound = _largest(
            lambda each, r=count, c=right: _probability(canaries, r, c, each, delta) <= error
        )
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


def _probability(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """The most that P[at least so many right] can be under (epsilon, delta): theorem 5.2."""
    rate = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, rate))
    if not correct or not delta:
        return min(1.0, tail)
    fewer = np.arange(1, correct + 1)
    below = np.cumsum(stats.binom.pmf(correct - fewer, guesses, rate))
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


# -- the trade-off of errors -----------------------------------------------------------------------


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Delta of the Gaussian mechanism with sensitivity over deviation `mu`, at epsilon.

    `Phi(-epsilon / mu + mu / 2) - exp(epsilon) Phi(-epsilon / mu - mu / 2)` (Balle & Wang, 2018,
    "Improving the Gaussian Mechanism for Differential Privacy", theorem 8).

    >>> round(gaussian_delta(1.0, 1.0), 4)
    0.1269
    """
    if mu <= 0:
        return max(0.0, -math.expm1(epsilon)) if epsilon < 0 else 0.0
    first = float(special.log_ndtr(-epsilon / mu + mu / 2))
    second = epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2))
    return math.exp(first) * -math.expm1(min(0.0, second - first))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism with sensitivity over deviation `mu`, at delta.

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if not math.isfinite(mu):
        return math.inf
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    return _largest(lambda each: gaussian_delta(mu, each) > delta, high)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The Gaussian mechanism whose epsilon at delta this is.

    >>> round(gaussian_mu(gaussian_epsilon(0.7, 1e-5), 1e-5), 6)
    0.7
    """
    return _largest(lambda mu: gaussian_delta(mu, epsilon) < delta, 2 * _MOST)


def least_false_positives(claim: Spent | PrivacyCurve, rate: float) -> float:
    """The fewest false positives at which any test has the true-positive rate, under a claim.

    The inverse of `attacker_true_positive_rate`.

    >>> claim = Spent(epsilon=3.0, delta=1e-5)
    >>> round(least_false_positives(claim, claim.attacker_true_positive_rate(0.01)), 6)
    0.01
    """
    least = 0.0
    for each in claim.points if isinstance(claim, PrivacyCurve) else (claim,):
        if each.is_private and each.epsilon < 700:
            grown = math.exp(each.epsilon)
            least = max(
                least, (rate - each.delta) / grown, 1 - each.delta - grown * (1 - rate)
            )
    return least


def roc(coins: ArrayLike, scores: ArrayLike, points: int = 200) -> list[tuple[float, float]]:
    """False- and true-positive rates over all thresholds, thinned.

    >>> roc([True, False], [1.0, 0.0])
    [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    """
    given, found = np.asarray(coins, dtype=bool), np.asarray(scores, dtype=np.float64)
    order = np.argsort(-found, kind="stable")
    ordered = given[order]
    ends = np.append(np.flatnonzero(np.diff(found[order])), len(order) - 1)
    hits = np.cumsum(ordered)[ends] / max(1, given.sum())
    wrong = np.cumsum(~ordered)[ends] / max(1, (~given).sum())
    # Denser where false positives are few, which is where claims are tested.
    kept = np.unique((np.linspace(0, 1, points) ** 3 * (len(ends) - 1)).round().astype(int))
    return [(0.0, 0.0), *((float(wrong[each]), float(hits[each])) for each in kept)]


def _largest(refuted: Callable[[float], bool], high: float = _MOST) -> float:
    """The largest value that is refuted, where all smaller ones are too; 0 where none is."""
    if not refuted(0.0):
        return 0.0
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _scores(values: ArrayLike) -> Scores:
    found = np.asarray(values, dtype=np.float64).ravel()
    if len(found) < 2 or np.isnan(found).any():
        raise ValueError(
            f"A bound needs at least two scores with the unit and two without, none of them NaN; "
            f"got {len(found)}, {int(np.isnan(found).sum())} of them NaN."
        )
    return found


def _check(delta: float, confidence: float) -> None:
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ValueError(
            f"delta and confidence must lie between 0 and 1, got {delta!r} and {confidence!r}."
        )
