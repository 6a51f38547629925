"""The slow twin: autograd on one example at a time, in float64, sharing no code with deniable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[..., Tensor]


def in_float64(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    return value


def one_gradient(model: nn.Module, row: Sequence[Any], loss: Loss) -> dict[str, Tensor]:
    """Autograd's gradient of the loss on a batch of one row."""
    model.zero_grad()
    loss(model, *row).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.to_dense()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def gradients_of_rows(
    model: nn.Module, batch: Sequence[Tensor], loss: Loss
) -> list[dict[str, Tensor]]:
    """Autograd's gradient of each row alone, by parameter name, in float64."""
    model = copy.deepcopy(model).double()
    return [
        one_gradient(model, [in_float64(each[i : i + 1]) for each in batch], loss)
        for i in range(len(batch[0]))
    ]


def clipped_means(
    rows: Sequence[dict[str, Tensor]], units: Sequence[Sequence[int]], norm: float
) -> dict[str, Tensor]:
    """The sum over units of the mean of their rows' gradients, each clipped to `norm`.

    Args:
        rows: one gradient for each row, at least one.
        units: the rows of each unit; a unit without rows, or whose mean is not finite, counts as
            zero.
        norm: what the bound is given.
    """
    total = {name: torch.zeros_like(each) for name, each in rows[0].items()}
    for unit in units:
        mean = {name: sum(rows[k][name] for k in unit) / max(1, len(unit)) for name in total}
        size = math.sqrt(sum(float((each**2).sum()) for each in mean.values())) if unit else 0.0
        if size > 0 and math.isfinite(size):
            for name, each in mean.items():
                total[name] += min(1.0, norm / size) * each
    return total


def clipped_sum(
    model: nn.Module, batch: Sequence[Tensor], loss: Loss, norm: float
) -> dict[str, Tensor]:
    """The sum over rows of gradients clipped to `norm`, by parameter name, in float64."""
    rows = gradients_of_rows(model, batch, loss)
    if rows:
        return clipped_means(rows, [[k] for k in range(len(rows))], norm)
    return {
        name: torch.zeros_like(each, dtype=torch.float64)
        for name, each in model.named_parameters()
        if each.requires_grad
    }


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """`|found - expected| / |expected|` over all parameters together."""
    assert found.keys() == expected.keys()
    found = {name: value.detach() for name, value in found.items()}
    expected = {name: value.detach() for name, value in expected.items()}
    difference = sum(float(((found[k].double() - expected[k]) ** 2).sum()) for k in expected)
    size = sum(float((expected[k] ** 2).sum()) for k in expected)
    return math.sqrt(difference) if size == 0 else math.sqrt(difference / size)
