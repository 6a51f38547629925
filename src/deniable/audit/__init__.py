"""Audits: what a model gives away, measured from the outside, against what is claimed.

A claim is an upper bound on epsilon, by way of a proof; an audit measures a lower bound, by way of
an attack. Where the lower exceeds the upper, the proof or the code is wrong.

Names are loaded on first use: `estimators` needs numpy and scipy alone, and whoever turns scores
into bounds need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deniable.audit.drawing import probabilities_of, sampling_of
    from deniable.audit.estimators import Family, LowerBound, from_rates, from_scores
    from deniable.audit.findings import Audit, Finding
    from deniable.audit.gate import audit
    from deniable.audit.guesses import (
        from_one_run,
        guesses_for,
        one_run_probability,
        right_guesses,
    )
    from deniable.audit.inversion import Inversion
    from deniable.audit.mechanism import (
        Mechanism,
        noise_again,
        one_step,
        sensitivity_of,
        step_of,
    )
    from deniable.audit.membership import Candidates, membership_inference
    from deniable.audit.one_run import example_canaries, gradient_canaries
    from deniable.audit.roc import Roc
    from deniable.audit.shadows import Shadows, train_shadows
    from deniable.audit.tradeoff import (
        gaussian_delta,
        gaussian_epsilon,
        gaussian_mu,
        least_false_positives,
    )

_HOME = {
    "Audit": "findings",
    "Candidates": "membership",
    "Family": "estimators",
    "Finding": "findings",
    "Inversion": "inversion",
    "LowerBound": "estimators",
    "Mechanism": "mechanism",
    "Roc": "roc",
    "Shadows": "shadows",
    "audit": "gate",
    "example_canaries": "one_run",
    "from_one_run": "guesses",
    "from_rates": "estimators",
    "from_scores": "estimators",
    "gaussian_delta": "tradeoff",
    "gaussian_epsilon": "tradeoff",
    "gaussian_mu": "tradeoff",
    "gradient_canaries": "one_run",
    "guesses_for": "guesses",
    "least_false_positives": "tradeoff",
    "membership_inference": "membership",
    "noise_again": "mechanism",
    "one_run_probability": "guesses",
    "one_step": "mechanism",
    "probabilities_of": "drawing",
    "right_guesses": "guesses",
    "sampling_of": "drawing",
    "sensitivity_of": "mechanism",
    "step_of": "mechanism",
    "train_shadows": "shadows",
}

__all__ = [
    "Audit",
    "Candidates",
    "Family",
    "Finding",
    "Inversion",
    "LowerBound",
    "Mechanism",
    "Roc",
    "Shadows",
    "audit",
    "example_canaries",
    "from_one_run",
    "from_rates",
    "from_scores",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "gradient_canaries",
    "guesses_for",
    "least_false_positives",
    "membership_inference",
    "noise_again",
    "one_run_probability",
    "one_step",
    "probabilities_of",
    "right_guesses",
    "sampling_of",
    "sensitivity_of",
    "step_of",
    "train_shadows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deniable.audit' has no attribute {name!r}")
    value = getattr(import_module(f"deniable.audit.{_HOME[name]}"), name)
    globals()[name] = value
    return value
