"""A clipping threshold from the statistics of a model that was trained on public data."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deniable.bounds import Clip

ROWS_LOOKED_AT = 500


def clip_from_pretraining(
    model: nn.Module, public: tuple[Tensor, Tensor], batch_size: int, lr: float, seed: int
) -> Clip:
    """Clipping to the median norm of rows, after one epoch on public data without privacy.

    Xia et al., "gradient tailoring". The model itself stays as it is.

    Args:
        model: is copied.
        public: inputs and targets that need no protection.
        batch_size: of the training.
        lr: of the training, by plain SGD.
        seed: of the order of its rows.
    """
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=lr)
    inputs, targets = public
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    ordinary_epoch(trained, optimizer, public, order, batch_size)
    few = order[:ROWS_LOOKED_AT]
    return Clip.from_public(
        trained,
        lambda model, inputs, targets: F.cross_entropy(model(inputs), targets),
        (inputs[few], targets[few]),
    )


def ordinary_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: tuple[Tensor, Tensor],
    order: Tensor,
    batch_size: int,
) -> None:
    """One pass over rows in this order, without privacy."""
    inputs, targets = rows
    for some in torch.split(order, batch_size):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[some]), targets[some]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
