"""Optimizers that know of the noise in what they are given. All others are torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class AdamBC(Optimizer):
    """Adam whose second moment is corrected for the noise that was added to its gradients.

    Noise of variance `s^2` raises Adam's estimate of the squared gradient by that much, until it is
    all that the estimate holds, and Adam becomes SGD with momentum. Here it is subtracted:
    `theta <- theta - lr * m / sqrt(max(v - s^2, floor))`, with Adam's moments `m` and `v` corrected
    for their start (Tang & Lecuyer, 2023, "DP-Adam: Correcting DP Bias in Adam's Second Moment
    Estimation"; Tang, Shpilevskiy & Lecuyer, 2024, "DP-AdamBC", algorithm 1). It is computed from
    releases alone, so it costs no privacy.

    `attach` tells it `s` with each release: the noise multiplier times the sensitivity over the
    expected batch size. Where `s` changes, as under `AdaptiveClip`, its square is averaged as the
    second moment is. Without noise it is Adam, with a floor in place of epsilon.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        betas: how much of the first and second moment is kept in a step.
        floor: the least second moment that is divided by, above 0; in squared gradient units.
        noise_deviation: `s`, for loops that are not attached.

    Raises:
        ValueError: a value is out of its range.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> optimizer = AdamBC([weight], lr=0.1, noise_deviation=0.6)
    >>> weight.grad = torch.ones(1)
    >>> optimizer.step()
    >>> weight.data  # a step of 0.1 / sqrt(1 - 0.36)
    tensor([-0.1250])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        floor: float = 1e-8,
        noise_deviation: float = 0.0,
    ) -> None:
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr must be finite and at least 0, got {lr!r}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas!r}.")
        if not 0 < floor < math.inf:
            raise ValueError(f"floor must be positive and finite, got {floor!r}.")
        if not 0 <= noise_deviation < math.inf:
            raise ValueError(f"noise_deviation must be at least 0, got {noise_deviation!r}.")
        values = {"lr": lr, "betas": betas, "floor": floor, "noise_deviation": noise_deviation}
        super().__init__(params, values)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step on the gradients in `.grad`; parameters without one are passed over."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "noise": 0.0}
            state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
        keep, keep_square = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - keep)
        state["square"].mul_(keep_square).addcmul_(grad, grad, value=1 - keep_square)
        variance = group["noise_deviation"] ** 2
        state["noise"] = keep_square * state["noise"] + (1 - keep_square) * variance
        square = (state["square"] - state["noise"]) / (1 - keep_square ** state["step"])
        divisor = square.clamp_(min=group["floor"]).sqrt_()
        size = group["lr"] / (1 - keep ** state["step"])
        parameter.addcdiv_(state["mean"], divisor, value=-size)
