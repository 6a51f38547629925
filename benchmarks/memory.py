"""Peak memory of a candidate, each in a fresh process.

On a CPU torch's profiler reports every allocation and release of tensor memory, from before the
model is built; their running sum is exact, and its maximum is the peak. What kernels allocate
behind torch's back is not in it, so the process's peak resident memory is noted beside it. On a GPU
the caching allocator keeps the same count.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.candidates import CANDIDATES, Choices, Setting, Step, with_deniable

# The second step may still hold what the first has left, until Python collects its garbage.
FIRST_STEPS = 2
_MARK = "first steps done"
_STATUS = Path("/proc/self/status")

# Freed memory goes back to the system at once, or resident memory would say little.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_ARENA_MAX": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


@contextmanager
def process() -> Iterator[ProcessPoolExecutor]:
    """A fresh process to measure in."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)  # inherited by the process, which starts with its first task
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool
    finally:
        os.environ.clear()
        os.environ.update(before)


def peak(name: str, setting: Setting, choices: Choices) -> dict[str, int | None]:
    """Bytes at the peak, measured in a process of its own.

    Args:
        name: of the candidate.
        setting: what it trains.
        choices: deniable's strategies, as they were timed; the first two steps try their own.

    Returns:
        `first`: most bytes of tensors alive during the first two steps, in which strategies are
        tried: model, data and gradients included. `steady`: the same during a third, with the
        strategies that were timed.
        `resident`: how much resident memory the process holds at the peak of the third, beyond
        what it held after a step on two rows (plain and deniable on Linux's CPUs; otherwise None).
    """
    with process() as pool:
        # Resident memory first: the profiler fills memory with its own notes.
        resident = None
        if name in ("plain", "deniable") and setting.device == "cpu" and _STATUS.exists():
            threads = torch.get_num_threads()
            resident = pool.submit(_resident, name, setting, threads, choices).result()
        found = tensors(name, setting, pool)
        if name == "deniable" and setting.device == "cpu":
            found["steady"] = tensors(name, setting, pool, choices)["steady"]
        return {**found, "resident": resident}


def tensors(
    name: str, setting: Setting, pool: ProcessPoolExecutor, choices: Choices | None = None
) -> dict[str, int | None]:
    """`first` and `steady` alone, in a process that may serve for several of these."""
    threads = torch.get_num_threads()
    if setting.device != "cpu":
        return pool.submit(_on_gpu, name, setting, threads).result()
    return pool.submit(_tensors, name, setting, threads, choices).result()


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # Opacus warns at every step
    gc.collect()


def _on_gpu(name: str, setting: Setting, threads: int) -> dict[str, int | None]:
    _begin(threads)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step = CANDIDATES[name](setting)
    for _ in range(FIRST_STEPS):
        step.run()
    first = torch.cuda.max_memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    step.run()
    return {"first": first, "steady": torch.cuda.max_memory_allocated() - before}


def _tensors(
    name: str, setting: Setting, threads: int, choices: Choices | None = None
) -> dict[str, int | None]:
    _begin(threads)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step = _made(name, setting, choices)
        for _ in range(FIRST_STEPS):
            step.run()
        with record_function(_MARK):
            pass
        step.run()
        del step
        gc.collect()  # while it is watched, so that a later count does not meet these tensors
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    alive = first = steady = 0
    past_mark = False
    events = watched.profiler.kineto_results.events()
    for event in sorted(events, key=lambda each: each.start_ns()):
        if event.name() == _MARK:
            past_mark, steady = True, alive
        elif event.name() == "[memory]":
            alive += event.nbytes()
            first, steady = (first, max(steady, alive)) if past_mark else (max(first, alive), 0)
    return {"first": first, "steady": steady}


def _made(name: str, setting: Setting, choices: Choices | None) -> Step:
    known = name == "deniable" and choices is not None
    return with_deniable(setting, choices) if known else CANDIDATES[name](setting)


def _resident(name: str, setting: Setting, threads: int, choices: Choices) -> int:
    _begin(threads)
    _made(name, replace(setting, batch=2), choices).run()  # libraries and kernels load with this
    gc.collect()
    before = kilobytes("VmRSS")
    step = _made(name, setting, choices)
    for _ in range(FIRST_STEPS):
        step.run()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    step.run()
    return 1024 * (kilobytes("VmHWM") - before)


def kilobytes(field: str) -> int:
    """A line of what Linux says of this process's memory."""
    lines = _STATUS.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":")))
