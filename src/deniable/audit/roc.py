"""What an attack found: true against false accusations, read where few false ones are allowed.

An average hides whom an attack is sure of (Carlini et al., 2022, "Membership Inference Attacks From
First Principles", section III): a test that wrongly accuses one in a thousand and is still often
right does harm that an accuracy of 51% does not show.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm, rankdata

CONFIDENCE = 0.95
POINTS = 200  # of a curve that is drawn
FEWEST_OF_EACH = 10  # for the central limit theorem
RATES = (0.001, 0.01)  # of false positives, at which an attack is said to find so many
NO_GUARANTEE = "an attack, no guarantee"
ATTACKS = {
    "loss": "loss",
    "calibrated": "calibrated loss",
    "quantile": "quantile regression",
    "lira-offline": "LiRA, offline",
    "lira": "LiRA, online",
}
"""What each attack by scores is called in words."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with an interval that holds the true one with probability `CONFIDENCE`.

    Attributes:
        value: as measured.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, count: int, total: int) -> Self:
        """A share, with the exact interval of Clopper & Pearson (1934).

        >>> Estimate.of_share(0, 100)
        Estimate(value=0.0, low=0.0, high=0.0362...)
        """
        interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
        return cls(count / total, float(interval.low), float(interval.high))

    def to_json(self) -> list[float]:
        """Value, low and high."""
        return [self.value, self.low, self.high]


@dataclass(frozen=True)
class OperatingPoint:
    """An attack that accuses whoever scores above a threshold.

    The threshold is chosen on the non-members that are counted here. The interval of the true
    positives is one at that threshold; how far the threshold itself is off is in that of the false
    positives.

    Attributes:
        threshold: whoever scores above it is accused.
        false_positive_rate: the share of non-members that are accused.
        true_positive_rate: the share of members that are accused.
    """

    threshold: float
    false_positive_rate: Estimate
    true_positive_rate: Estimate


class Roc:
    """The receiver operating characteristic of an attack, from its scores.

    Scores of both kinds count, not their scale: the more, the more suspect. Intervals are over
    examples, for the one model that was attacked; another training would give another curve.

    Args:
        members: scores of examples that the model was trained on.
        non_members: scores of others, drawn alike.

    Raises:
        ValueError: a side is empty or holds NaN.

    >>> roc = Roc([0.9, 0.8, 0.4], [0.7, 0.3, 0.2, 0.1])
    >>> round(roc.auc.value, 3), roc.at(0.0).true_positive_rate.value
    (0.917, 0.666...)
    """

    def __init__(
        self,
        members: Sequence[float] | npt.NDArray[Any],
        non_members: Sequence[float] | npt.NDArray[Any],
    ) -> None:
        self.members = _sorted("members", members)
        self.non_members = _sorted("non-members", non_members)

    @property
    def auc(self) -> Estimate:
        """The area under the curve: how often a member scores above a non-member; ties count half.

        The interval is that of DeLong, DeLong & Clarke-Pearson (1988): by the central limit
        theorem. Where the smaller side has too few examples for that, it is the exact one of a
        share of them, which varies more than any area does (Birnbaum & Klose, 1957, "Bounds for the
        Variance of the Mann-Whitney Statistic").
        """
        m, n = len(self.members), len(self.non_members)
        ranks = rankdata(np.concatenate([self.members, self.non_members]))
        of_members = (ranks[:m] - rankdata(self.members)) / n
        of_others = 1 - (ranks[m:] - rankdata(self.non_members)) / m
        area = float(of_members.mean())
        variance = _variance_of_mean(of_members) + _variance_of_mean(of_others)
        few = min(m, n)
        if variance == 0 or few * min(area, 1 - area) < FEWEST_OF_EACH:
            below, above = (Estimate.of_share(each(area * few), few) for each in (floor, ceil))
            return Estimate(area, below.low, above.high)
        reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * variance**0.5
        return Estimate(area, max(0.0, area - reach), min(1.0, area + reach))

    def at(self, false_positive_rate: float) -> OperatingPoint:
        """The most that the attack finds when it may accuse this share of non-members wrongly.

        With fewer non-members than one over the rate, none of them is accused, and what is found is
        not what would be found at this rate: see `resolves`.

        Raises:
            ValueError: the rate is not in [0, 1).
        """
        if not 0 <= false_positive_rate < 1:
            raise ValueError(
                f"A false-positive rate must lie in [0, 1), got {false_positive_rate!r}."
            )
        allowed = int(false_positive_rate * len(self.non_members) * (1 + 1e-12))
        threshold = self.non_members[-1 - allowed]
        return OperatingPoint(
            float(threshold), _above(self.non_members, threshold), _above(self.members, threshold)
        )

    def resolves(self, false_positive_rate: float) -> bool:
        """Whether there are non-members enough for one of them to be accused at this rate."""
        return false_positive_rate * len(self.non_members) * (1 + 1e-12) >= 1

    def curve(self, points: int | None = None) -> tuple[Floats, Floats]:
        """False and true positive rates from (0, .) to (1, 1), each as `at` gives them.

        Args:
            points: at most about so many, evenly spaced in the logarithm; None: one for each
                non-member.
        """
        n = len(self.non_members)
        allowed = np.arange(n)
        if points is not None and n > points:
            allowed = np.unique(np.geomspace(1, n, points).astype(int) - 1)
        thresholds = self.non_members[-1 - allowed]
        false = n - np.searchsorted(self.non_members, thresholds, side="right")
        true = len(self.members) - np.searchsorted(self.members, thresholds, side="right")
        return (
            np.append(false / n, 1.0).astype(np.float64),
            np.append(true / len(self.members), 1.0).astype(np.float64),
        )

    def points(self) -> list[tuple[float, float]]:
        """The curve as pairs, about `POINTS` of them at most, to be drawn: see `curve`."""
        return [(float(x), float(y)) for x, y in zip(*self.curve(POINTS), strict=True)]


def _sorted(side: str, scores: Sequence[float] | npt.NDArray[Any]) -> Floats:
    found = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not len(found) or np.isnan(found[-1]):
        raise ValueError(
            f"An attack needs a score for each of the {side}, and at least one of them; got "
            f"{len(found)} scores, {int(np.isnan(found).sum())} of them NaN."
        )
    return found


def _above(scores: Floats, threshold: float) -> Estimate:
    count = len(scores) - int(np.searchsorted(scores, threshold, side="right"))
    return Estimate.of_share(count, len(scores))


def _variance_of_mean(values: Floats) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
