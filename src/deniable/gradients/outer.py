"""Outer products of what a use met and the gradient it got, and several uses of one parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from deniable.gradients.contributions import (
    Contribution,
    Dense,
    Kept,
    Turned,
    accurate,
    formed,
    scratch,
    units_at_once,
    zeroed_outside,
)
from deniable.gradients.products import transposed_product
from deniable.lengths import lengths, squared_lengths

# How many elements of Gram matrices may exist at once; more units than fit come in chunks.
GRAM_ELEMENTS = 1 << 21


@dataclass
class OneHot:
    """One-hot rows, never formed: `indices` of shape `(n, T)` into `size` columns."""

    indices: Tensor
    size: int


@dataclass
class Outer(Contribution):
    """`gradient_i = sum_t left[i, t] (x) right[i, t]`, viewed in the parameter's `shape`.

    Attributes:
        left: `(n, T, L)`, or one-hot rows.
        right: `(n, T, R)`.
        shape: the parameter's shape; `L * R` elements.
    """

    left: Tensor | OneHot
    right: Tensor
    shape: torch.Size
    _sizes: Tensor | None = field(default=None, init=False, repr=False)
    _left_norms: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def positions(self) -> int:
        """`T`: how many outer products add up to one unit's gradient."""
        return self.right.shape[1]

    @property
    def left_size(self) -> int:
        """`L`."""
        return self.left.size if isinstance(self.left, OneHot) else self.left.shape[2]

    def ways(self) -> dict[str, Callable[[], Contribution]]:
        """Rank one, where a unit has one position; else Gram matrices or one gradient per unit."""
        if self.positions == 1:
            return {"rank one": lambda: self}
        if isinstance(self.left, OneHot):
            return {"gram": lambda: self, "instantiate": self.dense}
        return {
            "gram": lambda: self,
            "instantiate": self.dense,
            "turned": self._turned,
            "streamed": lambda: Kept(self, math.prod(self.shape)),
        }

    def counts(self) -> dict[str, float]:
        """See `Contribution.counts`."""
        if self.positions == 1:
            return {"rank one": 1.0}
        right, size, rows = self.right.shape[2], math.prod(self.shape), self.positions
        if isinstance(self.left, OneHot):
            return {"gram": float(rows**2 * right), "instantiate": 3.0 * size}
        gram = float(rows**2 * (self.left_size + right) + rows * size)
        one = float(rows * size + 3 * size)
        tall = self.left_size > right
        return {
            "gram": gram,
            "instantiate": one + tall,
            "turned": one + (not tall),
            "streamed": 2 * one,
        }

    def kind(self) -> tuple[Any, ...]:
        """See `Contribution.kind`."""
        left = "one-hot" if isinstance(self.left, OneHot) else "outer"
        sizes = (self.positions, self.left_size, self.right.shape[2])
        return (left, *sizes, str(self.right.dtype))

    def _squared_norms(self) -> Tensor:
        if self.positions == 1:
            norms = _lengths(self.right)
            if not isinstance(self.left, OneHot):
                self._left_norms = _lengths(self.left)
                norms = norms.mul_(self._left_norms)
            return norms.mul_(norms)
        parts = [_norms_and_sizes(self.some(*units)) for units in _chunks(self, self)]
        if len(parts) == 1:
            norms, self._sizes = parts[0]
        else:
            norms, self._sizes = (torch.cat(each) for each in zip(*parts, strict=True))
        return norms

    def hidden(self) -> Tensor:
        """The most of a squared norm that underflow can hide, `(n,)`; see `hidden_by`."""
        lost = self.positions * torch.finfo(accurate(self.right).dtype).tiny
        right = squared_lengths(accurate(self.right).flatten(1))
        if isinstance(self.left, OneHot):
            return right.fill_(self.positions * self.right.shape[2] * lost)
        left = squared_lengths(accurate(self.left).flatten(1))
        return (right * self.left_size + left * self.right.shape[2]) * lost

    def summed_left(self) -> Dense:
        """`sum_t left[i, t]`: the gradient of what is added beside a product, such as a bias."""
        assert isinstance(self.left, Tensor)
        if self.positions != 1:
            return Dense(accurate(self.left).sum(1))
        values, norms = accurate(self.left)[:, 0], self._left_norms
        return Dense(values) if norms is None else Dense.of(values, norms * norms)

    def squared_sizes(self) -> Tensor:
        """`(sum_t |left_t| |right_t|)^2` for every unit: what the squared norm is at most.

        Gram matrices have it on their diagonals.
        """
        if self._sizes is None:
            each: Tensor = torch.linalg.vector_norm(accurate(self.right), dim=2)
            if not isinstance(self.left, OneHot):
                each = each * torch.linalg.vector_norm(accurate(self.left), dim=2)
            self._sizes = each.sum(1).square()
        return self._sizes

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        right = accurate(self.right)
        weights = weights.to(right.dtype).view(-1, 1, 1)
        if isinstance(self.left, OneHot):
            total: Tensor = torch.ops.aten.embedding_dense_backward(
                right * weights, self.left.indices, self.left.size, -1, False
            )
            return total.view(self.shape)
        left = accurate(self.left)
        larger = max(left, right, key=Tensor.numel)
        if larger.stride(0) < larger.stride(1):  # position after position in memory: left so
            left, right, weights = (each.transpose(0, 1) for each in (left, right, weights))
        if left.shape[2] <= right.shape[2]:
            left = torch.mul(left, weights, out=scratch("weighted", left, left.shape))
        else:
            right = torch.mul(right, weights, out=scratch("weighted", right, right.shape))
        return transposed_product(left.flatten(0, 1).T, right.flatten(0, 1).T).view(self.shape)

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        right = accurate(self.right)
        n = right.shape[0]
        if isinstance(self.left, OneHot):
            values = right.new_zeros(n, self.left.size, right.shape[2])
            index = self.left.indices[:, :, None].expand_as(right)
            values.scatter_add_(1, index, right)
        else:
            values, norms = _products(self.left, right)
            return Dense.of(values.view(n, *self.shape), norms)
        return Dense(values.view(n, *self.shape))

    def _turned(self) -> Turned:
        assert isinstance(self.left, Tensor)
        values, norms = _products(self.right, self.left)
        return Turned.of(values, norms, (1, 0), self.shape)

    def streamed_norms(self, way: str, elements: int) -> Tensor:
        """See `Contribution.streamed_norms`."""
        if way or isinstance(self.left, OneHot):
            return super().streamed_norms(way, elements)
        return _products(self.left, self.right, keep=False)[1]

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.right

    def some(self, start: int, stop: int) -> Outer:
        """See `Contribution.some`."""
        left = self.left
        if isinstance(left, OneHot):
            return Outer(
                OneHot(left.indices[start:stop], left.size), self.right[start:stop], self.shape
            )
        return Outer(left[start:stop], self.right[start:stop], self.shape)

    def held(self) -> int:
        """See `Contribution.held`."""
        left = self.left.indices if isinstance(self.left, OneHot) else self.left
        return left.nbytes + self.right.nbytes

    def only(self, keep: Tensor) -> Outer:
        """See `Contribution.only`."""
        left = self.left if isinstance(self.left, OneHot) else zeroed_outside(self.left, keep)
        return Outer(left, zeroed_outside(self.right, keep), self.shape)


def _products(a: Tensor, b: Tensor, keep: bool = True) -> tuple[Tensor, Tensor]:
    """`a_i^T b_i` for every unit, and its squared norms; see `formed`."""
    a, b = accurate(a), accurate(b)
    shape = a.shape[2], b.shape[2]
    return formed(
        b,
        shape,
        units_at_once(math.prod(shape), b.device),
        lambda some, out: torch.bmm(a[some].transpose(1, 2), b[some], out=out),
        keep,
    )


def inner_products(a: Outer, b: Outer) -> Tensor:
    """`<gradient_a_i, gradient_b_i>` for every unit, shape `(n,)`, from two small Gram matrices."""
    return torch.cat([_inner_products(a.some(*units), b.some(*units)) for units in _chunks(a, b)])


def _chunks(a: Outer, b: Outer) -> list[tuple[int, int]]:
    """From which unit to which, so that Gram matrices stay small; one chunk at least."""
    n, chunk = len(a.right), max(1, GRAM_ELEMENTS // max(1, a.positions * b.positions))
    return [(start, start + chunk) for start in range(0, max(n, 1), chunk)]


def _inner_products(a: Outer, b: Outer) -> Tensor:
    left, right = _grams(a, b)
    return left.mul_(right).sum((1, 2))


def _norms_and_sizes(outer: Outer) -> tuple[Tensor, Tensor]:
    """Squared norms, and what they would be if nothing cancelled, `(n,)` each."""
    left, right = _grams(outer, outer)
    hidden = hidden_by(left, outer.right.shape[2], right.dtype)
    if isinstance(outer.left, Tensor):
        hidden = hidden.add_(hidden_by(right, outer.left.shape[2], right.dtype))
    products = left.mul_(right)
    sizes = products.diagonal(dim1=1, dim2=2).sqrt().sum(1)
    return products.sum((1, 2)).add_(hidden), sizes.mul_(sizes)


def hidden_by(gram: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """The most of a squared norm that underflow can hide in the other Gram matrix, `(n,)`.

    An inner product of `size` numbers may lose `size` products too small for the dtype. What
    multiplies them adds up to no more than the trace times the number of positions.
    """
    lost = size * torch.finfo(dtype).tiny
    return gram.diagonal(dim1=1, dim2=2).sum(1).mul_(lost * gram.shape[1])


def _grams(a: Outer, b: Outer) -> tuple[Tensor, Tensor]:
    """Left and right; what they lie in is used again by the next."""
    right = _products_of_rows("right gram", a.right, b.right)
    return _left_gram(a.left, b.left, right.dtype), right


def _products_of_rows(use: str, a: Tensor, b: Tensor) -> Tensor:
    """`<a[i, s], b[i, t]>`, in scratch memory."""
    a, b = accurate(a), accurate(b)
    out = scratch(use, a, (len(a), a.shape[1], b.shape[1]))
    return torch.bmm(a, b.transpose(1, 2), out=out)


def _lengths(values: Tensor) -> Tensor:
    """The norm of each unit's `(T, size)`, and what underflow can hide of it."""
    values = accurate(values)
    flat = values.flatten(1)
    return lengths(flat).add_(_hidden(flat.shape[1], values.dtype))


@cache
def _hidden(size: int, dtype: torch.dtype) -> float:
    """How long a vector may be whose squares are all too small for the dtype."""
    return math.sqrt(size * torch.finfo(dtype).tiny)


def _left_gram(a: Tensor | OneHot, b: Tensor | OneHot, dtype: torch.dtype) -> Tensor:
    if isinstance(a, OneHot) and isinstance(b, OneHot):
        return (a.indices[:, :, None] == b.indices[:, None, :]).to(dtype)
    if isinstance(a, OneHot) and isinstance(b, Tensor):
        index = a.indices[:, None, :].expand(-1, b.shape[1], -1)
        return accurate(b).gather(2, index).transpose(1, 2)
    if isinstance(b, OneHot):
        return _left_gram(b, a, dtype).transpose(1, 2)
    assert isinstance(a, Tensor)
    return _products_of_rows("left gram", a, b)


@dataclass
class Several(Contribution):
    """A parameter used several times (tied weights, a module called twice): the sum of its uses."""

    parts: list[Contribution]

    def _squared_norms(self) -> Tensor:
        """Cross terms between the uses included."""
        outers = [part for part in self.parts if isinstance(part, Outer)]
        if len(outers) < len(self.parts):
            elements = math.prod(self.some(0, 1).dense().values.shape[1:])
            return Kept(self, elements).squared_norms()
        total = torch.zeros((), dtype=outers[0].right.dtype, device=outers[0].right.device)
        for i, a in enumerate(outers):
            total = total + a.squared_norms()
            for b in outers[:i]:
                total = total + 2 * inner_products(a, b)
        # Of each pair's inner product underflow hides no more than half of what it hides of both.
        hidden = reduce(torch.add, (each.hidden() for each in outers))
        return total + (len(outers) - 1) * hidden

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        return reduce(torch.add, (part.weighted_sum(weights) for part in self.parts))

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        return Dense(reduce(torch.add, (part.dense().values for part in self.parts)))

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.parts[0].lead

    def some(self, start: int, stop: int) -> Several:
        """See `Contribution.some`."""
        return Several([part.some(start, stop) for part in self.parts])

    def held(self) -> int:
        """See `Contribution.held`."""
        return sum(part.held() for part in self.parts)

    def only(self, keep: Tensor) -> Several:
        """See `Contribution.only`."""
        return Several([part.only(keep) for part in self.parts])
