"""What an attacker reads off a classifier: how sure it is of an example's label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deniable.audit.roc import Floats

ROWS = 1000


@torch.no_grad()
def confidences(model: nn.Module, inputs: Tensor, targets: Tensor, rows: int = ROWS) -> Floats:
    """The logit of the probability that the model gives the label: `log(p / (1 - p))`.

    Carlini et al. (2022, "Membership Inference Attacks From First Principles", section IV-A) attack
    this rather than the loss `-log p`: over models it is close to normal. It is computed from the
    scores as `z_y - log(sum of exp(z_j) over j other than y)`, which loses no digits where p is
    close to 1. For a sequence, p is the geometric mean over its positions, as in its mean loss.

    Args:
        model: from inputs to scores `(batch, ..., classes)`; left in the mode it was in.
        inputs: one row an example.
        targets: whole numbers, `(batch, ...)`.
        rows: how many go through the model at once.

    Returns:
        One number an example, in float64; `losses` turns them into losses.

    >>> scores = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    >>> confidences(nn.Identity(), scores, torch.tensor([0, 0])).tolist()
    [0.0, 3.0]
    """
    with evaluating(model):
        found = [
            _of_scores(model(inputs[start : start + rows]), targets[start : start + rows])
            for start in range(0, len(inputs), rows)
        ]
    return np.concatenate(found) if found else np.empty(0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode within, and then in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def losses(confidence: Floats) -> Floats:
    """The cross-entropy losses behind confidences.

    >>> losses(np.array([0.0])).round(4).tolist()
    [0.6931]
    """
    return np.logaddexp(0.0, -confidence)


def of_losses(loss: npt.ArrayLike) -> Floats:
    """Confidences from cross-entropy losses, for models that are reached through their losses only.

    A loss of 0 is a confidence without limit; it should come in float64.

    >>> of_losses([0.6931471805599453]).round(6).tolist()
    [0.0]
    """
    values = np.asarray(loss, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return -values - np.log(-np.expm1(-values))


def _of_scores(scores: Tensor, targets: Tensor) -> Floats:
    exact, labels = scores.double(), targets.unsqueeze(-1)
    own = exact.gather(-1, labels).squeeze(-1)
    others = exact.scatter(-1, labels, -torch.inf).logsumexp(-1)
    margin = own - others
    if margin.dim() > 1:
        return of_losses(nn.functional.softplus(-margin).flatten(1).mean(1).cpu().numpy())
    found: Floats = margin.cpu().numpy()
    return found
