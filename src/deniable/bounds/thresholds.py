"""Norms of single rows' gradients, from which a clipping threshold is chosen before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor, nn

from deniable.events import PureEvent
from deniable.units import Sensitivity

Loss = Callable[..., Tensor]


class Choice(Protocol):
    """A private choice by scores, such as `deniable.noise.Exponential`."""

    @property
    def event(self) -> PureEvent:
        """What one choice releases."""

    def choose(self, scores: Sequence[Fraction], sensitivity: Sensitivity) -> int:
        """The index of one of the scores."""


def norms_of_rows(model: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> Tensor:
    """The norm of each row's gradient, one row after another; float64, `(rows,)`.

    **Not private.** No `.grad` is touched.

    Args:
        model: before it is attached, in the mode in which it is trained.
        loss: called as `loss(model, *row)` on batches of one row.
        batch: tensors with the rows in dimension 0.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    norms = []
    for row in range(len(batch[0])):
        value = loss(model, *(each[row : row + 1] for each in batch)).sum()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        squares = [each.to_dense().double().square().sum() for each in found if each is not None]
        norms.append(torch.stack([each.cpu() for each in squares]).sum().sqrt())
    return torch.stack(norms) if norms else torch.zeros(0, dtype=torch.float64)


def closeness(norms: Tensor, candidates: Sequence[float], quantile: float) -> list[Fraction]:
    """How close each candidate is to the quantile: minus the rows that it is off by.

    `-|#{norms <= candidate} - quantile * rows|`, which one row moves by at most 1, whether it is
    added, removed or replaced, for quantiles from 0 to 1. A norm that is not a number is above
    every candidate.
    """
    target = Fraction(quantile) * len(norms)
    return [-abs(int((norms <= each).sum()) - target) for each in candidates]
