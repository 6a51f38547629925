"""What one use adds to the per-unit gradients of one parameter, and how it is reduced.

A bound asks two questions of per-unit gradients: their squared norms, and their weighted sum. A
contribution answers both without, as a rule, ever forming one gradient per unit:

- **rank one** (`outer.Outer` with one position per unit): `|l r^T|^2 = |l|^2 |r|^2` (Goodfellow,
  2015, "Efficient Per-Example Gradient Computations");
- **Gram** (`Outer` with several positions): `|sum_t l_t r_t^T|^2 = sum_{s,t} <l_s,l_t><r_s,r_t>`
  (Rochette, Manoel & Tramel, 2019, "Efficient Per-Example Gradient Computations in Convolutional
  Neural Networks", section 4; Li et al., 2022, "Large Language Models Can Be Strong Differentially
  Private Learners", section 4);
- **instantiate** (`Dense`): form the gradient of each unit; sums are then matrix-vector products;
- **streamed** (`Kept`): form gradients a few units at a time for their norms, and let them go.

Shapes: `n` units, `T` positions per unit.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from deniable.lengths import lengths, squared_lengths


def accurate(tensor: Tensor) -> Tensor:
    """At least float32: half-precision gradients are squared and summed in float32."""
    half = tensor.dtype not in (torch.float32, torch.float64) and not tensor.is_complex()
    return tensor.float() if half else tensor


def exactly(device: torch.device) -> AbstractContextManager[None]:
    """A block in which norms and sums are computed in the precision of their tensors.

    Neither autocast, should a backward pass run within it, nor shortened products of float32
    numbers (TF32, and bfloat16 after `torch.set_float32_matmul_precision`) round anything: a norm
    that is off by a thousandth is a bound that is off by as much.
    """
    return _exactly(device, _shortened(device)) if rounds(device) else nullcontext()


def rounds(device: torch.device) -> bool:
    """Whether torch is set to round more than the precision of tensors asks for."""
    return torch.is_autocast_enabled(device.type) or bool(_shortened(device))


_WHOLE = ("ieee", "none")


def _shortened(device: torch.device) -> list[Any]:
    return [each for each in _products_on(device) if each.fp32_precision not in _WHOLE]


def _products_on(device: torch.device) -> tuple[Any, ...]:
    """The settings of torch that say how float32 numbers are multiplied on a device."""
    backends: Any = torch.backends
    cuda = device.type == "cuda"
    own, others = (backends.cuda, backends.cudnn) if cuda else (backends.mkldnn, backends.mkldnn)
    return own.matmul, others.conv, others.rnn


@contextmanager
def _exactly(device: torch.device, shortened: list[Any]) -> Iterator[None]:
    before = [each.fp32_precision for each in shortened]
    for each in shortened:
        each.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for each, precision in zip(shortened, before, strict=True):
            each.fp32_precision = precision


# How many elements of per-unit gradients are formed at once where each is looked at: on the CPU
# what a cache holds, elsewhere what keeps the device busy.
STREAM_ELEMENTS, STREAM_ELSEWHERE = 1 << 19, 1 << 25


def units_at_once(elements: int, device: torch.device) -> int:
    """How many per-unit gradients of so many elements to form at once."""
    limit = STREAM_ELEMENTS if device.type == "cpu" else STREAM_ELSEWHERE
    return max(1, limit // max(1, elements))


class _Scratch(threading.local):
    """Memory that is used again for what is let go at once.

    On the CPU, memory that the system gives anew comes by pages, zeroed, which can take longer than
    the product that is written to it. Elsewhere torch keeps what was let go.
    """

    LARGEST: Final = 1 << 19  # elements

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, use: str, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Values that nobody reads any more once the same is asked for again.

        Args:
            use: what for; others do not disturb it.
            like: a tensor of the same dtype and device.
            shape: of the values.
        """
        size, key = math.prod(shape), (use, like.dtype)
        if like.device.type != "cpu" or size > self.LARGEST:
            return like.new_empty(shape)
        if key not in self._held or self._held[key].numel() < size:
            self._held[key] = torch.empty(size, dtype=like.dtype)
        return self._held[key][:size].view(tuple(shape))


scratch = _Scratch()


def formed(
    like: Tensor,
    shape: Sequence[int],
    at_once: int,
    form: Callable[[slice, Tensor], Any],
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    """One gradient per unit, and their squared norms, taken while each is in the cache.

    Args:
        like: a tensor with units first; the gradients are of its dtype.
        shape: of one unit's gradient.
        at_once: how many units are formed at once.
        form: writes the gradients of some units into a tensor.
        keep: whether gradients are wanted; where they are not, what is returned of them is not
            theirs.
    """
    n = len(like)
    if not keep:
        at_once = min(at_once, units_at_once(math.prod(shape), like.device))
    norms = like.new_empty(n)
    values = (
        like.new_empty(n, *shape) if keep else scratch("values", like, (min(n, at_once), *shape))
    )
    for start in range(0, n, at_once):
        some = slice(start, start + at_once)
        out = values[some] if keep else values[: n - start]
        form(some, out)
        norms[some] = lengths(out.flatten(1))
    return values, norms.mul_(norms)


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

    def streamed_norms(self, way: str, elements: int) -> Tensor:
        """The squared norms of gradients that are formed a few at a time and let go.

        Args:
            way: by which of `ways`; as `dense` forms them if empty.
            elements: of the parameter.
        """
        step = units_at_once(elements, self.lead.device)
        parts = [self.some(start, start + step) for start in range(0, len(self.lead), step)]
        return torch.cat(
            [(part.ways()[way]() if way else part.dense()).squared_norms() for part in parts]
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
        return squared_lengths(self._flat())

    def _flat(self) -> Tensor:
        """`(n, elements)`; a parameter may be one number."""
        values = accurate(self.values)
        if values.ndim == 2:
            return values
        return values.flatten(1) if values.ndim > 2 else values.unsqueeze(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        flat = self._flat()
        total = weights.to(flat.dtype) @ flat
        return total if self.values.ndim == 2 else total.view(self.values.shape[1:])

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
        return Dense(zeroed_outside(self.values, keep))


@dataclass
class InPieces(Contribution):
    """One gradient per unit, in the memory in which those of some units at a time were formed.

    Attributes:
        pieces: of one unit after another.
    """

    pieces: list[Dense]

    def _squared_norms(self) -> Tensor:
        return torch.cat([each.squared_norms() for each in self.pieces])

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `Contribution.weighted_sum`."""
        first, *others = zip(self.pieces, self._shared_out(weights), strict=True)
        total = first[0].weighted_sum(first[1])
        for piece, each in others:
            total += piece.weighted_sum(each)
        return total

    def dense(self) -> Dense:
        """See `Contribution.dense`."""
        return Dense(torch.cat([each.values for each in self.pieces]))

    @property
    def lead(self) -> Tensor:
        """See `Contribution.lead`."""
        return self.squared_norms()

    def some(self, start: int, stop: int) -> InPieces:
        """See `Contribution.some`."""
        found, before = [], 0
        for each in self.pieces:
            first, last = max(start - before, 0), min(stop - before, len(each.values))
            if first < last:
                found.append(each.some(first, last))
            before += len(each.values)
        return InPieces(found)

    def held(self) -> int:
        """See `Contribution.held`."""
        return sum(each.held() for each in self.pieces)

    def only(self, keep: Tensor) -> InPieces:
        """See `Contribution.only`."""
        both = zip(self.pieces, self._shared_out(keep), strict=True)
        return InPieces([piece.only(each) for piece, each in both])

    def _shared_out(self, of_units: Tensor) -> Sequence[Tensor]:
        return torch.split(of_units, [len(each.values) for each in self.pieces])


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
        return squared_lengths(self.values.flatten(1))

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
        return Turned(zeroed_outside(self.values, keep), self.order, self.shape)


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
        return self.factors.streamed_norms(self.way, self.elements)

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


def zeroed_outside(values: Tensor, keep: Tensor) -> Tensor:
    """The values of the units in a mask; zero for all others."""
    shaped = keep.view(-1, *([1] * (values.ndim - 1)))
    return torch.where(shaped, values, values.new_zeros(()))
