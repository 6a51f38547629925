"""The values that carry a guarantee: what is compared, by how much a sum can move, what was spent.

Importable without torch.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


class Neighbouring(enum.StrEnum):
    """Which two data sets epsilon compares (Dwork & Roth, 2014, section 2.3).

    `ADD_OR_REMOVE`: one holds one unit more than the other. `REPLACE`: both hold the same number,
    one of which is another.
    """

    ADD_OR_REMOVE = "add-or-remove"
    REPLACE = "replace"

    @property
    def in_words(self) -> str:
        """What two neighbouring data sets are."""
        if self is Neighbouring.REPLACE:
            return "both hold the same number of units, one of which is another"
        return "one holds one unit more than the other"


@dataclass(frozen=True)
class Sensitivity:
    """The most that a sum can move between neighbouring data sets.

    Attributes:
        value: in the sum's own units.
        neighbouring: which data sets are compared.
        unit: what one of them has and the other has not.
        norm: in which the move is measured: "L2", as Gaussian noise needs it, or "L1", as Laplace
            noise does.

    Raises:
        ValueError: `value` is negative, infinite or NaN.
    """

    value: float
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE
    unit: str = "one example"
    norm: Literal["L1", "L2"] = "L2"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(f"A sensitivity must be finite and at least 0, got {self.value!r}.")

    def under(self, neighbouring: Neighbouring) -> Sensitivity:
        """The same under another relation: replacing a unit is removing it and adding another.

        Raises:
            ValueError: from replacement to adding or removing, which does not follow.

        >>> Sensitivity(1.0).under(Neighbouring.REPLACE).value
        2.0
        """
        if neighbouring is self.neighbouring:
            return self
        if neighbouring is not Neighbouring.REPLACE:
            raise ValueError(f"How far {self} moves for adding or removing is not known.")
        return replace(self, value=2 * self.value, neighbouring=neighbouring)


@dataclass(frozen=True)
class BoundedSum:
    """A sum over units together with its sensitivity: the only thing that noise accepts.

    Attributes:
        sums: the summed per-unit gradient of each parameter, by parameter name.
        sensitivity: how far the concatenation of all sums can move.
    """

    sums: dict[str, Tensor]
    sensitivity: Sensitivity


@dataclass(frozen=True)
class Spent:
    """An (epsilon, delta) guarantee (Dwork et al., 2006, "Our Data, Ourselves", definition 1).

    For neighbouring data sets D, D' and every set S of outcomes,
    `P[M(D) in S] <= exp(epsilon) * P[M(D') in S] + delta`.

    Attributes:
        epsilon: infinite without noise.
        delta: the probability with which epsilon may fail to hold.
        neighbouring: which data sets are compared.
        notes: what must be said beside it, in sentences: that no amplification is claimed, say.
    """

    epsilon: float
    delta: float
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Epsilon and delta; the usual relation, and no notes, go without saying."""
        shown = f"epsilon={self.epsilon!r}, delta={self.delta!r}"
        if self.neighbouring is not Neighbouring.ADD_OR_REMOVE:
            shown += f", neighbouring={self.neighbouring.value!r}"
        if self.notes:
            shown += f", notes={self.notes!r}"
        return f"Spent({shown})"

    @property
    def is_private(self) -> bool:
        """Whether epsilon is finite: a run without noise guarantees nothing."""
        return math.isfinite(self.epsilon)

    def attacker_true_positive_rate(self, false_positive_rate: float) -> float:
        """The most true positives that any membership test can have at a false-positive rate.

        `min(exp(eps) * fpr + delta, 1 - exp(-eps) * (1 - delta - fpr))`, capped at 1
        (Kairouz, Oh & Viswanath, 2015, "The Composition Theorem for Differential Privacy", (4)).

        Raises:
            ValueError: the rate is not between 0 and 1.

        >>> round(Spent(epsilon=3.0, delta=1e-5).attacker_true_positive_rate(0.01), 3)
        0.201
        """
        if not 0 <= false_positive_rate <= 1:
            raise ValueError(
                f"A false-positive rate must lie between 0 and 1, got {false_positive_rate!r}."
            )
        if not self.is_private:
            return 1.0
        grown = math.exp(min(self.epsilon, 700.0))
        first = grown * false_positive_rate + self.delta
        second = 1 - (1 - self.delta - false_positive_rate) / grown
        return min(1.0, first, second)


@dataclass(frozen=True)
class PrivacyCurve:
    """Several (epsilon, delta) guarantees of the same releases: each holds, and so do all of them.

    All pairs together are the trade-off function of the releases (Dong, Roth & Su, 2022, "Gaussian
    Differential Privacy", "A Primal-Dual Perspective"); some of them bound it from the safe side.

    Attributes:
        points: the guarantees.
    """

    points: tuple[Spent, ...]

    @property
    def is_private(self) -> bool:
        """Whether any of the guarantees has a finite epsilon."""
        return any(each.is_private for each in self.points)

    def attacker_true_positive_rate(self, false_positive_rate: float) -> float:
        """The most true positives that any membership test can have at a false-positive rate.

        The least over all points; see `Spent.attacker_true_positive_rate`.

        Raises:
            ValueError: the rate is not between 0 and 1.

        >>> curve = PrivacyCurve((Spent(3.0, 1e-5), Spent(1.0, 0.02)))
        >>> round(curve.attacker_true_positive_rate(0.01), 3)
        0.047
        """
        return min(
            (each.attacker_true_positive_rate(false_positive_rate) for each in self.points),
            default=1.0,
        )


def finite(value: float | None) -> float | None:
    """A number as JSON knows it: None stands for infinity, and stays None."""
    return value if value is not None and math.isfinite(value) else None
