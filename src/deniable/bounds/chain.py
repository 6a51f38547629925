"""Bounds one after another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from deniable.bounds.base import Bound, Gradients, Limited, finite_units, of_finite
from deniable.units import Sensitivity


class Chain(Bound):
    """Each bound on what the one before it leaves: `Chain(Tanh(), Clip(1.0))`.

    Formal guarantee: that of the last, which is the only one whose sensitivity counts: what comes
    before it may do anything to a unit's gradient.

    Args:
        bounds: one or more, in the order in which they act. One that adapts must be the last.

    Raises:
        ValueError: no bounds, something else, or one that adapts before the last.

    >>> from deniable.bounds import Clip, Tanh
    >>> Chain(Tanh(), Clip(0.5)).sensitivity({"weight": torch.zeros(100)}).value
    0.5
    """

    def __init__(self, *bounds: Bound) -> None:
        if not bounds:
            raise ValueError("A chain needs at least one bound. Try Chain(Tanh(), Clip(1.0)).")
        others = [each for each in bounds if not isinstance(each, Bound)]
        if others:
            raise ValueError(
                f"A chain is made of bounds, got {others[0]!r}. Try Chain(Tanh(), Clip(1.0))."
            )
        early = [each for each in bounds[:-1] if each.adapts]
        if early:
            raise ValueError(
                f"{early[0]!r} adapts by what it sums aside, whose sensitivity only the last bound "
                "of a chain can state. Put it last."
            )
        self.bounds = bounds
        self.asks = "elements" if any(each.asks == "elements" for each in bounds) else "norms"
        self.adapts = bounds[-1].adapts

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.bounds))})"

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: as the last bound says."""
        return [each.sensitivity(parameters) for each in self.bounds][-1]

    def nominal_sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity | None:
        """What the last bound's source takes it for, where that is no guarantee."""
        return self.bounds[-1].nominal_sensitivity(parameters)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {"name": "Chain", "bounds": [each.settings() for each in self.bounds]}

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        return ", then ".join(each.in_words for each in self.bounds)

    def limit(self, gradients: Gradients) -> Limited:
        """What the last bound makes of what the others leave."""
        limited = self.bounds[0].limit(gradients)
        factors = [limited.factors]
        aside = limited.aside
        for each in self.bounds[1:]:
            # A unit must be finite for each of them, or its sum is no number.
            gradients = limited.gradients
            finite = finite_units(gradients.norms())
            limited = each.limit(gradients if finite is None else gradients.only(finite))
            factors.append(of_finite(limited.factors, finite))
            aside = {name: of_finite(one, finite) for name, one in limited.aside.items()}
        return Limited(limited.gradients, reduce(torch.mul, factors), aside)

    def learn(self, aside: Mapping[str, Tensor], expected: float) -> None:
        """Let the last bound adapt."""
        self.bounds[-1].learn(aside, expected)

    def state(self) -> dict[str, Any]:
        """That of the last bound."""
        return self.bounds[-1].state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.bounds[-1].restore(state)
