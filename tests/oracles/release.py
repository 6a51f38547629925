"""What deniable releases for one batch at noise 0, brought to the scale of a sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import deniable
from deniable.grouping import Unit
from oracles.gradients import Loss


def everyone(session: Any) -> None:
    """Make the sampler draw every row, so that a batch can be compared row for row."""
    examples = session.plan.examples
    session._source.sampling.draw = lambda: np.arange(examples)


def no_one(session: Any) -> None:
    """Make the sampler draw no row."""
    session._source.sampling.draw = lambda: np.arange(0)


def released_sum(
    model: nn.Module,
    batch: Sequence[Tensor],
    loss: Loss,
    bound: float | deniable.Bound,
    *,
    drawn: int | None = None,
    strategy: str | None = None,
    **given: Any,
) -> dict[str, Tensor]:
    """The one step of a training that `released_sums` makes of the same arguments."""
    [found] = released_sums([(drawn, strategy)], model, batch, loss, bound, **given)
    return found


def released_sums(
    steps: Sequence[tuple[int | None, str | None]],
    model: nn.Module,
    batch: Sequence[Tensor],
    loss: Loss,
    bound: float | deniable.Bound,
    *,
    rows: int | None = None,
    per_row: bool = False,
    unit: Unit | None = None,
) -> Iterator[dict[str, Tensor]]:
    """What each private step of one training at noise 0 releases.

    Args:
        steps: of each, on how many of the first units of the data set, all if None, and 0 if it is
            empty; and the strategy that is taken wherever it exists. Without one, all are measured.
        model: to train; it stays as it is.
        batch: the data set.
        loss: called as `loss(model, *piece)`.
        bound: what limits each unit, or the norm of `Clip`.
        rows: of one piece.
        per_row: the loss is a vector, one a row.
        unit: what is bounded; a row if not given.
    """
    if not len(batch[0]):
        batch = [torch.zeros(1, *each.shape[1:], dtype=each.dtype) for each in batch]
        steps = [(0, strategy) for _, strategy in steps]
    unit = unit or deniable.Example()
    units = unit.population(len(batch[0]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    plan = deniable.Plan(
        examples=units, batch_size=units, steps=len(steps), noise_multiplier=0.0, delta=1e-3
    )
    seed = 0 if all(strategy for _, strategy in steps) else None
    bound = bound if isinstance(bound, deniable.Bound) else deniable.Clip(bound)
    private = deniable.attach(model, optimizer, plan, bound, unit=unit, seed=seed)
    drawn = iter([np.arange(units if number is None else number) for number, _ in steps])
    private._source.sampling.draw = lambda: next(drawn)
    for piece in private.batches(tuple(batch), rows=rows):
        private._capture.chooser.force = steps[private.steps][1]
        value = loss(model, *piece)
        if per_row:
            private.backward(value)
        else:
            value.backward()
        released = private.steps
        optimizer.step()
        if private.steps > released:
            yield {
                name: parameter.grad * unit.denominator(units)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
    private.detach()
