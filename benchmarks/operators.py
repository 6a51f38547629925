"""What torch's profiler says of a step: its operators, the Python between them, host waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.candidates import Step
from benchmarks.phases import NOISE
from deniable.noise import Gaussian

STEPS = 3
_STEP = "one step"
# The host waits for the device. A CPU shows where it would: it asks for a value.
WAITS_ON_GPU = ("cudaDeviceSynchronize", "cudaEventSynchronize", "cudaStreamSynchronize")
WAITS_ON_CPU = ("aten::_local_scalar_dense", "aten::nonzero")


@dataclass(frozen=True)
class Profile:
    """One step, as means over a few.

    Attributes:
        operators: milliseconds in itself and calls of each operator; on a GPU the device's.
        python: milliseconds of the host outside of torch's operators and of the noise generator.
        waits: calls in which the host waits for the device; on a CPU those that would, on a GPU.
    """

    operators: dict[str, tuple[float, float]]
    python: float
    waits: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """As JSON, without the single operators."""
        calls = sum(n for name, (_, n) in self.operators.items() if name.startswith("aten::"))
        return {"python": self.python, "operators": calls, "waits": self.waits}


def profiled(step: Step, device: str, steps: int = STEPS) -> Profile:
    """Profile a candidate that is warm."""
    on_gpu = device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with (
        patch.object(Gaussian, "add", _recorded(Gaussian.add)),
        profile(activities=activities) as watched,
    ):
        for _ in range(steps):
            with record_function(_STEP):
                step.run()
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    events = [each for each in watched.profiler.kineto_results.events() if not _on_device(each)]
    taken = [each for each in events if each.name() == _STEP]
    begin, end = taken[0].start_ns(), taken[-1].start_ns() + taken[-1].duration_ns()
    names = [each.name() for each in events if begin <= each.start_ns() <= end]
    waits = WAITS_ON_GPU if on_gpu else WAITS_ON_CPU
    return Profile(
        {each.key: _itself(each, on_gpu, steps) for each in watched.key_averages()},
        (_covered(events, _STEP) - _covered(events, "aten::", NOISE)) / steps / 1e6,
        {name: names.count(name) / steps for name in waits if name in names},
    )


def _itself(averages: Any, on_gpu: bool, steps: int) -> tuple[float, float]:
    took = averages.self_device_time_total if on_gpu else averages.self_cpu_time_total
    return took / steps / 1000, averages.count / steps


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        with record_function(NOISE):
            return function(*args, **kwargs)

    return recorded


def _on_device(event: Any) -> bool:
    return str(event.device_type()) != "DeviceType.CPU"


def _covered(events: Iterable[Any], *beginnings: str) -> float:
    """Nanoseconds in which at least one event whose name begins so was running."""
    spans = sorted(
        (each.start_ns(), each.start_ns() + each.duration_ns())
        for each in events
        if each.name().startswith(beginnings)
    )
    covered, until = 0, 0
    for start, end in spans:
        covered += max(0, end - max(start, until))
        until = max(until, end)
    return covered
