"""What one use adds to the per-unit gradients of one parameter, and three ways to reduce it.

A bound asks two questions of per-unit gradients: their squared norms, and their weighted sum. A
contribution answers both without, as a rule, ever forming one gradient per unit:

- **rank one** (`Outer` with one position per unit): `|l r^T|^2 = |l|^2 |r|^2` (Goodfellow, 2015,
  "Efficient Per-Example Gradient Computations");
- **Gram** (`Outer` with several positions): `|sum_t l_t r_t^T|^2 = sum_{s,t} <l_s,l_t><r_s,r_t>`
  (Rochette, Manoel & Tramel, 2019, "Efficient Per-Example Gradient Computations in Convolutional
  Neural Networks", section 4; Li et al., 2022, "Large Language Models Can Be Strong Differentially
  Private Learners", section 4);
- **instantiate** (`Dense`): form the gradient of each unit; sums are then matrix-vector products.

Shapes: `n` units, `T` positions per unit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def accurate(tensor: Tensor) -> Tensor:
    """At least float32: half-precision gradients are squared and summed in float32."""
    half = tensor.dtype not in (torch.float32, torch.float64) and not tensor.is_complex()
    return tensor.float() if half else tensor


def exactly(device: torch.device) -> AbstractContextManager[None]:
    """A block in which autocast, should a backward pass run within it, rounds nothing."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


# How many elements of Gram matrices may exist at once; more units than fit come in chunks.
GRAM_ELEMENTS = 1 << 21
# How many elements of per-unit gradients are formed at once where each is looked at: on the CPU
# what a cache holds, elsewhere what keeps the device busy.
STREAM_ELEMENTS, STREAM_ELSEWHERE = 1 << 19, 1 << 25


def units_at_once(elements: int, device: torch.device) -> int:
    """How many per-unit gradients of so many elements to form at once."""
    limit = STREAM_ELEMENTS if device.type == "cpu" else STREAM_ELSEWHERE
    return max(1, limit // max(1, elements))


def formed(
    like: Tensor, shape: Sequence[int], at_once: int, form: Callable[[slice, Tensor], Any]
) -> tuple[Tensor, Tensor]:
    """One gradient per unit, and their squared norms, taken while each is in the cache.

    Args:
        like: a tensor with units first; the gradients are of its dtype.
        shape: of one unit's gradient.
        at_once: how many units are formed at once.
        form: writes the gradients of some units into a tensor.
    """
    n = len(like)
    values, norms = like.new_empty(n, *shape), like.new_empty(n)
    for start in range(0, n, at_once):
        some = slice(start, start + at_once)
        form(some, values[some])
        torch.linalg.vector_norm(values[some].flatten(1), dim=1, out=norms[some])
    return values, norms.square_()


class Contribution(ABC):
    """The gradients of `n` units with respect to one parameter, in some factored form."""

    _norms: Tensor | None = None

    def squared_norms(self) -> Tensor:
        """The squared L2 norm of each unit's gradient, shape `(n,)`; computed once."""
        if self._norms is None:
            self._norms = self._squared_norms()
        return self._norms

    @abstractmethod
    def _squared_norms(self) -> Tensor: ...

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> Tensor:
        """`sum_i weights[i] * gradient_i`, in the parameter's shape."""

    @abstractmethod
    def dense(self) -> Dense:
        """One gradient per unit."""

    @property
    @abstractmethod
    def lead(self) -> Tensor:
        """A tensor of the contribution whose first dimension are the units."""

    @abstractmethod
    def some(self, start: int, stop: int) -> Contribution:
        """The units from `start` to `stop`."""

    def stream(self, elements: int) -> Iterator[tuple[slice, Tensor]]:
        """One gradient per unit, a few units at a time: which units, and their gradients.

        Args:
            elements: of the parameter.
        """
        step = units_at_once(elements, self.lead.device)
        for start in range(0, len(self.lead), step):
            yield (
                slice(start, start + step),
                accurate(self.some(start, start + step).dense().values),
            )

    def ways(self) -> dict[str, Callable[[], Contribution]]:
        """Every form with the same norms and sums, by the name of the strategy."""
        return {"as it is": lambda: self}

    def counts(self) -> dict[str, float]:
        """About how many multiplications each way takes for one unit's norm and sum."""
        return dict.fromkeys(self.ways(), 0.0)

    def kind(self) -> tuple[Any, ...]:
        """What decides the cost of the ways, apart from the number of units."""
        return (type(self).__name__,)

    @abstractmethod
    def held(self) -> int:
        """Bytes that are held until the sums are formed."""

    @abstractmethod
    def only(self, keep: Tensor) -> Contribution:
        """The same with every unit outside the mask `keep`, shape `(n,)`, set to exactly zero."""


@dataclass
class Dense(Contribution):
    """One gradient per unit: `values` has shape `(n, *parameter.shape)`."""

    values: Tensor

    @classmethod
    def of(cls, values: Tensor, norms: Tensor) -> Dense:
        """Gradients whose squared norms are known."""
        made = cls(values)
        made._norms = norms
        return made

    def _squared_norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self._flat(), dim=1)
        return norms.square()

    def _flat(self) -> Tensor:
        """`(n, elements)`; a parameter may be one number."""
        return accurate(self.values).unsqueeze(-1).flatten(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        flat = self._flat()
        return (weights.to(flat.dtype) @ flat).view(self.values.shape[1:])

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        return self

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.values

    def some(self, start: int, stop: int) -> Dense:
        """See `Contribution.some`."""
        return Dense(self.values[start:stop])

    def held(self) -> int:
        """See `Contribution.held`."""
        return self.values.nbytes

    def only(self, keep: Tensor) -> Dense:
        """See `Contribution.only`."""
        return Dense(_keep(self.values, keep))


@dataclass
class Turned(Contribution):
    """One gradient per unit, its dimensions stored in another order.

    A batched product whose result is wide is quicker than one whose result is tall, and patches are
    copied in longer runs with the channels last.

    Attributes:
        values: `(n, *stored)`.
        order: which stored dimension is which of the gradient's.
        shape: the parameter's shape, of as many elements.
    """

    values: Tensor
    order: tuple[int, ...]
    shape: torch.Size

    @classmethod
    def of(cls, values: Tensor, norms: Tensor, order: tuple[int, ...], shape: torch.Size) -> Turned:
        """Gradients whose squared norms are known."""
        made = cls(values, order, shape)
        made._norms = norms
        return made

    def _squared_norms(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.values.flatten(1), dim=1)
        return norms.square()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        flat = self.values.flatten(1)
        total = (weights.to(flat.dtype) @ flat).view(self.values.shape[1:])
        return total.permute(self.order).reshape(self.shape)

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        turned = self.values.permute(0, *(each + 1 for each in self.order))
        return Dense(turned.reshape(-1, *self.shape))

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.values

    def some(self, start: int, stop: int) -> Turned:
        """See `Contribution.some`."""
        return Turned(self.values[start:stop], self.order, self.shape)

    def held(self) -> int:
        """See `Contribution.held`."""
        return self.values.nbytes

    def only(self, keep: Tensor) -> Turned:
        """See `Contribution.only`."""
        return Turned(_keep(self.values, keep), self.order, self.shape)


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
        return inner_products(self, self)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        right = accurate(self.right)
        weights = weights.to(right.dtype)[:, None, None]
        if isinstance(self.left, OneHot):
            total: Tensor = torch.ops.aten.embedding_dense_backward(
                right * weights, self.left.indices, self.left.size, -1, False
            )
            return total.view(self.shape)
        left = accurate(self.left)
        if left.shape[2] <= right.shape[2]:
            left = left * weights
        else:
            right = right * weights
        return (left.flatten(0, 1).T @ right.flatten(0, 1)).view(self.shape)

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        right = accurate(self.right)
        n = right.shape[0]
        if isinstance(self.left, OneHot):
            values = right.new_zeros(n, self.left.size, right.shape[2])
            index = self.left.indices[:, :, None].expand_as(right)
            values.scatter_add_(1, index, right)
        else:
            values, norms = _products(accurate(self.left), right)
            return Dense.of(values.view(n, *self.shape), norms)
        return Dense(values.view(n, *self.shape))

    def _turned(self) -> Turned:
        assert isinstance(self.left, Tensor)
        values, norms = _products(accurate(self.right), accurate(self.left))
        return Turned.of(values, norms, (1, 0), self.shape)

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
        left = self.left if isinstance(self.left, OneHot) else _keep(self.left, keep)
        return Outer(left, _keep(self.right, keep), self.shape)


def _products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`a_i^T b_i` for every unit, and its squared norms."""
    shape = a.shape[2], b.shape[2]
    return formed(
        b,
        shape,
        units_at_once(math.prod(shape), b.device),
        lambda some, out: torch.bmm(a[some].transpose(1, 2), b[some], out=out),
    )


def _keep(values: Tensor, keep: Tensor) -> Tensor:
    shaped = keep.view(-1, *([1] * (values.ndim - 1)))
    return torch.where(shaped, values, values.new_zeros(()))


def inner_products(a: Outer, b: Outer) -> Tensor:
    """`<gradient_a_i, gradient_b_i>` for every unit, shape `(n,)`, from two small Gram matrices."""
    if a is b and a.positions == 1:
        norms: Tensor = torch.linalg.vector_norm(accurate(a.right)[:, 0], dim=1)
        if not isinstance(a.left, OneHot):
            norms = norms * torch.linalg.vector_norm(accurate(a.left)[:, 0], dim=1)
        return norms.square()
    n, pairs = a.right.shape[0], a.positions * b.positions
    chunk = max(1, GRAM_ELEMENTS // max(1, pairs))
    if chunk >= n:
        return _inner_products(a, b)
    parts = [
        _inner_products(a.some(start, start + chunk), b.some(start, start + chunk))
        for start in range(0, n, chunk)
    ]
    return torch.cat(parts)


def _inner_products(a: Outer, b: Outer) -> Tensor:
    right_gram = torch.bmm(accurate(a.right), accurate(b.right).transpose(1, 2))
    left_gram = _left_gram(a.left, b.left, right_gram.dtype)
    return (left_gram * right_gram).sum((1, 2))


def _left_gram(a: Tensor | OneHot, b: Tensor | OneHot, dtype: torch.dtype) -> Tensor:
    if isinstance(a, OneHot) and isinstance(b, OneHot):
        return (a.indices[:, :, None] == b.indices[:, None, :]).to(dtype)
    if isinstance(a, OneHot) and isinstance(b, Tensor):
        index = a.indices[:, None, :].expand(-1, b.shape[1], -1)
        return accurate(b).gather(2, index).transpose(1, 2)
    if isinstance(b, OneHot):
        return _left_gram(b, a, dtype).transpose(1, 2)
    assert isinstance(a, Tensor)
    return torch.bmm(accurate(a), accurate(b).transpose(1, 2))


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
        return total

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


@dataclass
class Kept(Contribution):
    """Factors from which gradients are formed a few units at a time, whatever is asked.

    Attributes:
        factors: any contribution.
        elements: of the parameter.
        way: by which of the factors' ways gradients are formed; as they form them if not given.
    """

    factors: Contribution
    elements: int
    way: str = ""

    def _squared_norms(self) -> Tensor:
        n, step = len(self.lead), units_at_once(self.elements, self.lead.device)
        parts = [self._formed(start, start + step).squared_norms() for start in range(0, n, step)]
        return torch.cat(parts)

    def _formed(self, start: int, stop: int) -> Contribution:
        some = self.factors.some(start, stop)
        return some.ways()[self.way]() if self.way else some.dense()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        return self.factors.weighted_sum(weights)

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        return self.factors.dense()

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.factors.lead

    def some(self, start: int, stop: int) -> Contribution:
        """See `Contribution.some`."""
        return self.factors.some(start, stop)

    def held(self) -> int:
        """See `Contribution.held`."""
        return self.factors.held()

    def only(self, keep: Tensor) -> Kept:
        """See `Contribution.only`."""
        return Kept(self.factors.only(keep), self.elements, self.way)
