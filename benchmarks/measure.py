"""Time: candidates in turns within one process, so that what the machine does else hits all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.candidates import Step

# A turn runs its candidate for about this long, so that short steps are timed many at once.
TURN_SECONDS = 0.03
LEAST_ROUNDS = 5
WARM_UP = 2


def synchronize(device: str) -> None:
    """Wait for the device; the CPU is never behind."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(step: Step, device: str, repeats: int = 1) -> float:
    """Seconds for one step, as the mean of so many in a row."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        step.run()
    synchronize(device)
    return (time.perf_counter() - started) / repeats


def warm_up(step: Step, device: str, steps: int = WARM_UP) -> float:
    """The first steps, which choose strategies and kernels; seconds of the quickest."""
    return min(seconds_of(step, device) for _ in range(steps))


def in_turns(
    steps: Mapping[str, Step],
    device: str,
    seconds: float,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Seconds for one step, by candidate and round.

    A round gives every candidate one turn. A turn begins with a step that is not timed, because
    the candidate before has left its own data in the caches.

    Args:
        steps: candidates that are warm.
        device: "cpu" or "cuda".
        seconds: go on for so long, and for `LEAST_ROUNDS` rounds at least.
        progress: told the seconds that passed.
    """
    usual = {name: seconds_of(step, device) for name, step in steps.items()}
    repeats = {name: max(1, min(200, round(TURN_SECONDS / t))) for name, t in usual.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    started = time.perf_counter()
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        for name, step in steps.items():
            if usual[name] < 1.0:
                step.run()
            found[name].append(seconds_of(step, device, repeats[name]))
        rounds += 1
        progress(time.perf_counter() - started)
    return found


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, as JSON.

    >>> quartiles([3.0, 1.0, 2.0])
    {'median': 2.0, 'q1': 1.5, 'q3': 2.5}
    """
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def ratios(seconds: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Quartiles of the ratio within each round."""
    return quartiles([one / other for one, other in zip(seconds, base, strict=True)])
