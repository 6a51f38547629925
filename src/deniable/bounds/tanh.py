"""The hyperbolic tangent of each coordinate, in place of a norm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from deniable.bounds.base import Bound, Gradients, Limited
from deniable.bounds.views import Filtered
from deniable.units import Sensitivity


class Tanh(Bound):
    """`c * tanh(g / k)` of every coordinate, with output range c and active range k.

    Amian, "Improving the Algorithm of Deep Learning with Differential Privacy", algorithm 1.

    Formal guarantee: each of a unit's n coordinates stays within `[-c, c]`, so that the sum moves
    by at most `c * sqrt(n)` in L2 when one unit is added or removed. A unit whose gradient is not
    finite contributes zero. n is the number of trainable parameters: the noise that this asks for
    drowns any gradient of an ordinary model. `Chain(Tanh(c, k), Clip(norm))` has the sensitivity of
    `Clip`.

    **Not a guarantee:** the paper scales its noise to a sensitivity of 1, for any c, on the ground
    that gradients are mostly small; that is `nominal_sensitivity`, and reports print what epsilon
    it would give beside the one that holds. (Its equation 4 is tanh(x / 2), under the name of tanh;
    `active_range=2` is that.)

    Per-unit gradients are formed a few units and one parameter at a time, and never all at once.

    Args:
        output_range: c, the largest size of a coordinate; positive and finite.
        active_range: k, in gradient units; within about k, the filter is close to `c / k` times
            the gradient. Positive and finite.

    Raises:
        ValueError: a range is not positive and finite.

    >>> Tanh(output_range=2.0).sensitivity({"weight": torch.zeros(5, 5)}).value
    10.0
    """

    asks = "elements"

    def __init__(self, output_range: float = 1.0, active_range: float = 1.0) -> None:
        self.output_range = _checked("output_range", output_range)
        self.active_range = _checked("active_range", active_range)

    def __repr__(self) -> str:
        return f"Tanh(output_range={self.output_range}, active_range={self.active_range})"

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: `c * sqrt(n)`."""
        coordinates = sum(each.numel() for each in parameters.values())
        return Sensitivity(self.output_range * math.sqrt(coordinates))

    def nominal_sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """The paper's convention, which is **no guarantee**: 1, whatever c and n are."""
        return Sensitivity(1.0)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {
            "name": "Tanh",
            "output_range": self.output_range,
            "active_range": self.active_range,
        }

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        return f"filtered by {self.output_range:g} tanh(g / {self.active_range:g})"

    def limit(self, gradients: Gradients) -> Limited:
        """Every coordinate, filtered."""
        view = Filtered(gradients, self._filter)
        first = next(iter(gradients.parameters.values()))
        return Limited(view, first.new_ones(gradients.units, dtype=torch.float32))

    @torch.no_grad()
    def filter_(self, parameters: Iterable[Tensor]) -> None:
        """Filter the `.grad` of each parameter in place, for training without privacy.

        To be called between `loss.backward()` and `optimizer.step()`, as one would call
        `clip_grad_norm_`: a gradient that explodes moves no weight further than the learning rate
        times c. Infinite coordinates count as that; those that are not a number become 0. This is
        a filter of the mean gradient, and **no privacy**.

        Args:
            parameters: `model.parameters()`; those without a gradient are passed over.

        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> weight.grad = torch.tensor([0.1, float("inf"), float("nan")])
        >>> Tanh().filter_([weight])
        >>> weight.grad
        tensor([0.0997, 1.0000, 0.0000])
        """
        for parameter in parameters:
            if parameter.grad is not None:
                self._filter(parameter.grad.nan_to_num_(0.0, math.inf, -math.inf))

    def _filter(self, values: Tensor) -> Tensor:
        return values.div_(self.active_range).tanh_().mul_(self.output_range)


def _checked(name: str, value: object) -> float:
    limits = torch.finfo(torch.float32)  # beyond which 0 / 0 or 0 * inf would be no number
    if not (isinstance(value, (int, float)) and limits.tiny <= value <= limits.max):
        raise ValueError(
            f"Tanh needs a positive, finite {name} that float32 holds, got {value!r}. Try 1.0."
        )
    return float(value)
