"""Trainings of real processes on gloo, which can be killed, stopped and started again.

Forked from one server that has torch loaded already, so that a process costs milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed import TCPStore

from benchmarks.lossy import WIRE, LossyNetwork, in_namespace, join_namespace
from deniable.collaborate import Place

LOOPBACK = "127.0.0.1"
SECONDS = 180.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.fsdp",
        "deniable.collaborate.training",
        "dp_accounting.pld.privacy_loss_distribution",
        "sklearn.datasets",
    ]
)

Script = Callable[..., Any]


class Training:
    """A store, and the processes that meet there.

    Args:
        workers: how many.
        script: called as `script(place, *arguments)` in every process, from a module; what it
            returns is kept.
        arguments: further ones.
        network: between the coordinator, with the store, and the workers; loopback if not given.
    """

    def __init__(
        self, workers: int, script: Script, *arguments: Any, network: LossyNetwork | None = None
    ) -> None:
        self.workers, self.script, self.arguments = workers, script, arguments
        self.network = network
        if network is None:
            self.store = meeting_point(LOOPBACK)
        else:
            here = network.__enter__()
            self.store = in_namespace(here.namespace(0), lambda: meeting_point(here.address(0)))
        self.results: Any = _context.SimpleQueue()
        self.processes: dict[int, BaseProcess] = {}

    def start(self, *ranks: int) -> Training:
        """Start all processes, or some of them; one that has ended is started again."""
        for rank in ranks or range(self.workers + 1):
            host, where = LOOPBACK, None
            if self.network is not None:
                host, where = self.network.address(0), self.network.namespace(int(rank > 0))
            place = (rank, self.workers + 1, host, self.store.port, where)
            process = _context.Process(  # type: ignore[attr-defined]
                target=run, args=(place, self.results, self.script, self.arguments), daemon=True
            )
            process.start()
            self.processes[rank] = process
        return self

    def send(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to a process."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def kill(self, rank: int) -> None:
        """End a process without a word."""
        self.processes[rank].kill()
        self.processes[rank].join()

    def ended(self, seconds: float = SECONDS, *, but: tuple[int, ...] = ()) -> dict[int, Any]:
        """What every process returned, by rank, once all have ended.

        Args:
            seconds: the most to wait.
            but: ranks that are not waited for.

        Raises:
            AssertionError: one did not end in time, or raised.
        """
        limit, found = time.monotonic() + seconds, dict[int, Any]()
        waited = [(rank, each) for rank, each in self.processes.items() if rank not in but]
        while running := [rank for rank, each in waited if each.is_alive()]:
            self._read(found)  # a process does not end before what it returns is read
            if time.monotonic() > limit:
                self.end()
                raise AssertionError(f"Process {running[0]} did not end within {seconds} s.")
            time.sleep(0.01)
        self._read(found)
        return found

    def _read(self, found: dict[int, Any]) -> None:
        while not self.results.empty():
            rank, value = self.results.get()
            if isinstance(value, str) and value.startswith("Traceback"):
                self.end()
                raise AssertionError(f"Process {rank}: {value}")
            found[rank] = value

    def end(self) -> None:
        """End what is left."""
        for process in self.processes.values():
            process.kill()
            process.join()
        if self.network is not None:
            self.network.__exit__()
            self.network = None


def meeting_point(host: str) -> TCPStore:
    """A store that listens here."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def run(
    place: tuple[int, int, str, int, str | None],
    results: Any,
    script: Script,
    arguments: tuple[Any, ...],
) -> None:
    """What a process does."""
    rank, size, host, port, where = place
    torch.set_num_threads(1)
    try:
        if where is not None:
            join_namespace(where)
            os.environ["GLOO_SOCKET_IFNAME"] = WIRE
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
        results.put((rank, script(Place(rank, size, store), *arguments)))
    except BaseException:
        results.put((rank, traceback.format_exc()))


def together(workers: int, script: Script, *arguments: Any) -> dict[int, Any]:
    """All processes from beginning to end; what each returned, by rank."""
    return Training(workers, script, *arguments).start().ended()
