"""The slow twin of every bound: one unit's gradient at a time, in float64, by its formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Gradient = dict[str, Tensor]
Map = Callable[[Gradient], Gradient]


def norm_of(gradient: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((each**2).sum()) for each in gradient.values()))


def clip(norm: float) -> Map:
    def of(gradient: Gradient) -> Gradient:
        size = norm_of(gradient)
        return {name: each / max(1.0, size / norm) for name, each in gradient.items()}

    return of


def automatic(norm: float, stability: float) -> Map:
    def of(gradient: Gradient) -> Gradient:
        size = norm_of(gradient)
        return {name: norm * each / (size + stability) for name, each in gradient.items()}

    return of


def tanh(output_range: float, active_range: float) -> Map:
    def of(gradient: Gradient) -> Gradient:
        return {
            name: output_range * torch.tanh(each / active_range) for name, each in gradient.items()
        }

    return of


def per_layer(norm: float, layer_of: Callable[[str], str]) -> Map:
    def of(gradient: Gradient) -> Gradient:
        layers: dict[str, list[str]] = {}
        for name in gradient:
            layers.setdefault(layer_of(name), []).append(name)
        bounded = {}
        for names in layers.values():
            layer = {name: gradient[name] for name in names}
            bounded |= clip(norm / math.sqrt(len(layers)))(layer)
        return bounded

    return of


def chain(*maps: Map) -> Map:
    def of(gradient: Gradient) -> Gradient:
        for each in maps:
            gradient = each(gradient)
        return gradient

    return of


def sum_of(rows: Sequence[Gradient], units: Sequence[Sequence[int]], bound: Map) -> Gradient:
    """The sum over units of the bounded mean of their rows' gradients.

    Args:
        rows: one gradient for each row, at least one.
        units: the rows of each unit; one without rows, or whose mean is not finite, counts as zero.
        bound: what is done to each unit's mean.
    """
    total = {name: torch.zeros_like(each) for name, each in rows[0].items()}
    for unit in units:
        if not unit:
            continue
        mean = {name: sum(rows[k][name] for k in unit) / len(unit) for name in total}
        if math.isfinite(norm_of(mean)):
            for name, each in bound(mean).items():  # type: ignore[arg-type]
                total[name] += each
    return total
