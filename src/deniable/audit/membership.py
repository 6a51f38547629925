"""Membership inference: was this example in the training data? Attacks, no guarantees.

What an attack finds is there to be found. What it does not find may still be there: another attack
may be better. Only a bound on epsilon limits them all.

On average over candidates whose membership fair coins decided, no attack passes what epsilon allows
at any rate of false accusations, except by chance: what is allowed for each candidate is a concave
function of that rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deniable.audit.observing import confidences, losses
from deniable.audit.quantiles import QuantileRegression
from deniable.audit.roc import ATTACKS, Floats, Roc
from deniable.audit.shadows import Shadows


@dataclass(frozen=True, eq=False)
class Candidates:
    """Examples of which an attacker wants to know whether they were in the training data.

    For the intervals and the comparison with epsilon to mean what they say, a fair coin should have
    decided for each one. Where members are a training set and non-members a test set, a difference
    between these two counts as membership.

    Attributes:
        inputs: one row a candidate.
        targets: their labels.
        members: the truth, which attacks are held against.

    Raises:
        ValueError: the three differ in their number of rows, or one side is empty.
    """

    inputs: Tensor
    targets: Tensor
    members: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        rows = {len(self.inputs), len(self.targets), len(self.members)}
        if len(rows) != 1 or not 0 < int(self.members.sum()) < len(self.members):
            raise ValueError(
                "Candidates need one target and one membership for each input, and some of both "
                f"sides; got {len(self.inputs)} inputs, {len(self.targets)} targets and "
                f"{int(self.members.sum())} members of {len(self.members)}."
            )

    @classmethod
    def of(cls, members: tuple[Tensor, Tensor], non_members: tuple[Tensor, Tensor]) -> Candidates:
        """Candidates from the inputs and targets of either side."""
        inputs, targets = (torch.cat(both) for both in zip(members, non_members, strict=True))
        return cls(inputs, targets, np.arange(len(inputs)) < len(members[0]))

    def roc(self, scores: npt.NDArray[Any]) -> Roc:
        """How well scores tell members from non-members."""
        return Roc(scores[self.members], scores[~self.members])


def membership_inference(
    model: nn.Module,
    candidates: Candidates,
    *,
    shadows: Shadows | None = None,
    public: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Roc]:
    """Every attack that there is enough to go on for: an attack each, no guarantee.

    Args:
        model: a classifier, from inputs to scores `(batch, ..., classes)`.
        candidates: whom to tell apart.
        shadows: of the same candidates, from `train_shadows`: for `calibrated`, `lira-offline` and,
            where each candidate was in some and not in others, `lira`.
        public: inputs and targets of further examples that the model was not trained on, for
            `quantile`.

    Returns:
        By a name of `ATTACKS`, what was found.

    Raises:
        ValueError: the shadow models are of other candidates.

    >>> from deniable.data import load
    >>> digits = load("digits")
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> members, others = (
    ...     (torch.from_numpy(each.inputs), torch.from_numpy(each.targets))
    ...     for each in (digits.train, digits.test)
    ... )
    >>> found = membership_inference(model, Candidates.of(members, others))
    >>> area = found["loss"].auc  # the model is not trained: there is nothing to find
    >>> area.low < 0.55 and area.high > 0.45
    True
    """
    seen = confidences(model, candidates.inputs, candidates.targets)
    scores = {"loss": loss_scores(seen)}
    if shadows is not None:
        if shadows.members.shape[1] != len(seen):
            raise ValueError(
                f"The shadow models were observed on {shadows.members.shape[1]} candidates, and "
                f"there are {len(seen)} here. Train them on these."
            )
        scores["calibrated"] = calibrated_scores(seen, shadows)
        scores["lira-offline"] = lira_scores(seen, shadows, online=False)
        if shadows.members.any(axis=0).all():
            scores["lira"] = lira_scores(seen, shadows)
    if public is not None:
        regression = QuantileRegression(*public, confidences(model, *public))
        scores["quantile"] = regression.scores(candidates.inputs, candidates.targets, seen)
    return {name: candidates.roc(scores[name]) for name in ATTACKS if name in scores}


def loss_scores(seen: Floats) -> Floats:
    """Accuses examples of small loss.

    Yeom et al. (2018, "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting",
    section 3), with every threshold in place of the mean training loss.

    Args:
        seen: confidences of the model under attack.
    """
    return -losses(seen)


def calibrated_scores(seen: Floats, shadows: Shadows) -> Floats:
    """Accuses examples whose loss is smaller than models have that never saw them.

    Watson et al. (2022, "On the Importance of Difficulty Calibration in Membership Inference
    Attacks", section 4): an example that every model finds easy tells nothing.

    Args:
        seen: confidences of the model under attack.
        shadows: models that each candidate was left out of.
    """
    usual = _mean_where(~shadows.members, losses(shadows.confidences))
    return usual - losses(seen)


def lira_scores(
    seen: Floats,
    shadows: Shadows,
    *,
    online: bool = True,
    variance: Literal["fixed", "per-example"] = "fixed",
) -> Floats:
    """The likelihood-ratio attack: is a confidence rather that of a member, or of a non-member?

    Carlini et al. (2022, "Membership Inference Attacks From First Principles", algorithm 1 and
    section IV-C). Confidences with the example in the training data, and without it, are taken to
    be normal, with means of its own. Online, the score is the logarithm of the ratio of both
    densities; offline, only models without the example are needed, and the score is by how many
    deviations the confidence lies above theirs.

    Args:
        seen: confidences of the model under attack.
        shadows: models that each candidate was in, and left out of.
        online: whether models that were trained on the candidate are used.
        variance: one for all candidates, which is better with fewer than some 64 models; or one
            for each.

    Raises:
        ValueError: a candidate was in no shadow model, or in too few for a variance of its own.
    """
    without = _normal(~shadows.members, shadows.confidences, variance)
    if not online:
        return (seen - without[0]) / without[1]
    within = _normal(shadows.members, shadows.confidences, variance)
    return _log_density(seen, *within) - _log_density(seen, *without)


def _normal(
    chosen: npt.NDArray[np.bool_], values: Floats, variance: str
) -> tuple[Floats, Floats | float]:
    """Mean of each column over the chosen rows, and the deviation about it."""
    counts = chosen.sum(axis=0)
    least = 1 if variance == "fixed" else 2
    if counts.min() < least:
        raise ValueError(
            f"Each candidate must be in at least {least} shadow models, and left out of as many; "
            f"there is one with {counts.min()}. Train more of them, or say online=False or "
            "variance='fixed'."
        )
    mean = _mean_where(chosen, values)
    squares = np.where(chosen, (values - mean) ** 2, 0.0).sum(axis=0)
    if variance == "per-example":
        return mean, np.sqrt(squares / (counts - 1)) + 1e-12
    freedom = int((counts - 1).sum())  # each mean was fitted to the same values
    if not freedom:
        return mean, 1.0  # nothing is known of it, and one for all does not change the order
    return mean, float(np.sqrt(squares.sum() / freedom)) + 1e-12


def _mean_where(chosen: npt.NDArray[np.bool_], values: Floats) -> Floats:
    found: Floats = np.where(chosen, values, 0.0).sum(axis=0) / chosen.sum(axis=0)
    return found


def _log_density(values: Floats, mean: Floats, deviation: Floats | float) -> Floats:
    return -(((values - mean) / deviation) ** 2) / 2 - np.log(deviation)
