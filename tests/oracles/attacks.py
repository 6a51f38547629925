"""Attacks and their curves, one example at a time; shares no code with `deniable.audit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean


def area_under_curve(members: Sequence[float], others: Sequence[float]) -> float:
    """How often a member scores above a non-member, over all pairs."""
    wins = [1.0 if m > o else 0.5 if m == o else 0.0 for m in members for o in others]
    return fmean(wins)


def most_found(members: Sequence[float], others: Sequence[float], allowed: float) -> float:
    """The best share of members above any threshold that accuses at most a share of the others."""
    best = 0.0
    for threshold in [-math.inf, *members, *others]:
        wrongly = sum(each > threshold for each in others) / len(others)
        if wrongly <= allowed:
            best = max(best, sum(each > threshold for each in members) / len(members))
    return best


def logit(probability: float) -> float:
    """`log(p / (1 - p))`."""
    return math.log(probability / (1 - probability))


def likelihood_ratio(
    value: float,
    within: Sequence[float],
    without: Sequence[float],
    deviations: tuple[float, float],
) -> float:
    """The logarithm of the ratio of two normal densities, with means of a candidate's own."""
    first = NormalDist(fmean(within), deviations[0]).pdf(value)
    second = NormalDist(fmean(without), deviations[1]).pdf(value)
    return math.log(first) - math.log(second)


def pooled_deviation(columns: Sequence[Sequence[float]]) -> float:
    """The deviation about the mean of each column, over all columns."""
    squares = sum((each - fmean(column)) ** 2 for column in columns for each in column)
    return math.sqrt(squares / sum(len(column) - 1 for column in columns))
