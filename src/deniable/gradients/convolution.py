"""Per-unit gradients of a convolution's weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.gradients.contributions import Contribution, Dense, accurate


@dataclass
class Convolution(Contribution):
    """A convolution's weight gradient, instantiated by one grouped `convolution_backward`.

    The units are folded into the groups of one large convolution, whose weight gradient then holds
    every unit's gradient side by side: about the cost of one plain weight gradient (Rochette,
    Manoel & Tramel, 2019, section 3).

    Attributes:
        input: `(n, T, C, *spatial)`, padded where the padding cannot be a number.
        grad: `(n, T, O, *out)`.
        shape: the weight's shape `(O, C / groups, *kernel)`.
    """

    input: Tensor
    grad: Tensor
    shape: torch.Size
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(
        cls,
        input: Tensor,
        grad: Tensor,
        shape: torch.Size,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Convolution:
        """From the arguments of `torch.nn.functional.conv*d`, units and positions split off."""
        spatial = len(shape) - 2
        dilations = _per_dimension(dilation, spatial)
        if isinstance(padding, str):
            input, padding = _pad_explicitly(input, padding, shape, dilations)
        return cls(
            input,
            grad,
            shape,
            _per_dimension(stride, spatial),
            _per_dimension(padding, spatial),
            dilations,
            groups,
        )

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        n, positions = self.input.shape[:2]
        folded = n * positions
        # (n, T, C, ...) -> (1, n*T*C, ...): every unit and position becomes its own set of groups.
        x = self.input.reshape(1, -1, *self.input.shape[3:])
        g = self.grad.reshape(1, -1, *self.grad.shape[3:])
        weight = x.new_empty(1).expand(folded * self.shape[0], *self.shape[1:])
        _, gradient, _ = torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation,
            False, [0] * len(self.stride), folded * self.groups, [False, True, False],
        )  # fmt: skip
        values: Tensor = gradient.view(n, positions, *self.shape)
        return Dense(values[:, 0] if positions == 1 else accurate(values).sum(1))

    def squared_norms(self) -> Tensor:
        """See `Contribution.squared_norms`."""
        raise AssertionError("a convolution is made dense before it is reduced")

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        raise AssertionError("a convolution is made dense before it is reduced")

    def only(self, keep: Tensor) -> Dense:
        """See `Contribution.only`."""
        return self.dense().only(keep)


def _per_dimension(value: Any, spatial: int) -> list[int]:
    if isinstance(value, int):
        return [value] * spatial
    values = list(value)
    return values * spatial if len(values) == 1 else values


def _pad_explicitly(
    input: Tensor, padding: str, shape: torch.Size, dilation: list[int]
) -> tuple[Tensor, int]:
    """`padding="same"` may need one more zero behind than in front: pad by hand."""
    if padding == "valid":
        return input, 0
    amounts: list[int] = []
    for size, step in zip(reversed(shape[2:]), reversed(dilation), strict=True):
        total = step * (size - 1)
        amounts += [total // 2, total - total // 2]
    n, positions, *rest = input.shape
    padded = F.pad(input.reshape(n * positions, *rest), amounts)
    return padded.view(n, positions, *padded.shape[1:]), 0


def multiplications(shape: torch.Size, positions: int) -> int:
    """How many multiplications one unit's gradient takes."""
    return math.prod(shape) * positions
