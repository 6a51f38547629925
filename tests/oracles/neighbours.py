"""Sampled releases on small data sets, by their definitions: every batch, every neighbour.

A unit contributes a number from -1 to 1. Nothing here knows an event, a relation or a bound: a
release is a mixture of normal densities over all batches that can be drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Data = tuple[float, ...]
Law = Callable[[int], Iterator[tuple[float, tuple[int, ...]]]]
"""From a number of units to every batch with its probability."""

VALUES = (-1.0, 0.0, 1.0)
PRECISION = 4_001


def poisson(rate: float) -> Law:
    """Each unit tosses a coin of its own."""

    def law(units: int) -> Iterator[tuple[float, tuple[int, ...]]]:
        for tosses in product((False, True), repeat=units):
            batch = tuple(unit for unit, joins in enumerate(tosses) if joins)
            yield math.prod(rate if joins else 1 - rate for joins in tosses), batch

    return law


def truncated(rate: float, largest: int) -> Law:
    """The same; of a larger sample, every part of the largest size is as likely as any other."""

    def law(units: int) -> Iterator[tuple[float, tuple[int, ...]]]:
        for probability, batch in poisson(rate)(units):
            parts = list(combinations(batch, min(largest, len(batch))))
            for part in parts:
                yield probability / len(parts), part

    return law


def fixed_size(size: int) -> Law:
    """Every subset of one size is as likely as any other."""

    def law(units: int) -> Iterator[tuple[float, tuple[int, ...]]]:
        batches = list(combinations(range(units), size))
        for batch in batches:
            yield 1 / len(batches), batch

    return law


def one_fewer(units: int) -> Iterator[tuple[Data, Data]]:
    """All pairs of data sets of which one holds a unit more; the last, by symmetry."""
    for data in product(VALUES, repeat=units):
        yield data, data[:-1]


def one_other(units: int) -> Iterator[tuple[Data, Data]]:
    """All pairs of data sets of one size, of which one unit is another; the last, by symmetry."""
    for data in product(VALUES, repeat=units):
        for other in VALUES:
            if other != data[-1]:
                yield data, (*data[:-1], other)


def delta_between(data: Data, other: Data, law: Law, deviation: float, epsilon: float) -> float:
    """The larger way round of `P[M(D) in S] - exp(epsilon) P[M(D') in S]` at the worst set `S`."""
    widest = len(data) + 12 * deviation
    at, step = np.linspace(-widest, widest, PRECISION, retstep=True)
    one, two = (_density(each, law, deviation, at) for each in (data, other))
    excess = [np.maximum(p - math.exp(epsilon) * q, 0) for p, q in ((one, two), (two, one))]
    return float(max(each.sum() for each in excess) * step)


def _density(
    data: Data, law: Law, deviation: float, at: NDArray[np.float64]
) -> NDArray[np.float64]:
    sums: Counter[float] = Counter()
    for probability, batch in law(len(data)):
        sums[sum(data[unit] for unit in batch)] += probability  # type: ignore[assignment]
    bells = [
        probability * np.exp(-((at - centre) ** 2) / (2 * deviation**2))
        for centre, probability in sums.items()
    ]
    density: NDArray[np.float64] = np.sum(bells, axis=0) / (deviation * math.sqrt(2 * math.pi))
    return density
