"""Lower bounds on epsilon, each at a stated confidence, from the scores of an attack.

| bound | from | holds if |
| --- | --- | --- |
| `from_rates` | counts at a threshold that was fixed beforehand | draws are independent |
| `from_scores` | many draws with the unit, many without | draws are independent |
| `from_one_run` | one score a canary, one fair coin a canary | the coins are fair; nothing else |
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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from deniable.audit.tradeoff import gaussian_epsilon

_THRESHOLDS = 12  # ranks at which they are tried

Scores = NDArray[np.float64]


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
    check(delta, confidence)
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
    >>> signal, noise = scores[:10_000] + 1, scores[10_000:]
    >>> bound = from_scores(signal, noise, delta=1e-5, family=Family.GAUSSIAN)
    >>> 0.9 < bound.mu < 1.0
    True
    """
    check(delta, confidence)
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
    best = _Threshold(-1.0, math.inf, 0, 0)  # any is better
    for rank in ranks:
        level = float(ordered[rank - 1])
        found = len(members) - int(np.searchsorted(sorted_members, level, side="right"))
        hit, false = _rates(found, len(members), int(rank) - 1, len(others), error / 2)
        value = _from_errors(hit, false, delta, family)
        if value > best.value:
            best = _Threshold(value, level, found, int(rank) - 1)
    return best


def _rates(found: int, members: int, wrong: int, others: int, error: float) -> tuple[float, float]:
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


def _scores(values: ArrayLike) -> Scores:
    found = np.asarray(values, dtype=np.float64).ravel()
    if len(found) < 2 or np.isnan(found).any():
        raise ValueError(
            f"A bound needs at least two scores with the unit and two without, none of them NaN; "
            f"got {len(found)}, {int(np.isnan(found).sum())} of them NaN."
        )
    return found


def check(delta: float, confidence: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: which of them.
    """
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ValueError(
            f"delta and confidence must lie between 0 and 1, got {delta!r} and {confidence!r}."
        )
