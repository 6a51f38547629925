"""Which way to a norm: chosen for each kind of use by measuring, and remembered.

Two ways lead to the same numbers: keep the factors and compute norms from Gram matrices, or
instantiate one gradient per unit. Which is faster depends on the shapes, the kernels and the
machine, so the first use of a shape tries both. A seeded run must give the same bits every time, so
it counts multiplications instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deniable.gradients.contributions import Contribution, Dense, OneHot, Outer
from deniable.gradients.convolution import Convolution

# Per-unit gradients of one parameter may take so many elements; beyond, the factors are kept.
DENSE_ELEMENTS = 1 << 26
REPETITIONS = 2

Shapes = tuple[Any, ...]


@dataclass
class Choice:
    """One kind of use: which way was taken, and what each way took.

    Attributes:
        way: "rank one", "gram" or "instantiate".
        milliseconds: of norms and weighted sum, by way; empty where nothing was measured.
    """

    way: str
    milliseconds: dict[str, float] = field(default_factory=dict)


class Chooser:
    """Turns contributions into the form in which their norms and sum are cheapest.

    Args:
        measure: try both ways; otherwise compare counts of multiplications.
    """

    def __init__(self, measure: bool) -> None:
        self.measure = measure
        self.choices: dict[Shapes, Choice] = {}

    def reduced(self, contribution: Contribution, forced: str | None = None) -> Contribution:
        """The contribution as its strategy wants it; memory that is not needed is let go."""
        if isinstance(contribution, Dense):
            return contribution
        if not isinstance(contribution, (Outer, Convolution)):
            return contribution
        way = forced or self._way(contribution)
        if way == "instantiate" or not _has_factors(contribution):
            return contribution.dense()
        return contribution

    def _way(self, contribution: Outer | Convolution) -> str:
        if isinstance(contribution, Outer) and contribution.positions == 1:
            return "rank one"
        if not _has_factors(contribution):
            return "instantiate"
        key = describe(contribution)
        choice = self.choices.get(key)
        if choice is None:
            choice = self.choices[key] = self._choose(contribution)
        units = (
            contribution.right.shape[0]
            if isinstance(contribution, Outer)
            else len(contribution.input)
        )
        if choice.way == "instantiate" and units * math.prod(contribution.shape) > DENSE_ELEMENTS:
            return "gram"
        return choice.way

    def _choose(self, contribution: Outer | Convolution) -> Choice:
        units = (
            contribution.right.shape[0]
            if isinstance(contribution, Outer)
            else len(contribution.input)
        )
        if units * math.prod(contribution.shape) > DENSE_ELEMENTS:
            return Choice("gram")
        gram, instantiate = multiplications(contribution)
        ratio = gram / max(1, instantiate)
        if not self.measure or not 1 / 30 < ratio < 30:
            return Choice("gram" if ratio <= 1 else "instantiate")
        ways: dict[str, Callable[[], Contribution]] = {
            "gram": lambda: contribution,
            "instantiate": contribution.dense,
        }
        took = {name: _milliseconds(way) for name, way in ways.items()}
        return Choice(min(took, key=lambda name: took[name]), took)

    def state(self) -> list[dict[str, Any]]:
        """The choices as JSON values, so that a resumed run takes the same ways."""
        return [
            {"use": list(key), "way": choice.way, "milliseconds": choice.milliseconds}
            for key, choice in self.choices.items()
        ]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take the choices that `state` returned."""
        self.choices = {
            _as_key(each["use"]): Choice(each["way"], dict(each["milliseconds"])) for each in state
        }


def _as_key(values: Any) -> Any:
    return tuple(_as_key(each) for each in values) if isinstance(values, (list, tuple)) else values


def describe(contribution: Outer | Convolution) -> Shapes:
    """What decides the cost, apart from the number of units, which varies from batch to batch."""
    if isinstance(contribution, Convolution):
        c = contribution
        return (
            "convolution", tuple(c.shape), tuple(c.input.shape[1:]), tuple(c.grad.shape[3:]),
            tuple(c.stride), tuple(c.dilation), str(c.grad.dtype),
        )  # fmt: skip
    kind = "rows" if isinstance(contribution.left, OneHot) else "outer"
    return (
        kind, contribution.positions, contribution.left_size, contribution.right.shape[2],
        str(contribution.right.dtype),
    )  # fmt: skip


def multiplications(contribution: Outer | Convolution) -> tuple[int, int]:
    """Of the norms by Gram matrices, and of instantiating, for one unit.

    Keeping factors costs one plain weight gradient more in the end, for the sum.
    """
    positions, size = contribution.positions, math.prod(contribution.shape)
    if isinstance(contribution, Convolution):
        pixels = math.prod(contribution.input.shape[3:]) + sum(contribution.padding)
        gram = pixels**2 * contribution.input.shape[2] + positions**2 * contribution.shape[0]
        return gram + positions * size, positions * size + 3 * size
    right = contribution.right.shape[2]
    if isinstance(contribution.left, OneHot):
        return positions**2 * right, 3 * size
    gram = positions**2 * (contribution.left_size + right)
    return gram + positions * size, positions * size + 3 * size


def _has_factors(contribution: Outer | Convolution) -> bool:
    return not isinstance(contribution, Convolution) or contribution.has_gram


def _milliseconds(way: Callable[[], Contribution]) -> float:
    """The least time of norms and sum together."""
    best = math.inf
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        form = way()
        norms = form.squared_norms()
        result = form.weighted_sum(torch.ones_like(norms))
        _wait(result)
        best = min(best, 1000 * (time.perf_counter() - started))
    return best


def _wait(result: Tensor) -> None:
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
