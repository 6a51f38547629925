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
    from deniable.audit.sampling import probabilities_of, sampling_of
    from deniable.audit.shadows import Shadows, train_shadows
    from deniable.audit.tradeoff import (
        gaussian_delta,
        gaussian_epsilon,
        gaussian_mu,
        least_false_positives,
    )

_HOME = {
    name: module
    for module, names in {
        "estimators": "Family LowerBound from_rates from_scores",
        "findings": "Audit Finding",
        "gate": "audit",
        "guesses": "from_one_run guesses_for one_run_probability right_guesses",
        "inversion": "Inversion",
        "mechanism": "Mechanism noise_again one_step sensitivity_of step_of",
        "membership": "Candidates membership_inference",
        "one_run": "example_canaries gradient_canaries",
        "roc": "Roc",
        "sampling": "probabilities_of sampling_of",
        "shadows": "Shadows train_shadows",
        "tradeoff": "gaussian_delta gaussian_epsilon gaussian_mu least_false_positives",
    }.items()
    for name in names.split()
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
