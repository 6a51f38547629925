"""Loss scaling in float16: what a `torch.amp.GradScaler` multiplied the loss by is taken out again.

A scaler expects gradients in `.grad` before `step`. There are none: `.grad` never holds a sum
without noise. Torch has a protocol for optimizers that deal with the scale themselves: the scaler
lays it on the optimizer as `grad_scale` and calls `step`. A private optimizer takes part in it.
"""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer

from deniable.errors import StepError

_SUPPORTED = "_step_supports_amp_scaling"


class LossScale:
    """Reads the scale that a `GradScaler` lays on an optimizer.

    The scale must not depend on the data: one that shrinks because an example overflowed tells of
    that example, in every later gradient. So nothing is reported back to the scaler, and its
    `update` must be given the scale: `scaler.update(scaler.get_scale())`.

    Args:
        optimizer: the one that is attached.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._before = optimizer.__dict__.get(_SUPPORTED)
        setattr(optimizer, _SUPPORTED, True)

    def take(self) -> float:
        """The scale of the step that is being taken; 1 without a scaler.

        Raises:
            StepError: the scaler's `unscale_` was called, or its scale is no number of at least 1.
        """
        values: dict[str, Any] = self._optimizer.__dict__
        if "grad_scale" not in values:
            return 1.0
        scale = values["grad_scale"]
        # A fused optimizer would divide the release by it once more.
        values["grad_scale"] = values["found_inf"] = None
        if scale is None:
            raise StepError(
                "scaler.unscale_(optimizer) was called, but .grad holds nothing to unscale: "
                "gradients are unscaled and clipped one unit at a time within optimizer.step(). "
                "Leave out unscale_ and clip_grad_norm_; the bound clips."
            )
        size = float(scale)
        if not (math.isfinite(size) and size >= 1):
            # A loss made small would lose the squares of gradients, and with them their norms.
            raise StepError(
                f"The scaler's scale must be a number of at least 1, got {size}. Keep it constant: "
                "scaler.update(scaler.get_scale()) after each step."
            )
        return size

    def remove(self) -> None:
        """Leave the optimizer as it was found."""
        if self._before is None:
            delattr(self._optimizer, _SUPPORTED)
        else:
            setattr(self._optimizer, _SUPPORTED, self._before)
