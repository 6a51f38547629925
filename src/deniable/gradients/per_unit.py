"""The per-unit gradients of one batch, as a bound sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deniable.gradients.cancellation import squared_norms
from deniable.gradients.contributions import Contribution
from deniable.lengths import wide


@dataclass
class PerUnitGradients:
    """The gradients of `units` units with respect to every bound parameter.

    Attributes:
        units: how many units this batch holds.
        parameters: every bound parameter's value, by name: shapes, dtypes and devices.
        contributions: by name; a parameter that the batch did not use is absent (gradient zero).
        scale: what every gradient is multiplied by (the batch size, to undo a mean loss).
        keep: a mask of the units that count, where some do not: their gradients are exactly zero.
            It is applied to one parameter at a time, when that is summed.
    """

    units: int
    parameters: dict[str, Tensor]
    contributions: dict[str, Contribution]
    scale: float = 1.0
    keep: Tensor | None = None
    _norms: Tensor | None = field(default=None, init=False, repr=False)
    _raw: dict[str, Tensor] | None = field(default=None, init=False, repr=False)

    def squared_norms(self) -> dict[str, Tensor]:
        """The squared norm of each unit's gradient, shape `(units,)`, for each parameter used.

        In float64: the square of a norm that float32 holds may be none that it does.
        """
        return {name: wide(raw) * self.scale**2 for name, raw in self._raw_norms().items()}

    def norms(self) -> Tensor:
        """The norm of each unit's whole gradient, shape `(units,)`, on the first one's device."""
        if self._norms is None:
            self._norms = self._whole_norms()
        return self._norms

    def _whole_norms(self) -> Tensor:
        raw = list(self._raw_norms().values())
        if not raw:
            return next(iter(self.parameters.values())).new_zeros(self.units)
        device = raw[0].device
        total = torch.stack([each.to(device) for each in raw]).sum(0)
        return total.sqrt_().mul_(self.scale)

    def _raw_norms(self) -> dict[str, Tensor]:
        if self._raw is None:
            raw = {name: squared_norms(each) for name, each in self.contributions.items()}
            self._raw = {name: self._masked(each) for name, each in raw.items()}
        return self._raw

    def _masked(self, values: Tensor, units: slice = slice(None)) -> Tensor:
        """Values of some units, `(units, ...)`, zero for those that do not count."""
        if self.keep is None:
            return values
        keep = self.keep[units].to(values.device)
        return torch.where(keep.view(-1, *([1] * (values.ndim - 1))), values, 0)

    def weighted_sums(self, weights: Tensor | Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """`sum_i weights[i] * gradient_i` for every parameter; zeros for those not used.

        One after another: no more of them exist at once than are kept.

        Args:
            weights: shape `(units,)`, on the gradients' device; or such weights by parameter.
        """
        if isinstance(weights, Tensor):
            scaled = weights * self.scale
            of = dict.fromkeys(self.contributions, scaled)
        else:
            of = {name: weights[name] * self.scale for name in self.contributions}
        for name, value in self.parameters.items():
            yield name, self._one_sum(name, value, of.get(name))

    def _one_sum(self, name: str, value: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None or not self.units:
            dtype = value.dtype if value.dtype == torch.float64 else torch.float32
            return torch.zeros_like(value, dtype=dtype)
        contribution = self.contributions[name]
        if self.keep is not None:
            contribution = contribution.only(self.keep.to(contribution.lead.device))
        return contribution.weighted_sum(weights)

    def stream(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """One gradient per unit for one parameter, a few units at a time; fresh tensors.

        Yields:
            Which units, and their gradients `(units, *parameter.shape)`; nothing for a parameter
            that was not used.
        """
        contribution = self.contributions.get(name)
        if contribution is not None:
            for units, values in contribution.stream(self.parameters[name].numel()):
                yield units, self._masked(values * self.scale, units)

    def instantiate(self, name: str) -> Tensor:
        """One gradient per unit for one parameter, shape `(units, *parameter.shape)`."""
        value = self.parameters[name]
        contribution = self.contributions.get(name)
        if contribution is None:
            return value.new_zeros(self.units, *value.shape)
        return self._masked(contribution.dense().values * self.scale)

    def only(self, keep: Tensor) -> PerUnitGradients:
        """The same gradients with every unit outside the mask `keep` set to exactly zero."""
        both = keep if self.keep is None else self.keep & keep
        return PerUnitGradients(self.units, self.parameters, self.contributions, self.scale, both)
