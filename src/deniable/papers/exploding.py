"""A recurrent network whose gradients explode, trained without privacy, with and without a cure."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from deniable.bounds import Tanh
from deniable.papers.points import Recurrent, Watch
from deniable.units import finite

ROWS = 50  # of the history
TESTED = 2000
HIDDEN = 64
BATCH = 64


class Adder(nn.Module):
    """A recurrent network of ReLU units that starts as a memory: the recurrence is the identity.

    Le, Jaitly & Hinton (2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear
    Units"). What it remembers does not fade, and neither do its gradients, which may explode.

    Shape: from `(batch, length, 2)` to `(batch,)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.RNN(2, HIDDEN, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(HIDDEN, 1)
        of_inputs, of_states, *biases = self.recurrent.parameters()
        nn.init.normal_(of_inputs, std=0.03)
        nn.init.eye_(of_states)
        for bias in biases:
            nn.init.zeros_(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum that was asked for."""
        states, _ = self.recurrent(inputs)
        sums: Tensor = self.out(states[:, -1])[:, 0]
        return sums


def adding(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The adding problem: two numbers of a sequence are marked, one in each half; their sum is due.

    Hochreiter & Schmidhuber (1997, "Long Short-Term Memory", section 5.4).

    Returns:
        Sequences `(count, length, 2)` and sums `(count,)`; who always answers 1 errs by 1/6.
    """
    values = torch.rand(count, length, generator=generator)
    marks = torch.zeros(count, length)
    half = length // 2
    for start, stop in ((0, half), (half, length)):
        at = torch.randint(start, stop, (count, 1), generator=generator)
        marks.scatter_(1, at, 1.0)
    return torch.stack([values, marks], -1), (values * marks).sum(1)


def train(point: Recurrent, watch: Watch) -> dict[str, Any]:
    """The error as training goes; an error that is not finite is None, and ends the training."""
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(point.seed)
        model = Adder()
    generator = torch.Generator().manual_seed(point.seed)
    tested = adding(TESTED, point.length, torch.Generator().manual_seed(point.seed + 10**6))
    optimizer = torch.optim.SGD(model.parameters(), lr=point.lr)
    every = max(1, point.steps // ROWS)
    history: list[dict[str, Any]] = []
    largest = 0.0
    for step in range(1, point.steps + 1):
        inputs, sums = adding(BATCH, point.length, generator)
        optimizer.zero_grad()
        loss: Tensor = nn.functional.mse_loss(model(inputs), sums)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        largest = max(largest, norm) if math.isfinite(norm) else math.inf
        _cure(point, model)
        optimizer.step()
        if step % every == 0:
            with torch.no_grad():
                error = float(nn.functional.mse_loss(model(tested[0]), tested[1]))
            history.append(
                {
                    "step": step,
                    "error": finite(error),
                    "largest_norm": finite(largest),
                }
            )
            largest = 0.0
            watch(step / point.steps, f"error {error:.4f}")
            if not math.isfinite(error):
                break
    return {
        "error": history[-1]["error"],
        "diverged": history[-1]["error"] is None,
        "seconds": round(time.monotonic() - started, 1),
        "history": history,
    }


def _cure(point: Recurrent, model: nn.Module) -> None:
    cure = point.cure
    if cure.name == "norm":
        nn.utils.clip_grad_norm_(model.parameters(), cure.arguments["norm"])
    elif cure.name == "tanh":
        Tanh(**cure.arguments).filter_(model.parameters())
