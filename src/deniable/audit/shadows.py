"""Shadow models: trained like the model under attack, on known halves of the candidates.

From them an attacker learns how sure a model is of each single example when that was in the
training data, and when it was not (Shokri et al., 2017; Carlini et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deniable.audit.observing import confidences
from deniable.audit.roc import Floats
from deniable.randomness import Streams

Train = Callable[[Tensor, Tensor], nn.Module]
"""Trains a model on inputs and targets, as the one under attack was trained."""


@dataclass(frozen=True, eq=False)
class Shadows:
    """What shadow models say of the candidates: one row a model, one column a candidate.

    Attributes:
        confidences: how sure each model is of each label.
        members: whether the candidate was in the model's training data.

    Raises:
        ValueError: the shapes differ, or there is a candidate that no model was trained without.
    """

    confidences: Floats
    members: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.confidences.shape != self.members.shape or self.confidences.ndim != 2:
            raise ValueError(
                "Shadow models need one confidence and one membership for each model and each "
                f"candidate, got shapes {self.confidences.shape} and {self.members.shape}."
            )
        if self.members.all(axis=0).any():
            raise ValueError(
                "Each candidate must be left out of at least one shadow model. Train more of them, "
                "or on smaller shares of the candidates."
            )


def train_shadows(
    train: Train,
    inputs: Tensor,
    targets: Tensor,
    count: int,
    *,
    share: float = 0.5,
    seed: int | None = None,
    watch: Callable[[int], None] = lambda _: None,
) -> Shadows:
    """Trains shadow models, each on a random share of the candidates.

    Each candidate is in the same number of them: the share of the count, rounded, but at least one
    and not all. Who is drawn together is independent of everything else.

    Args:
        train: called once a model, in order, with its training rows.
        inputs: of all candidates, members and non-members of the model under attack alike.
        targets: their labels.
        count: how many models; 2 or more.
        share: how much of the candidates each is trained on, as the model under attack was.
        seed: of the draw; None: from the operating system.
        watch: told after each model how many there are.

    Raises:
        ValueError: fewer than two models, or a share that is not between 0 and 1.
    """
    if not (count >= 2 and 0 < share < 1):
        raise ValueError(
            "Shadow models must be at least 2, each on a share between 0 and 1 of the candidates; "
            f"got {count!r} and {share!r}."
        )
    held = min(count - 1, max(1, round(share * count)))
    order = Streams(seed).numpy("audit").random((count, len(inputs))).argsort(axis=0)
    members = order < held
    found = []
    for number, drawn in enumerate(members, start=1):
        rows = torch.from_numpy(np.flatnonzero(drawn)).to(inputs.device)
        found.append(confidences(train(inputs[rows], targets[rows]), inputs, targets))
        watch(number)
    return Shadows(np.stack(found), members)
