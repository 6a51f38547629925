"""Whether a candidate computes what it should, on a handful of rows and without noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.candidates import CANDIDATES, Setting

ROWS = 6
# float32 against float64; a wrong rule is off by 0.1.
TOLERANCE = 0.01


def few_rows(setting: Setting) -> Setting:
    """The same with a batch small enough to compute one row at a time."""
    return replace(setting, batch=min(ROWS, setting.batch))


def released(name: str, setting: Setting) -> Tensor:
    """What one step without noise takes off the weights, times the batch size: the clipped sum."""
    names = sorted(setting.workload.build().state_dict())
    step = CANDIDATES[name](setting.quiet())

    def weights() -> Tensor:
        # Opacus's LSTM keeps its parameters in another order, but knows them by these names too.
        state = step.model.state_dict()
        return torch.cat([state[name].double().flatten() for name in names])

    before = weights()
    step.run()
    return (before - weights()) * (setting.batch / setting.quiet().lr)


def one_row_at_a_time(setting: Setting) -> Tensor:
    """The clipped sum by the definition, in float64: a plain backward for every row."""
    model, inputs, labels = setting.start()
    clip = setting.quiet().clip
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    state = model.double().state_dict(keep_vars=True)
    parameters = [state[name] for name in sorted(state)]
    total = torch.zeros(sum(each.numel() for each in parameters), device=setting.device).double()
    for row, label in zip(inputs, labels, strict=True):
        loss = setting.workload.loss(model(row[None]), label[None])
        gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])
        total += gradient * (clip / gradient.norm()).clamp(max=1.0)
    return total


def error(name: str, setting: Setting, expected: Tensor) -> float:
    """How far the candidate's clipped sum is from the expected one, relative to its norm."""
    return float((released(name, setting) - expected).norm() / expected.norm())
