"""Real processes on gloo, forked from one server that has torch loaded already."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from deniable.collaborate import Place

SECONDS = 120.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "deniable.collaborate", "deniable.collaborate.start"])

Role = Callable[..., Any]
Process = multiprocessing.process.BaseProcess


class Training:
    """A store, and the processes that meet there.

    Args:
        workers: how many.
        script: called as `script(place, *arguments)` in every process; what it returns is kept.
        arguments: further ones.
    """

    def __init__(self, workers: int, script: Role, *arguments: Any) -> None:
        self.workers, self.script, self.arguments = workers, script, arguments
        self.store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
        )
        self.results: Any = _context.SimpleQueue()
        self.processes: dict[int, Process] = {}

    def start(self, *ranks: int, port: int | None = None) -> Training:
        """Start all processes, or some of them."""
        for rank in ranks or range(self.workers + 1):
            process = _context.Process(
                target=run,
                args=(rank, self.workers + 1, port or self.store.port, self.results, self.script,
                      self.arguments),
                daemon=True,
            )  # fmt: skip
            process.start()
            self.processes[rank] = process
        return self

    def ended(self, seconds: float = SECONDS) -> dict[int, Any]:
        """What every process returned, by rank; an error in one is an error here."""
        found: dict[int, Any] = {}
        for rank, process in self.processes.items():
            process.join(seconds)
            if process.is_alive():
                process.kill()
                raise AssertionError(f"rank {rank} did not end within {seconds} s")
        while not self.results.empty():
            rank, value = self.results.get()
            if isinstance(value, str) and value.startswith("Traceback"):
                raise AssertionError(f"rank {rank}: {value}")
            found[rank] = value
        return found


def run(
    rank: int, size: int, port: int, results: Any, script: Role, arguments: tuple[Any, ...]
) -> None:
    """What a process does."""
    torch.set_num_threads(1)
    try:
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
        results.put((rank, script(Place(rank, size, store), *arguments)))
    except BaseException:
        results.put((rank, traceback.format_exc()))


def together(workers: int, script: Role, *arguments: Any) -> dict[int, Any]:
    """All processes from beginning to end; what each returned, by rank."""
    return Training(workers, script, *arguments).start().ended()


__all__ = ["Path", "Training", "together"]
