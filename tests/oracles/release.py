"""What deniable releases for one batch at noise 0, brought to the scale of a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import deniable
from oracles.gradients import Loss


def everyone(session: Any) -> None:
    """Make the sampler draw every row, so that a batch can be compared row for row."""
    examples = session.plan.examples
    session._sampler.draw = lambda: np.arange(examples)


def no_one(session: Any) -> None:
    """Make the sampler draw no row."""
    session._sampler.draw = lambda: np.arange(0)


def released_sum(
    model: nn.Module,
    batch: Sequence[Tensor],
    loss: Loss,
    norm: float,
    *,
    rows: int | None = None,
    per_row: bool = False,
) -> dict[str, Tensor]:
    """One private step on exactly these rows; `per_row`: the loss is a vector, one a row."""
    n = len(batch[0])
    data = tuple(batch)
    if n == 0:
        data = tuple(torch.zeros(1, *each.shape[1:], dtype=each.dtype) for each in batch)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    plan = deniable.Plan(
        examples=len(data[0]), batch_size=len(data[0]), steps=1, noise_multiplier=0.0, delta=1e-3
    )
    private = deniable.attach(model, optimizer, plan, deniable.Clip(norm))
    (everyone if n else no_one)(private)
    for piece in private.batches(data, rows=rows):
        value = loss(model, *piece)
        if per_row:
            private.backward(value)
        else:
            value.backward()
        optimizer.step()
    private.detach()
    return {
        name: parameter.grad * plan.batch_size
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
