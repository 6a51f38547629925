"""Per-unit gradients of a convolution's weight."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.gradients.contributions import GRAM_ELEMENTS, Contribution, Dense, accurate


@dataclass
class Convolution(Contribution):
    """A convolution's weight gradient, from its input and the gradient of its output.

    - *instantiate*: one grouped `convolution_backward`, in which every unit has groups of its own,
      gives all units' gradients side by side, at about the cost of one plain weight gradient
      (Rochette, Manoel & Tramel, 2019, section 3).
    - *Gram*: the inner product of two patches is a sum over kernel offsets of inner products of
      single pixels, so the Gram matrix of patches is a sum of shifted slices of the pixels' own,
      `k^d` times cheaper than unfolding.

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

    @property
    def has_gram(self) -> bool:
        """Whether the Gram form exists: one position per unit and one group."""
        return self.groups == 1 and self.input.shape[1] == 1

    @property
    def positions(self) -> int:
        """How many patches a unit has."""
        return self.input.shape[1] * math.prod(self.grad.shape[3:])

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        n, positions = self.input.shape[:2]
        folded = n * positions
        # (n, T, C, ...) -> (1, n*T*C, ...): every unit and position becomes its own set of groups.
        gradient = self._weight_gradient(
            self.input.reshape(1, -1, *self.input.shape[3:]),
            self.grad.reshape(1, -1, *self.grad.shape[3:]),
            folded,
        )
        values = gradient.view(n, positions, *self.shape)
        return Dense(values[:, 0] if positions == 1 else accurate(values).sum(1))

    def squared_norms(self) -> Tensor:
        """See `Contribution.squared_norms`; by Gram matrices."""
        x, g = accurate(self.input[:, 0]), accurate(self.grad[:, 0])
        amounts = [each for size in reversed(self.padding) for each in (size, size)]
        x = F.pad(x, amounts) if any(amounts) else x
        pairs = math.prod(x.shape[2:]) ** 2
        chunk = max(1, GRAM_ELEMENTS // pairs)
        parts = [
            self._gram_norms(x[start : start + chunk], g[start : start + chunk])
            for start in range(0, len(x), chunk)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gram_norms(self, x: Tensor, g: Tensor) -> Tensor:
        """`sum_{s,t} <g_s, g_t> sum_offsets <x_{s + o}, x_{t + o}>`."""
        n, out = len(x), g.shape[2:]
        flat = x.flatten(2)
        pixels = torch.bmm(flat.transpose(1, 2), flat).view(n, *x.shape[2:], *x.shape[2:])
        patches: Tensor | None = None
        for offset in itertools.product(*(range(size) for size in self.shape[2:])):
            window = tuple(
                slice(o * d, o * d + (length - 1) * s + 1, s)
                for o, d, s, length in zip(offset, self.dilation, self.stride, out, strict=True)
            )
            shifted = pixels[(slice(None), *window, *window)]
            patches = shifted.clone() if patches is None else patches.add_(shifted)
        assert patches is not None
        flat = g.flatten(2)
        gradients = torch.bmm(flat.transpose(1, 2), flat)
        return (gradients * patches.view_as(gradients)).sum((1, 2))

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`; one plain weight gradient."""
        shaped = weights.view(-1, *([1] * (self.grad.ndim - 1)))
        return self._weight_gradient(
            accurate(self.input).flatten(0, 1),
            (accurate(self.grad) * shaped).flatten(0, 1),
            1,
        ).view(self.shape)

    def _weight_gradient(self, input: Tensor, grad: Tensor, copies: int) -> Tensor:
        weight = input.new_empty(1).expand(copies * self.shape[0], *self.shape[1:])
        _, gradient, _ = torch.ops.aten.convolution_backward(
            grad, input, weight, None, self.stride, self.padding, self.dilation,
            False, [0] * len(self.stride), copies * self.groups, [False, True, False],
        )  # fmt: skip
        result: Tensor = gradient
        return result

    def only(self, keep: Tensor) -> Convolution:
        """See `Contribution.only`."""
        shaped = keep.view(-1, *([1] * (self.input.ndim - 1)))
        zero = self.input.new_zeros(())
        return replace(
            self,
            input=torch.where(shaped, self.input, zero),
            grad=torch.where(shaped, self.grad, zero),
        )


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
