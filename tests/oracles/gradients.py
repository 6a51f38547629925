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


def clipped_sum(
    model: nn.Module, batch: Sequence[Tensor], loss: Loss, norm: float
) -> dict[str, Tensor]:
    """The sum over rows of gradients clipped to `norm`, by parameter name, in float64.

    A row whose gradient is not finite counts as zero.
    """
    model = copy.deepcopy(model).double()
    total: dict[str, Tensor] = {}
    for i in range(len(batch[0])):
        row = [in_float64(each[i : i + 1]) for each in batch]
        grads = one_gradient(model, row, loss)
        size = math.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
        factor = min(1.0, norm / size) if size > 0 else 1.0
        for name, grad in grads.items():
            earlier = total.get(name, torch.zeros_like(grad))
            total[name] = earlier + factor * grad if math.isfinite(size) else earlier
    if not total:
        total = {
            name: torch.zeros_like(each)
            for name, each in model.named_parameters()
            if each.requires_grad
        }
    return total


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """`|found - expected| / |expected|` over all parameters together."""
    assert found.keys() == expected.keys()
    found = {name: value.detach() for name, value in found.items()}
    expected = {name: value.detach() for name, value in expected.items()}
    difference = sum(float(((found[k].double() - expected[k]) ** 2).sum()) for k in expected)
    size = sum(float((expected[k] ** 2).sum()) for k in expected)
    return math.sqrt(difference) if size == 0 else math.sqrt(difference / size)
