"""What every noise checks before it is added: the sum's guarantee fits, and so does its scale."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from deniable.units import BoundedSum, Neighbouring

_NOISES = {"L1": "Laplace", "L2": "Gaussian"}


def scale_for(
    bounded: BoundedSum,
    noise_multiplier: float,
    neighbouring: Neighbouring,
    norm: Literal["L1", "L2"],
) -> float:
    """`noise_multiplier * sensitivity`; 0 where nothing need be added.

    Raises:
        TypeError: `bounded` is no `BoundedSum`.
        ValueError: the sensitivity is for another relation or norm, or the scale is too small or
            too large for float32.
    """
    if not isinstance(bounded, BoundedSum):
        raise TypeError(
            f"Noise needs a BoundedSum, got {type(bounded).__name__}: without a sensitivity it "
            "cannot be scaled. Let a bound such as deniable.Clip make the sum."
        )
    sensitivity = bounded.sensitivity
    if sensitivity.norm != norm:
        raise ValueError(
            f"{_NOISES[norm]} noise is scaled to a sensitivity in {norm} norm, this sum's is in "
            f"{sensitivity.norm} norm. Use {_NOISES[sensitivity.norm]} noise, or bound the sum in "
            f"{norm} norm."
        )
    if sensitivity.neighbouring is not neighbouring:
        raise ValueError(
            f"The noise is stated under {neighbouring.value}, the sensitivity under "
            f"{sensitivity.neighbouring.value}: they differ by a factor of 2. Use "
            "sensitivity.under(neighbouring)."
        )
    scale = noise_multiplier * sensitivity.value
    if noise_multiplier == 0 or sensitivity.value == 0:
        return 0.0
    limits = torch.finfo(torch.float32)
    if not limits.tiny <= scale <= limits.max:
        raise ValueError(
            f"The scale of the noise, {noise_multiplier:g} * {sensitivity.value:g}, must be a "
            f"normal float32, got {scale:g}. Choose a bound on another scale."
        )
    return scale


def noisy_dtype(name: str, value: Tensor) -> torch.dtype:
    """What a sum is released in: its own dtype, float32 at least.

    Raises:
        TypeError: the sum is not of real floating point.
    """
    if not value.dtype.is_floating_point:
        raise TypeError(
            f"Noise needs sums of real floating point, but {name!r} is {value.dtype}. Freeze that "
            "parameter (requires_grad=False) or convert it."
        )
    return torch.promote_types(value.dtype, torch.float32)
