"""What a bound is, and what it needs of per-unit gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from deniable.units import BoundedSum, Sensitivity

Weights = Tensor | Mapping[str, Tensor]
"""One number a unit, `(units,)`; or such numbers for each parameter, by name."""


def _whole(_: str, value: Tensor) -> Tensor:
    return value


def finite_units(norms: Tensor) -> Tensor | None:
    """The mask of the units whose norm is finite; None where that is known of all.

    To look whether any is not costs little on the CPU; elsewhere it would wait for the device.
    """
    if norms.device.type == "cpu" and math.isfinite(float(norms.sum())):
        return None
    return torch.isfinite(norms)


def of_finite(values: Tensor, finite: Tensor | None) -> Tensor:
    """One number a unit; 0 for each outside the mask, where there is one."""
    return values if finite is None else torch.where(finite, values, 0)


@dataclass(frozen=True)
class Observed:
    """What a bound saw of one batch (not private: never release it).

    Attributes:
        norms: of each unit's gradient before it was bounded, `(units,)`.
        factors: the share of its norm that scaling left of each, `(units,)`; 0 where the gradient
            was not finite.
    """

    norms: Tensor
    factors: Tensor

    def summary(self) -> dict[str, float]:
        """How many units were finite, their mean norm, and the share whose gradient shrank."""
        finite = torch.isfinite(self.norms)
        count = int(finite.sum())
        return {
            "units": len(self.norms),
            "not_finite": len(self.norms) - count,
            "mean_norm": float(self.norms[finite].mean()) if count else 0.0,
            "clip_fraction": float((self.factors < 1).float().mean()) if len(self.norms) else 0.0,
        }


class Gradients(Protocol):
    """Per-unit gradients in any form that can answer these."""

    @property
    def units(self) -> int:
        """How many units there are."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Every bound parameter, by name: shapes, dtypes and devices."""

    def squared_norms(self) -> dict[str, Tensor]:
        """The squared norm of each unit's gradient, shape `(units,)`, by parameter used."""

    def norms(self) -> Tensor:
        """The norm of each unit's whole gradient, shape `(units,)`."""

    def weighted_sums(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """`sum_i weights[i] * gradient_i` of every parameter, formed one after another."""

    def stream(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """A few units at a time: which, and their gradients of one parameter, in fresh tensors."""

    def only(self, keep: Tensor) -> Gradients:
        """The same with every unit outside the mask `keep` set to exactly zero."""


@dataclass(frozen=True)
class Limited:
    """Per-unit gradients, each within what a bound allows.

    Attributes:
        gradients: of every unit; nothing of them need have been computed yet.
        factors: the share of its norm that scaling leaves of each, `(units,)`.
        aside: what is summed beside them: one number a unit, by a name that is no parameter's.
    """

    gradients: Gradients
    factors: Tensor
    aside: dict[str, Tensor] = field(default_factory=dict)


class Bound(ABC):
    """Turns per-unit gradients into one sum that no single unit can move far.

    A bound maps each unit's gradient, and looks at no other unit; the sum comes last. So bounds
    follow one another in a `Chain`.

    Formal guarantee: for neighbouring batches the returned sums, concatenated, differ by at most
    `sensitivity(parameters).value` in L2 norm, whatever the gradients are. A unit whose gradient
    is not finite, or so large that its squared norm is not, contributes exactly zero.

    Attributes:
        asks: what it looks at: "norms", or "elements" (factors of gradients are then kept until
            it does).
        adapts: whether releases change it, by way of what it sums aside.
    """

    asks: Literal["norms", "elements"] = "norms"
    adapts: bool = False

    @abstractmethod
    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: known from public facts alone.

        Args:
            parameters: the bound parameters, by name; their values do not matter.

        Raises:
            AttachError: the bound does not fit these parameters.
        """

    def nominal_sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity | None:
        """What its source takes the sensitivity for, where that is **no guarantee**; else None."""
        return None

    @abstractmethod
    def limit(self, gradients: Gradients) -> Limited:
        """Every unit's gradient within the bound, given that all of them are finite."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""

    @property
    @abstractmethod
    def in_words(self) -> str:
        """What is done to each gradient, to follow "a sum of gradients"."""

    def __call__(
        self, gradients: Gradients, kept: Callable[[str, Tensor], Tensor] = _whole
    ) -> tuple[BoundedSum, Observed]:
        """The bounded sum, and what was seen of this batch (not private: never release it).

        Args:
            gradients: of every unit.
            kept: what is kept of each parameter's sum, by its name: called before the next one is
                formed.
        """
        norms = gradients.norms()
        finite = finite_units(norms)
        if finite is not None:
            gradients = gradients.only(finite)
        limited = self.limit(gradients)
        ones = torch.ones_like(norms)
        sums = {name: kept(name, each) for name, each in limited.gradients.weighted_sums(ones)}
        for name, values in limited.aside.items():
            sums[name] = of_finite(values, finite).sum()
        sensitivity = self.sensitivity(gradients.parameters)
        return BoundedSum(sums, sensitivity), Observed(norms, of_finite(limited.factors, finite))

    # -- bounds that learn from what was released ------------------------------------------------

    def learn(self, aside: Mapping[str, Tensor], expected: float) -> None:
        """Take in what was summed aside, now with noise; only bounds that adapt do anything.

        Args:
            aside: the noisy sums, by name.
            expected: the public number of units that a batch holds on average.
        """
        assert not aside, f"{self!r} does not adapt, and sums nothing aside"

    def state(self) -> dict[str, Any]:
        """What a saved run must remember of it: plain values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        assert not state, f"{self!r} does not adapt, and has no state"
