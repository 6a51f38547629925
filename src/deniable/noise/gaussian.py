"""Gaussian noise scaled to a sensitivity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from deniable.events import GaussianEvent
from deniable.noise.generators import NoiseGenerator
from deniable.noise.scale import noisy_dtype, scale_for
from deniable.units import BoundedSum, Neighbouring

# Values of noise in a wider dtype held at once, beside the sum that they are added to.
_CHUNK: Final = 1 << 22


class Gaussian:
    """Adds Gaussian noise of standard deviation `noise_multiplier * sensitivity` to a sum.

    The Gaussian mechanism (Dwork & Roth, 2014, "The Algorithmic Foundations of Differential
    Privacy", section 3.5.3 and appendix A): every coordinate of every sum receives its own draw.

    Args:
        noise_multiplier: sigma, at least 0. 0 adds nothing and guarantees nothing.
        neighbouring: the relation that the sensitivities of all sums must be for.

    Raises:
        ValueError: the multiplier is negative, infinite or NaN.

    >>> from deniable.noise import noise_generator
    >>> from deniable.units import Sensitivity
    >>> bounded = BoundedSum({"weight": torch.zeros(3)}, Sensitivity(1.0))
    >>> generator = noise_generator(bytes(32), torch.device("cpu"))
    >>> Gaussian(noise_multiplier=1.1).add(bounded, generator)["weight"].shape
    torch.Size([3])
    """

    def __init__(
        self,
        noise_multiplier: float,
        neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE,
    ) -> None:
        self._event = GaussianEvent(float(noise_multiplier), neighbouring)

    @classmethod
    def of(cls, event: GaussianEvent) -> Gaussian:
        """The noise that an event says."""
        return cls(event.noise_multiplier, event.neighbouring)

    @property
    def event(self) -> GaussianEvent:
        """What one call to `add` releases."""
        return self._event

    def add(self, bounded: BoundedSum, generator: NoiseGenerator) -> dict[str, Tensor]:
        """The sums with noise added, by name: new tensors, the given ones are not modified.

        One buffer is drawn for all sums of a device. The results are float32 at least: noise is
        never rounded to 16 bits here, and a float16 or bfloat16 sum comes back as float32. With a
        noise multiplier (or a sensitivity) of 0 the very sums come back and nothing is drawn.

        Args:
            bounded: real floating-point sums of any shapes, dtypes and devices.
            generator: where the standard normal values come from.

        Raises:
            TypeError: `bounded` is no `BoundedSum`, or a sum is not of real floating point.
            ValueError: the sensitivity is for another relation or norm, or the standard deviation
                is too small or too large for float32.
        """
        deviation = scale_for(bounded, self._event.noise_multiplier, self._event.neighbouring, "L2")
        if deviation == 0:
            return dict(bounded.sums)
        groups: defaultdict[tuple[torch.device, torch.dtype], list[str]] = defaultdict(list)
        for name, value in bounded.sums.items():
            groups[value.device, noisy_dtype(name, value)].append(name)
        noisy: dict[str, Tensor] = {}
        for (_, dtype), names in groups.items():
            sums = [bounded.sums[name] for name in names]
            noisy.update(zip(names, _add(sums, dtype, deviation, generator), strict=True))
        return {name: noisy[name] for name in bounded.sums}


def _add(
    sums: Sequence[Tensor], dtype: torch.dtype, deviation: float, generator: NoiseGenerator
) -> Sequence[Tensor]:
    """The sums plus noise, as views of one new buffer."""
    sizes, device = [each.numel() for each in sums], sums[0].device
    with torch.no_grad():
        if torch.promote_types(dtype, generator.precision) == dtype:
            noisy = _views(generator.normal((sum(sizes),), dtype=dtype, device=device), sums)
            for each, noise in zip(sums, noisy, strict=True):
                # Rounded once, or the low bits of the result would follow the sum.
                torch.add(each, noise, alpha=deviation, out=noise)
            return noisy
        flat = torch.cat([each.reshape(-1).to(dtype) for each in sums])
        for part in torch.split(flat, _CHUNK):
            noise = generator.normal(part.shape, dtype=generator.precision, device=device)
            # In the wider of the two dtypes, then rounded once to the sum's.
            part.add_(noise, alpha=deviation)
        return _views(flat, sums)


def _views(flat: Tensor, sums: Sequence[Tensor]) -> Sequence[Tensor]:
    """A part of a buffer for each sum, in its shape."""
    parts = torch.split_with_sizes(flat, [each.numel() for each in sums])
    return [part.view_as(each) for part, each in zip(parts, sums, strict=True)]
