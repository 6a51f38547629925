"""All processes of one training on one machine, started, watched and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

from torch.distributed import TCPStore

from deniable.errors import CollaborationError
from deniable.training.interrupt import Handler, handled

LOOK_SECONDS = 0.1
LIVES = 5
GOODBYE_SECONDS = 20.0
FINAL = (0, 2, 130)  # complete, refused in words, interrupted


@dataclass
class Seat:
    """One rank, and the process that has it now."""

    rank: int
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0

    def over(self) -> int | None:
        """Its last process's exit status, once that has ended."""
        return None if self.process is None else self.process.poll()


def launch(command: Sequence[str], workers: int) -> int:
    """Run a command once as coordinator and once for each worker; the coordinator's exit status.

    This process holds the store at which they meet, so that the training outlives any of them: who
    is killed is started again, the coordinator from its checkpoint, `LIVES` times at most.

    Args:
        command: what every process runs, told by its environment which one it is.
        workers: how many there are.

    Raises:
        CollaborationError: the coordinator ended again and again.
    """
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )
    seats = [Seat(rank) for rank in range(workers + 1)]
    first, *others = seats
    with handled(_passing_on(seats)):
        try:
            for seat in seats:
                _start(seat, command, workers, store.port)
            while (status := first.over()) not in FINAL:
                for seat in seats:
                    found = seat.over()
                    if found is None or found in FINAL:
                        continue
                    if seat.lives > LIVES:
                        if seat is first:
                            raise CollaborationError(
                                f"The coordinator ended {LIVES + 1} times with status {found}; it "
                                "is not started again. What it said is above."
                            )
                        continue
                    _start(seat, command, workers, store.port)
                time.sleep(LOOK_SECONDS)
        finally:
            _end(others if first.over() is not None else seats)
    return status if status is not None else 1


def _start(seat: Seat, command: Sequence[str], workers: int, port: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // workers)
    place = {
        "RANK": str(seat.rank),
        "WORLD_SIZE": str(workers + 1),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # As torchrun says it: the store is held by who started this process.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    usual = {"OMP_NUM_THREADS": str(threads)}
    seat.lives += 1
    seat.process = subprocess.Popen(
        list(command),
        env=usual | dict(os.environ) | place,
        stdin=subprocess.DEVNULL,
        # Ctrl-C in a terminal reaches a whole group: here the coordinator decides what it means.
        start_new_session=True,
    )


def _passing_on(seats: Sequence[Seat]) -> Handler:
    """Ctrl-C and SIGTERM go to the coordinator, which ends the others in order."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process = seats[0].process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    return pass_on


def _end(seats: Sequence[Seat]) -> None:
    """Wait for all to end by themselves, then end them."""
    limit = time.monotonic() + GOODBYE_SECONDS
    for seat in seats:
        if seat.process is None:
            continue
        try:
            seat.process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            seat.process.kill()
            seat.process.wait()


def own_command(arguments: Sequence[str]) -> list[str]:
    """This program, with other arguments."""
    return [sys.executable, "-m", "deniable", *arguments]
