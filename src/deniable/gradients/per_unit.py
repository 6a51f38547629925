"""The per-unit gradients of one batch, as a bound sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deniable.gradients.contributions import Contribution


@dataclass
class PerUnitGradients:
    """The gradients of `units` units with respect to every bound parameter.

    Attributes:
        units: how many units this batch holds.
        parameters: every bound parameter's value, by name: shapes, dtypes and devices.
        contributions: by name; a parameter that the batch did not use is absent (gradient zero).
        scale: what every gradient is multiplied by (the batch size, to undo a mean loss).
    """

    units: int
    parameters: dict[str, Tensor]
    contributions: dict[str, Contribution]
    scale: float = 1.0

    def squared_norms(self) -> dict[str, Tensor]:
        """The squared norm of each unit's gradient, shape `(units,)`, for each parameter used."""
        return {name: raw * self.scale**2 for name, raw in self._raw_norms().items()}

    def norms(self) -> Tensor:
        """The norm of each unit's whole gradient, shape `(units,)`, on the first one's device."""
        raw = list(self._raw_norms().values())
        if not raw:
            return next(iter(self.parameters.values())).new_zeros(self.units)
        total = raw[0]
        for each in raw[1:]:
            total = total + each.to(total.device)
        return total.sqrt() * self.scale

    def _raw_norms(self) -> dict[str, Tensor]:
        return {name: each.squared_norms() for name, each in self.contributions.items()}

    def weighted_sum(self, weights: Tensor) -> dict[str, Tensor]:
        """`sum_i weights[i] * gradient_i` for every parameter; zeros for those not used.

        Args:
            weights: shape `(units,)`, on the gradients' device.
        """
        scaled = weights * self.scale
        return {name: self._one_sum(name, value, scaled) for name, value in self.parameters.items()}

    def _one_sum(self, name: str, value: Tensor, weights: Tensor) -> Tensor:
        contribution = self.contributions.get(name)
        if contribution is None or not self.units:
            dtype = value.dtype if value.dtype == torch.float64 else torch.float32
            return torch.zeros_like(value, dtype=dtype)
        return contribution.weighted_sum(weights)

    def instantiate(self, name: str) -> Tensor:
        """One gradient per unit for one parameter, shape `(units, *parameter.shape)`."""
        value = self.parameters[name]
        contribution = self.contributions.get(name)
        if contribution is None:
            return value.new_zeros(self.units, *value.shape)
        return contribution.dense().values * self.scale

    def only(self, keep: Tensor) -> PerUnitGradients:
        """The same gradients with every unit outside the mask `keep` set to exactly zero."""
        kept = {name: each.only(keep) for name, each in self.contributions.items()}
        return PerUnitGradients(self.units, self.parameters, kept, self.scale)
