"""One-run audits: how well canaries that were in a run are told from those that were out.

White box: every release is seen, and each gradient canary is scored by its inner product with all
of them. Black box: only the final model is seen, and each example canary is scored by its loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from deniable.audit.estimators import Family, LowerBound
from deniable.audit.findings import CONFIDENCE, TOGETHER, Finding
from deniable.audit.guesses import from_one_run, guesses_for, one_run_probability
from deniable.units import PrivacyCurve, Spent

# With fewer canaries than these, not even a perfect attack shows much.
FEWEST = 20
TESTS_OF_GRADIENTS, TESTS_OF_EXAMPLES = 3, 1


def gradient_canaries(
    coins: ArrayLike,
    scores: ArrayLike,
    claim: Spent,
    curve: Spent | PrivacyCurve,
    tests: int,
) -> list[Finding]:
    """What the scores of gradient canaries say of a whole run, and of the claim itself.

    Args:
        coins: which canaries were in.
        scores: of each, from `Canaries.scores`.
        claim: epsilon and delta of the run.
        curve: everything that is claimed of the run's trade-off of errors.
        tests: how many tests share the error of the whole audit.
    """
    count, guesses = len(np.asarray(coins)), _guesses(coins, claim)
    found = [
        _finding(
            "gradient canaries" + ("" if family is Family.ANY else ", if Gaussian"),
            f"{count:,} canaries in the white-box view of every release",
            coins,
            scores,
            claim,
            family,
            guesses,
            tests,
        )
        for family in (Family.ANY, Family.GAUSSIAN)
    ]
    probability = one_run_probability(coins, scores, curve, guesses=guesses)
    holds = probability >= (1 - TOGETHER) / tests
    says = (
        "Against the claim's own trade-off of errors, so many right guesses have a probability of "
        f"at most {probability:.2g}" + (", so the claim is wrong." if not holds else ".")
    )
    return [*found, Finding("the claim's curve", "whole run", None, None, None, holds, says)]


def example_canaries(
    coins: ArrayLike, losses: ArrayLike, claim: Spent, tests: int
) -> list[Finding]:
    """What the losses of example canaries under the final model say of a whole run.

    Args:
        coins: which canaries were in.
        losses: of each; smaller where the model knows it.
        claim: epsilon and delta of the run.
        tests: how many tests share the error of the whole audit.
    """
    count, guesses = len(np.asarray(coins)), _guesses(coins, claim)
    return [
        _finding(
            "mislabelled examples",
            f"{count:,} mislabelled examples in the black-box view of the final model",
            coins,
            -np.asarray(losses, dtype=np.float64),
            claim,
            Family.ANY,
            guesses,
            tests,
        )
    ]


def _guesses(coins: ArrayLike, claim: Spent) -> int:
    """From the claim alone, before any score is looked at."""
    return guesses_for(len(np.asarray(coins)), claim.epsilon, claim.delta, CONFIDENCE)


def _finding(
    name: str,
    what: str,
    coins: ArrayLike,
    scores: ArrayLike,
    claim: Spent,
    family: Family,
    guesses: int | Sequence[int],
    tests: int,
) -> Finding:
    def measure(confidence: float) -> LowerBound:
        return from_one_run(
            coins, scores, delta=claim.delta, confidence=confidence, family=family, guesses=guesses
        )

    def says(bound: LowerBound) -> str:
        counts = dict(bound.counts)
        return f"{what}: {counts['correct']} of {counts['guesses']} guesses who was in were right."

    return Finding.measured(name, "whole run", claim.epsilon, measure, tests, says)
