"""Time: in turns with plain PyTorch and in one process, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.candidates import Step

# A turn runs its candidate for about this long, so that short steps are timed many at once.
TURN_SECONDS = 0.03
LEAST_TURNS = 3
# A shorter step feels what the one before it has left in the caches; one is run untimed then.
CACHED_SECONDS = 0.1
QUICKEST_SECONDS = 0.5
SLOW_SECONDS = 2.0


@dataclass
class Turns:
    """What was measured of a candidate, turn by turn.

    Attributes:
        seconds: of one step.
        plain: of one plain step, before, between and after the candidate's turns.
        ratios: each turn's seconds over the mean of plain's in the turns beside it.
    """

    seconds: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Quartiles of milliseconds and ratios, as JSON."""
        return {
            "milliseconds": quartiles([1000 * each for each in self.seconds]),
            "ratio": quartiles(self.ratios),
            "turns": len(self.seconds),
        }


def synchronize(device: str) -> None:
    """Wait for the device; the CPU is never behind."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(step: Step, device: str, repeats: int = 1) -> float:
    """Seconds for one step, as the mean of so many in a row; by CUDA's events on a GPU."""
    if device == "cpu":
        started = time.perf_counter()
        for _ in range(repeats):
            step.run()
        return (time.perf_counter() - started) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        step.run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / repeats


def warm_up(step: Step, device: str) -> tuple[float, float]:
    """Seconds of the first step, which chooses strategies and kernels, and of the quickest.

    A first step that takes longer than `SLOW_SECONDS` is the only one; otherwise steps go on for
    `QUICKEST_SECONDS`.
    """
    first = quickest = seconds_of(step, device)
    left = QUICKEST_SECONDS if first < SLOW_SECONDS else 0.0
    while left > 0:
        took = seconds_of(step, device)
        quickest, left = min(quickest, took), left - took
    return first, quickest


def in_turns(plain: Step, step: Step, device: str, seconds: float) -> Turns:
    """The candidate's turns between plain's: plain, candidate, plain, candidate, ..., plain.

    Args:
        plain: PyTorch as it is, warm.
        step: a candidate that is warm.
        device: "cpu" or "cuda".
        seconds: go on for so long, and for `LEAST_TURNS` turns of the candidate at least.
    """
    usual = {id(each): seconds_of(each, device) for each in (plain, step)}

    def turn(each: Step) -> float:
        took = usual[id(each)]
        if took < CACHED_SECONDS:
            each.run()
        return seconds_of(each, device, max(1, min(200, round(TURN_SECONDS / took))))

    found = Turns()
    started = time.perf_counter()
    found.plain.append(turn(plain))
    while len(found.seconds) < LEAST_TURNS or time.perf_counter() - started < seconds:
        found.seconds.append(turn(step))
        found.plain.append(turn(plain))
        found.ratios.append(found.seconds[-1] / statistics.fmean(found.plain[-2:]))
    return found


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, as JSON.

    >>> quartiles([3.0, 1.0, 2.0])
    {'median': 2.0, 'q1': 1.5, 'q3': 2.5}
    """
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}
