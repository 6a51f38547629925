"""The exponential mechanism: a private choice of one of several candidates."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from fractions import Fraction

from deniable.events import PureEvent
from deniable.units import Neighbouring, Sensitivity

RandomBelow = Callable[[int], int]
"""A uniformly random whole number from 0 on and below its argument."""


class Exponential:
    """Chooses candidate i with probability proportional to `exp(epsilon * score_i / (2 D))`.

    The exponential mechanism (McSherry & Talwar, 2007, "Mechanism Design via Differential
    Privacy"; Dwork & Roth, 2014, section 3.4), where D is how far one unit can move any score.

    Formal guarantee: (epsilon, 0). Nothing is rounded: probabilities are compared with random whole
    numbers, in exact fractions (Canonne, Kamath & Steinke, 2020, "The Discrete Gaussian for
    Differential Privacy", algorithm 1). How long it takes does depend on the scores.

    Args:
        epsilon: of one choice; above 0.
        neighbouring: the relation that the sensitivities of scores must be for.

    Raises:
        ValueError: epsilon is not a finite number above 0.

    >>> Exponential(1.0).choose([0, -1000, -2000], Sensitivity(1.0))
    0
    """

    def __init__(
        self, epsilon: float, neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE
    ) -> None:
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be a finite number above 0, got {epsilon!r}.")
        self._event = PureEvent(float(epsilon), neighbouring)

    @property
    def event(self) -> PureEvent:
        """What one choice releases; it must be in the ledger before `choose` is called."""
        return self._event

    def choose(
        self,
        scores: Sequence[float | Fraction],
        sensitivity: Sensitivity,
        below: RandomBelow = secrets.randbelow,
    ) -> int:
        """The index of one of the scores.

        Args:
            scores: one for each candidate; the higher, the likelier.
            sensitivity: how far one unit can move any of them.
            below: where randomness comes from: the operating system if not given.

        Raises:
            ValueError: there are no scores, one is not finite, or the sensitivity is 0 or for
                another relation.
        """
        if not scores or not all(math.isfinite(each) for each in scores):
            raise ValueError(f"A choice needs scores, all of them finite; got {list(scores)!r}.")
        if sensitivity.neighbouring is not self._event.neighbouring or sensitivity.value == 0:
            raise ValueError(
                f"A choice under {self._event.neighbouring.value} needs the sensitivity of its "
                f"scores under that relation, above 0; got {sensitivity!r}."
            )
        exact = [Fraction(each) for each in scores]
        per_score = Fraction(self._event.epsilon) / (2 * Fraction(sensitivity.value))
        best = max(exact)
        while True:
            found = below(len(exact))
            if _happens(per_score * (best - exact[found]), below):
                return found


def _happens(exponent: Fraction, below: RandomBelow) -> bool:
    """True with probability `exp(-exponent)`, exactly."""
    while exponent > 1:
        if not _happens_up_to_1(Fraction(1), below):
            return False
        exponent -= 1
    return _happens_up_to_1(exponent, below)


def _happens_up_to_1(exponent: Fraction, below: RandomBelow) -> bool:
    """The same from 0 to 1: how often coins of `exponent / k` land heads in a row is even."""
    k = 1
    while below(exponent.denominator * k) < exponent.numerator:
        k += 1
    return k % 2 == 1
