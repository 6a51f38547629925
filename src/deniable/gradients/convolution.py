"""Per-unit gradients of a convolution's weight."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.gradients.contributions import (
    Contribution,
    Dense,
    InPieces,
    Kept,
    Turned,
    accurate,
    formed,
    scratch,
)
from deniable.gradients.outer import GRAM_ELEMENTS, hidden_by

# Patches and Gram matrices have so many elements at a time on the CPU, which stay in the cache.
CACHED_ELEMENTS = 1 << 19
# A grouped convolution of more channels than this takes up to three times as long per channel.
GROUPED_CHANNELS = 1 << 10


@dataclass
class Convolution(Contribution):
    """A convolution's weight gradient, from its input and the gradient of its output.

    - *instantiate*: *grouped*, one `convolution_backward` in which every unit has groups of its own
      (Rochette, Manoel & Tramel, 2019, section 3); *swapped*, the same as a forward convolution;
      *offsets* and *patches*, matrix products over shifted or copied windows. Each is the fastest
      for some shapes.
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
        input, grad = accurate(input), accurate(grad)
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
    def positions(self) -> int:
        """How many patches a unit has."""
        return self.input.shape[1] * math.prod(self.grad.shape[3:])

    def ways(self) -> dict[str, Callable[[], Contribution]]:
        """Four ways to instantiate, Gram matrices, and norms of gradients that are let go again.

        With groups or positions, one way to instantiate.
        """
        size = math.prod(self.shape)
        if self.groups > 1 or self.input.shape[1] > 1:
            return {"grouped": self._grouped, "streamed": lambda: Kept(self, size)}
        return {
            "gram": lambda: self,
            "grouped": self._grouped,
            "swapped": self._swapped,
            "offsets": self._by_offset,
            "patches": self._by_patch,
            "streamed": lambda: Kept(self, size),
            "streamed patches": lambda: Kept(self, size, "patches"),
        }

    def counts(self) -> dict[str, float]:
        """See `Contribution.counts`; weighted by how well each way keeps the machine busy."""
        positions, size, channels = self.positions, math.prod(self.shape), self.input.shape[2]
        pixels = math.prod(self.input.shape[3:])
        one = float(positions * size)
        patches = positions * size / self.shape[0]
        counts = {
            "gram": one
            + pixels**2 * channels
            + positions**2 * (self.shape[0] + 4 * math.prod(self.shape[2:])),
            "grouped": one * (1 if positions > 200 else 4),
            "swapped": one * max(1.0, channels / 8),
            "offsets": one * 1.5 + 30 * patches,
            "patches": one * 1.5 + 30 * patches,
        }
        counts["streamed"] = counts["grouped"] + one
        counts["streamed patches"] = counts["patches"] + one
        return {way: counts[way] + 3 * size for way in self.ways()}

    def kind(self) -> tuple[Any, ...]:
        """See `Contribution.kind`."""
        return (
            "convolution", tuple(self.shape), tuple(self.input.shape[1:]),
            tuple(self.grad.shape[3:]), tuple(self.stride), tuple(self.dilation), self.groups,
            str(self.grad.dtype),
        )  # fmt: skip

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        return self._grouped().dense()

    def streamed_norms(self, way: str, elements: int) -> Tensor:
        """See `Contribution.streamed_norms`."""
        if way == "patches":
            return self._patches(keep=False)[1]
        return torch.cat([Dense(each).squared_norms() for each in self._gradients()])

    def _grouped(self) -> InPieces:
        """Grouped weight gradients, in which every unit and position has its own groups."""
        pieces = []
        for values in self._gradients():
            pieces.append(Dense(values))
            pieces[-1].squared_norms()  # now, while it is in the cache
        return InPieces(pieces)

    def _gradients(self) -> Iterator[Tensor]:
        """One gradient per unit, a few units at a time."""
        positions, channels = self.input.shape[1:3]
        at_once = self._at_once(max(1, GROUPED_CHANNELS // (positions * channels)))
        for start in range(0, len(self.grad), at_once):
            some = slice(start, start + at_once)
            input, grad = self.input[some], self.grad[some]
            values = self._weight_gradient(
                input.reshape(1, -1, *input.shape[3:]),
                grad.reshape(1, -1, *grad.shape[3:]),
                len(grad) * positions,
            ).view(-1, positions, *self.shape)
            yield values[:, 0] if positions == 1 else values.sum(1)

    def _at_once(self, units: int) -> int:
        """So many units at once on the CPU, where caches are small; elsewhere all of them."""
        return units if self.grad.device.type == "cpu" else max(1, len(self.grad))

    def _swapped(self) -> Dense:
        """The weight gradient as a forward convolution whose kernel is the output gradient."""
        n, _, channels, *_ = self.input.shape
        forward = (F.conv1d, F.conv2d, F.conv3d)[len(self.stride) - 1]
        result = forward(
            self.input[:, 0].transpose(0, 1),
            self.grad.reshape(n * self.shape[0], 1, *self.grad.shape[3:]),
            stride=self.dilation,
            padding=self.padding,
            dilation=self.stride,
            groups=n,
        )
        for dim, size in enumerate(self.shape[2:], start=2):
            result = result.narrow(dim, 0, size)
        values = result.reshape(channels, n, self.shape[0], *self.shape[2:])
        return Dense(values.permute(1, 2, 0, *range(3, values.ndim)).contiguous())

    def _by_offset(self) -> Dense:
        """One batched matrix product for each offset of the kernel."""
        n, _, channels, *_ = self.input.shape
        x, g = self._padded(), self.grad[:, 0].flatten(2)
        kernel = self.shape[2:]
        values = g.new_empty(*kernel, n, self.shape[0], channels)
        for offset in itertools.product(*(range(size) for size in kernel)):
            window = x[(slice(None), slice(None), *self._window(offset))].reshape(n, channels, -1)
            torch.bmm(g, window.transpose(1, 2), out=values[offset])
        d = len(kernel)
        return Dense(values.permute(d, d + 1, d + 2, *range(d)).contiguous())

    def _by_patch(self) -> Turned:
        """One batched matrix product with the patches copied side by side.

        Channels come last, so that a patch is a few long runs of memory.
        """
        d = len(self.stride)
        return Turned.of(*self._patches(), (0, d + 1, *range(1, d + 1)), self.shape)

    def _patches(self, keep: bool = True) -> tuple[Tensor, Tensor]:
        kernel, out = self.shape[2:], self.grad.shape[3:]
        channels, positions, size = self.shape[1], math.prod(out), math.prod(self.shape[1:])
        grad = self.grad[:, 0].flatten(2)

        def form(some: slice, values: Tensor) -> None:
            patches = self._unfolded(self._channels_last(some))
            torch.bmm(grad[some], patches.view(-1, positions, size), out=values.flatten(2))

        at_once = self._at_once(max(1, CACHED_ELEMENTS // (positions * size)))
        return formed(self.grad, (self.shape[0], *kernel, channels), at_once, form, keep)

    def _unfolded(self, x: Tensor) -> Tensor:
        """Patches of `(n, *spatial, C)`, as `(n, *out, size)`.

        One dimension after another, the last one first: so that what is copied, and most of it is
        in the last step, are whole patches.
        """
        for d in reversed(range(len(self.stride))):
            *other, _, values = x.shape
            *skips, step, one = x.stride()
            out, kernel = self.grad.shape[3 + d], self.shape[2 + d]
            windows = x.as_strided(
                (other[0], out, *other[1:], kernel, values),
                (skips[0], step * self.stride[d], *skips[1:], step * self.dilation[d], one),
            )
            x = scratch(f"patches {d}", x, windows.shape).copy_(windows).flatten(-2)
        return x

    def _channels_last(self, some: slice) -> Tensor:
        """The padded input of some units as `(units, *spatial, C)`."""
        x = self.input[some, 0].movedim(1, -1)
        if not any(self.padding):
            if x.shape[-1] == 1:
                return x
            return scratch("pixels", x, x.shape).copy_(x)
        sizes = zip(x.shape[1:-1], self.padding, strict=True)
        shape = len(x), *(size + 2 * pad for size, pad in sizes), x.shape[-1]
        padded = scratch("pixels", x, shape).zero_()
        inner = [slice(pad, pad + n) for pad, n in zip(self.padding, x.shape[1:-1], strict=True)]
        padded[(slice(None), *inner)] = x
        return padded

    def _padded(self) -> Tensor:
        x = self.input[:, 0]
        amounts = [each for size in reversed(self.padding) for each in (size, size)]
        return F.pad(x, amounts) if any(amounts) else x

    def _window(self, offset: tuple[int, ...]) -> tuple[slice, ...]:
        """The padded pixels that meet one offset of the kernel, one for each output position."""
        return tuple(
            slice(o * d, o * d + (length - 1) * s + 1, s)
            for o, d, s, length in zip(
                offset, self.dilation, self.stride, self.grad.shape[3:], strict=True
            )
        )

    def _meeting(self, offset: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The output positions where one offset of the kernel meets pixels, and these pixels."""
        ranges = [
            _met(o * d - pad, s, size, length)
            for o, d, pad, s, size, length in zip(
                offset, self.dilation, self.padding, self.stride, self.input.shape[3:],
                self.grad.shape[3:], strict=True,
            )
        ]  # fmt: skip
        return tuple(out for out, _ in ranges), tuple(pixels for _, pixels in ranges)

    def _squared_norms(self) -> Tensor:
        """By Gram matrices."""
        x, g = accurate(self.input[:, 0]), accurate(self.grad[:, 0])
        pairs = math.prod(x.shape[2:]) ** 2
        at_once = CACHED_ELEMENTS if g.device.type == "cpu" else GRAM_ELEMENTS
        chunk = max(1, at_once // pairs)
        parts = [
            self._gram_norms(x[start : start + chunk], g[start : start + chunk])
            for start in range(0, len(x), chunk)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gram_norms(self, x: Tensor, g: Tensor) -> Tensor:
        """`sum_{s,t} <g_s, g_t> sum_offsets <x_{s + o}, x_{t + o}>`."""
        pixels = _gram("pixels", x)
        patches = scratch("patches", g, (len(g), *g.shape[2:], *g.shape[2:])).zero_()
        for offset in itertools.product(*(range(size) for size in self.shape[2:])):
            out, window = self._meeting(offset)  # what is padded is zero, and adds nothing
            patches[(slice(None), *out, *out)] += pixels[(slice(None), *window, *window)]
        gradients, positions = _gram("gradients", g), math.prod(g.shape[2:])
        grams = [each.view(-1, positions, positions) for each in (gradients, patches)]
        sizes = math.prod(self.shape[1:]), self.shape[0]
        hidden, more = (hidden_by(*each, g.dtype) for each in zip(grams, sizes, strict=True))
        return gradients.mul_(patches).flatten(1).sum(1).add_(hidden).add_(more)

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

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.grad

    def some(self, start: int, stop: int) -> Convolution:
        """See `Contribution.some`."""
        return replace(self, input=self.input[start:stop], grad=self.grad[start:stop])

    def held(self) -> int:
        """See `Contribution.held`."""
        return self.input.nbytes + self.grad.nbytes

    def only(self, keep: Tensor) -> Convolution:
        """See `Contribution.only`."""
        shaped = keep.view(-1, *([1] * (self.input.ndim - 1)))
        zero = self.input.new_zeros(())
        return replace(
            self,
            input=torch.where(shaped, self.input, zero),
            grad=torch.where(shaped, self.grad, zero),
        )


def _gram(use: str, values: Tensor) -> Tensor:
    """Inner products of all pairs of pixels: `(n, C, *spatial)` to `(n, *spatial, *spatial)`."""
    flat, spatial = values.flatten(2), values.shape[2:]
    out = scratch(use, values, (len(values), flat.shape[2], flat.shape[2]))
    return torch.bmm(flat.transpose(1, 2), flat, out=out).view(-1, *spatial, *spatial)


def _met(first: int, stride: int, size: int, length: int) -> tuple[slice, slice]:
    """Which of `length` output positions meet one of `size` pixels, and which pixels these are.

    Position `p` meets pixel `first + p * stride`.

    >>> _met(-1, 1, 8, 8)
    (slice(1, 8, None), slice(0, 7, 1))
    >>> _met(-1, 2, 8, 4)
    (slice(1, 4, None), slice(1, 7, 2))
    """
    start = max(0, -(first // stride))
    stop = max(start, min(length, (size - 1 - first) // stride + 1))
    pixel = first + start * stride
    return slice(start, stop), slice(pixel, pixel + (stop - start) * stride, stride)


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
