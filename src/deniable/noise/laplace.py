"""Laplace noise scaled to a sensitivity in L1 norm."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from deniable.events import LaplaceEvent
from deniable.noise.generators import NoiseGenerator
from deniable.noise.scale import noisy_dtype, scale_for
from deniable.units import BoundedSum, Neighbouring

# The grid that sums and noise lie on, as a power of two of the noise's scale.
_GRID: Final = -40
# Values of noise held at once.
_CHUNK: Final = 1 << 20


class Laplace:
    """Adds Laplace noise of scale `noise_multiplier * sensitivity` to a sum.

    The Laplace mechanism (Dwork & Roth, 2014, "The Algorithmic Foundations of Differential
    Privacy", section 3.3): density `exp(-|x| / b) / 2b` in every coordinate. Epsilon is
    `1 / noise_multiplier`, and delta 0.

    What holds of floats: a sum is rounded to a grid of about `2^-40 b`, and so is the noise, so
    that the low bits of a result are those of the grid whatever the sum was (Mironov, 2012, "On
    Significance of the Least Significant Bits For Differential Privacy", reads a sum from them
    otherwise). What rounding adds to the sensitivity is added to the scale. The noise itself is
    computed in float64, as `xy + zw` of four standard normals, which is exactly Laplace for real
    numbers. Floats far out are sparser than the grid: epsilon is as good as those normals, and not
    a proof.

    Args:
        noise_multiplier: the scale over the sensitivity, at least 0. 0 adds nothing and guarantees
            nothing.
        neighbouring: the relation that the sensitivities of all sums must be for.

    Raises:
        ValueError: the multiplier is negative, infinite or NaN.

    >>> from deniable.noise import noise_generator
    >>> from deniable.units import Sensitivity
    >>> count = BoundedSum({"count": torch.tensor(812.0)}, Sensitivity(1.0, norm="L1"))
    >>> generator = noise_generator(bytes(32), torch.device("cpu"), secure=True)
    >>> abs(float(Laplace(2.0).add(count, generator)["count"]) - 812) < 50
    True
    """

    def __init__(
        self,
        noise_multiplier: float,
        neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE,
    ) -> None:
        self._event = LaplaceEvent(float(noise_multiplier), neighbouring)

    @property
    def event(self) -> LaplaceEvent:
        """What one call to `add` releases."""
        return self._event

    def add(self, bounded: BoundedSum, generator: NoiseGenerator) -> dict[str, Tensor]:
        """The sums with noise added, by name: new tensors, float32 at least.

        With a noise multiplier (or a sensitivity) of 0 the very sums come back.

        Args:
            bounded: real floating-point sums of any shapes and dtypes.
            generator: where the standard normal values come from.

        Raises:
            TypeError: `bounded` is no `BoundedSum`, or a sum is not of real floating point.
            ValueError: the sensitivity is for another relation or norm, or the scale is too small
                or too large.
        """
        multiplier = self._event.noise_multiplier
        scale = scale_for(bounded, multiplier, self._event.neighbouring, "L1")
        if scale == 0:
            return dict(bounded.sums)
        grid = math.ldexp(1.0, math.frexp(scale)[1] + _GRID)
        coordinates = sum(each.numel() for each in bounded.sums.values())
        # Rounding moves each coordinate by half a step at most, in each of two neighbouring sums.
        scale += multiplier * coordinates * grid
        return {
            name: _add(value, scale, grid, generator).to(noisy_dtype(name, value))
            for name, value in bounded.sums.items()
        }


@torch.no_grad()
def _add(value: Tensor, scale: float, grid: float, generator: NoiseGenerator) -> Tensor:
    """On the grid, in float64: adding two of its multiples rounds nothing that depends on which."""
    noisy = (value.double().contiguous() / grid).round_()
    for part in torch.split(noisy.view(-1), _CHUNK):
        shape = (4, len(part))
        x, y, z, w = generator.normal(shape, dtype=torch.float64, device=part.device)
        part += (x * y + z * w).mul_(scale / grid).round_()
    return noisy.mul_(grid)
