"""Per-unit gradients that a bound has changed, without forming one for every unit at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deniable.bounds.base import Gradients, Weights
from deniable.lengths import lengths, wide


@dataclass
class View(ABC):
    """Gradients seen through a map of each unit's.

    Attributes:
        gradients: what is mapped.
    """

    gradients: Gradients
    _squares: dict[str, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def units(self) -> int:
        """How many units there are."""
        return self.gradients.units

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Every bound parameter, by name."""
        return self.gradients.parameters

    @abstractmethod
    def stream(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """See `Gradients.stream`."""

    @abstractmethod
    def weighted_sums(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """See `Gradients.weighted_sums`."""

    @abstractmethod
    def only(self, keep: Tensor) -> Gradients:
        """See `Gradients.only`."""

    @abstractmethod
    def _squared_norms(self) -> dict[str, Tensor]: ...

    def squared_norms(self) -> dict[str, Tensor]:
        """See `Gradients.squared_norms`; computed once."""
        if self._squares is None:
            self._squares = self._squared_norms()
        return self._squares

    def norms(self) -> Tensor:
        """See `Gradients.norms`."""
        squares = list(self.squared_norms().values())
        if not squares:
            return self.gradients.norms()
        total = squares[0]
        for each in squares[1:]:
            total = total + each.to(total.device)
        return total.sqrt()


@dataclass
class Scaled(View):
    """Each unit's gradient times a factor of its own, for all parameters or for each."""

    factors: Weights

    def _factor(self, name: str) -> Tensor:
        return self.factors if isinstance(self.factors, Tensor) else self.factors[name]

    def stream(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """See `Gradients.stream`."""
        for units, values in self.gradients.stream(name):
            factor = self._factor(name)[units].to(values.dtype)
            yield units, values.mul_(factor.view(-1, *([1] * (values.ndim - 1))))

    def _squared_norms(self) -> dict[str, Tensor]:
        found = self.gradients.squared_norms()
        return {name: each * wide(self._factor(name)).square() for name, each in found.items()}

    def weighted_sums(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """See `Gradients.weighted_sums`."""
        if isinstance(weights, Tensor) and isinstance(self.factors, Tensor):
            return self.gradients.weighted_sums(weights * self.factors)
        names = self.gradients.squared_norms()
        return self.gradients.weighted_sums(
            {name: _of(weights, name) * self._factor(name) for name in names}
        )

    def only(self, keep: Tensor) -> Scaled:
        """See `Gradients.only`."""
        if isinstance(self.factors, Tensor):
            factors: Weights = torch.where(keep, self.factors, 0)
        else:
            factors = {name: torch.where(keep, each, 0) for name, each in self.factors.items()}
        return Scaled(self.gradients.only(keep), factors)


@dataclass
class Filtered(View):
    """A function of each coordinate alone.

    Gradients are formed a few units at a time, parameter by parameter, and let go again.

    Attributes:
        function: from a tensor to one of the same shape, in place if it likes; from 0 to 0.
    """

    function: Callable[[Tensor], Tensor]

    def stream(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """See `Gradients.stream`."""
        for units, values in self.gradients.stream(name):
            yield units, self.function(values)

    def _squared_norms(self) -> dict[str, Tensor]:
        found = {}
        for name, unfiltered in self.gradients.squared_norms().items():
            squares = torch.zeros_like(unfiltered)
            for units, values in self.stream(name):
                squares[units] = wide(lengths(_flat(values))).square()
            found[name] = squares
        return found

    def weighted_sums(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """See `Gradients.weighted_sums`."""
        for name, parameter in self.parameters.items():
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            total = torch.zeros_like(parameter, dtype=dtype).flatten()
            for units, values in self.stream(name):
                flat = _flat(values)
                total += _of(weights, name)[units].to(flat.dtype) @ flat
            yield name, total.view(parameter.shape)

    def only(self, keep: Tensor) -> Filtered:
        """See `Gradients.only`."""
        return replace(self, gradients=self.gradients.only(keep))


def _of(weights: Weights, name: str) -> Tensor:
    return weights if isinstance(weights, Tensor) else weights[name]


def _flat(values: Tensor) -> Tensor:
    """`(units, elements)`; a parameter may be one number."""
    return values.unsqueeze(-1).flatten(1)
