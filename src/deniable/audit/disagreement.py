"""Rare examples: those that one model has learned and another has not.

A private model learns what many examples share. What it gets wrong and a model without privacy
gets right are examples that stand alone: badly written, mislabelled, or simply like no other
(Radebaugh & Erlingsson, 2019, "Introducing TensorFlow Privacy"). For a person behind such an
example that is protection, and it is also a cost: rare need not mean wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deniable.audit.observing import ROWS, evaluating
from deniable.audit.pictures import Case, pixels
from deniable.audit.roc import Floats


@dataclass(frozen=True, eq=False)
class Opinion:
    """What a classifier says of each example.

    Attributes:
        losses: cross-entropy of the label.
        probabilities: of the label.
        predicted: the class that it finds most likely.
        sure: the probability of that class.
    """

    losses: Floats
    probabilities: Floats
    predicted: npt.NDArray[np.int64]
    sure: Floats


@torch.no_grad()
def opinion(model: nn.Module, inputs: Tensor, targets: Tensor) -> Opinion:
    """What a classifier says of examples; it is left in the mode it was in.

    Args:
        model: from inputs to scores `(batch, classes)`.
        inputs: one row an example.
        targets: their labels, `(batch,)`.
    """
    with evaluating(model):
        logs = torch.cat(
            [model(rows).double().log_softmax(-1) for rows in torch.split(inputs, ROWS)]
        )
    own = logs.gather(1, targets[:, None])[:, 0]
    sure, predicted = logs.max(1)
    return Opinion(
        (-own).cpu().numpy(), own.exp().cpu().numpy(), predicted.cpu().numpy(),
        sure.exp().cpu().numpy(),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Two models' opinions of the same examples.

    Attributes:
        private: of the model with privacy, or any model.
        plain: of the other.
    """

    private: Opinion
    plain: Opinion

    @property
    def differences(self) -> Floats:
        """By how much the loss of the private model is the larger one."""
        return self.private.losses - self.plain.losses

    def most(self, count: int) -> list[int]:
        """The rows that the private model has learned least, beside the other; the rarest first."""
        return [int(row) for row in np.argsort(-self.differences, kind="stable")[:count]]

    def least(self, count: int) -> list[int]:
        """The rows on which both losses are closest, among those that both classify alike."""
        alike = self.private.predicted == self.plain.predicted
        distance = np.where(alike, np.abs(self.differences), np.inf)
        return [int(row) for row in np.argsort(distance, kind="stable")[:count]]

    @property
    def agreement(self) -> float:
        """The share of examples that both classify alike."""
        return float((self.private.predicted == self.plain.predicted).mean())


def disagreement(
    private: nn.Module, plain: nn.Module, inputs: Tensor, targets: Tensor
) -> Disagreement:
    """What two classifiers say of the same examples.

    >>> models = [nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)]
    >>> found = disagreement(*models, torch.rand(9, 1, 2, 2), torch.zeros(9, dtype=torch.long))
    >>> row = found.most(1)[0]
    >>> bool(found.differences[row] == found.differences.max())
    True
    """
    return Disagreement(opinion(private, inputs, targets), opinion(plain, inputs, targets))


def cases(
    found: Disagreement,
    inputs: Tensor,
    targets: Tensor,
    rows: Sequence[int],
    names: Sequence[str],
) -> list[Case]:
    """The examples of some rows, for a sheet.

    Args:
        found: what both models say.
        inputs: images, `(n, channels, height, width)`.
        targets: their labels.
        rows: which ones, in order.
        names: what the classes are called.
    """
    private, plain = found.private, found.plain
    return [
        Case(
            pixels(inputs[row].numpy()),
            names[int(targets[row])],
            (names[plain.predicted[row]], float(plain.sure[row])),
            (names[private.predicted[row]], float(private.sure[row])),
            float(private.probabilities[row]),
        )
        for row in rows
    ]
