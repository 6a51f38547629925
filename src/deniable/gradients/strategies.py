"""Which way to a norm: chosen for each kind of use by measuring, and remembered.

Several ways lead to the same numbers. Which is fastest depends on the shapes, the kernels and the
machine, so the first use of a shape tries them all. A seeded run must give the same bits every
time, so it counts multiplications instead.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from deniable.gradients.contributions import Contribution, Dense, Kept

# Per-unit gradients of one parameter may take so many elements; beyond, the factors are kept.
DENSE_ELEMENTS = 1 << 26
# A way that takes this many times the multiplications of another is not worth trying.
HOPELESS = 12
REPETITIONS = 4
# Ways are tried on so many units that their gradients have so many elements together.
TRIED_ELEMENTS, LEAST_TRIED = 1 << 22, 8
# What keeps the factors, however large the gradients are.
_FACTORED = ("gram", "streamed")
# Gradients that take more than so many times the memory of their factors are kept only where
# everything leaner takes so many times as long. (A measurement is off by a tenth at times.)
WORTH = {2.0: 1.25, 1.0: 1.1}
_SWEEP = 1 << 23  # float32 values, more than a cache holds

Kind = tuple[Any, ...]


@dataclass
class Choice:
    """How one kind of use is dealt with.

    Attributes:
        way: the strategy, one of `Contribution.ways`.
        milliseconds: of norms and weighted sum, by way; empty where nothing was measured.
    """

    way: str
    milliseconds: dict[str, float] = field(default_factory=dict)


class Chooser:
    """Turns contributions into the form in which their norms and sum are cheapest.

    Args:
        measure: try the ways; otherwise compare counts of multiplications.
        force: take this way wherever it exists, for tests.
        keep: keep the factors, for a bound that looks at every element.
        sparing: take for large what has many elements or few: no more gradients than one whole
            parameter's are formed at once.
    """

    def __init__(
        self, measure: bool, force: str | None = None, keep: bool = False, sparing: bool = False
    ) -> None:
        self.measure, self.force, self.keep, self.sparing = measure, force, keep, sparing
        self.choices: dict[Kind, Choice] = {}

    def reduced(self, contribution: Contribution, units: int, size: int) -> Contribution:
        """The contribution as its strategy wants it; what that does not need is let go.

        Args:
            contribution: of one use.
            units: how many units it holds.
            size: elements of the parameter.
        """
        kept = self.keep and not isinstance(contribution, Dense)
        form = _kept(contribution, size) if kept else self._form(contribution, units, size)
        form.squared_norms()  # now, while its tensors are in the cache
        return form

    def _form(self, contribution: Contribution, units: int, size: int) -> Contribution:
        if isinstance(contribution, Dense):
            return contribution
        ways = contribution.ways()
        if self.force in ways:
            return ways[self.force]()
        if len(ways) == 1:
            return next(iter(ways.values()))()
        large = self.sparing or units * size > DENSE_ELEMENTS
        key = (*contribution.kind(), "large") if large else contribution.kind()
        choice = self.choices.get(key)
        if choice is None:
            choice = self.choices[key] = self._choose(contribution, large, size)
        return ways[choice.way]()

    def _choose(self, contribution: Contribution, large: bool, size: int) -> Choice:
        counts = contribution.counts()
        if large:
            counts = {way: count for way, count in counts.items() if way.startswith(_FACTORED)}
        least = min(counts.values())
        if not self.measure:
            return Choice(_best(counts, contribution, size))
        names = [name for name, count in counts.items() if count <= HOPELESS * least]
        n = len(contribution.lead)
        some = contribution.some(0, max(LEAST_TRIED, TRIED_ELEMENTS // size))
        ways = {name: way for name, way in some.ways().items() if name in names}
        took, sweep = dict.fromkeys(ways, math.inf), torch.empty(_SWEEP)
        for _ in range(REPETITIONS):  # in turns, so that a busy moment hits all alike
            for name, way in ways.items():
                some._norms = None
                took[name] = min(took[name], _milliseconds(way, sweep) * n / len(some.lead))
        return Choice(_best(took, contribution, size), took)

    def state(self) -> list[dict[str, Any]]:
        """The choices as JSON values, so that a resumed run takes the same ways."""
        return [
            {"use": list(key), "way": choice.way, "milliseconds": choice.milliseconds}
            for key, choice in self.choices.items()
        ]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take the choices that `state` returned."""
        self.choices = {
            _as_kind(each["use"]): Choice(each["way"], dict(each["milliseconds"])) for each in state
        }


def _best(costs: Mapping[str, float], contribution: Contribution, size: int) -> str:
    """The way that costs least, unless one that needs far less memory costs hardly more."""
    lead = contribution.lead
    room = len(lead) * size * lead.element_size() / max(1, contribution.held())
    worth = next((times for above, times in WORTH.items() if room > above), None)
    best = min(costs, key=lambda way: costs[way])
    if worth is None:
        return best
    lean = [way for way in costs if way.startswith(_FACTORED)]
    leanest = min(lean, key=lambda way: costs[way], default=best)
    return leanest if costs[leanest] <= worth * costs[best] else best


def _kept(contribution: Contribution, size: int) -> Contribution:
    """The factors; a Gram matrix gives their norms only where that is the least work."""
    counts = contribution.counts()
    least = min(counts, key=lambda way: counts[way])
    return contribution if least in ("rank one", "gram") else Kept(contribution, size)


def _as_kind(values: Any) -> Any:
    if isinstance(values, (list, tuple)):
        return tuple(_as_kind(each) for each in values)
    return values


def _milliseconds(way: Callable[[], Contribution], sweep: Tensor) -> float:
    """How long norms and sum take together.

    In training a whole backward pass lies between the two, so the sum finds a cold cache; and what
    is held that long is memory which others have to get anew from the system.
    """
    started = time.perf_counter()
    form = way()
    norms = form.squared_norms()
    _wait(norms)
    between = time.perf_counter()
    sweep.fill_(0)  # no new memory: the page faults would take longer than the ways
    resumed = time.perf_counter()
    _wait(form.weighted_sum(torch.ones_like(norms)))
    seconds = (between - started) + (time.perf_counter() - resumed)
    return 1000 * seconds + (0.0 if norms.is_cuda else form.held() * _new_memory())


@cache
def _new_memory() -> float:
    """Milliseconds that a byte takes which the system has to provide: it comes zeroed, by pages."""
    fresh = torch.frombuffer(mmap.mmap(-1, _SWEEP), dtype=torch.uint8)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        fresh.fill_(1)
        seconds.append(time.perf_counter() - started)
    return 1000 * max(0.0, seconds[0] - seconds[1]) / _SWEEP


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
