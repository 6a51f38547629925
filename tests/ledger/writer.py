"""A process that releases steps and notes each on a side file, to be killed by its test.

Arguments: ledger, side file, run, first step (or "continue"), steps, planned, block, and the SQL
statement before which it kills itself (0: never), then "honest", or "late" for the negative control
that notes a release before it records it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import suppress

from deniable.errors import BudgetError
from deniable.events import GaussianEvent, PoissonSampledEvent
from deniable.ledger import Ledger, RunLedger

STEP = PoissonSampledEvent(0.01, GaussianEvent(1.0))


def die_before(statement: int) -> None:
    """Counts the SQL statements of every connection, and kills this process before one of them."""
    connect, seen = sqlite3.connect, 0

    def traced(*args: object, **kwargs: object) -> sqlite3.Connection:
        def count(_: str) -> None:
            nonlocal seen
            seen += 1
            if seen == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        connection = connect(*args, **kwargs)  # type: ignore[call-overload]
        connection.set_trace_callback(count)
        return connection  # type: ignore[no-any-return]

    sqlite3.connect = traced  # type: ignore[assignment]


def main(ledger: str, side: str, run_id: str, first: str, *rest: str) -> None:
    steps, planned, block, statement = map(int, rest[:4])
    if statement:
        die_before(statement)
    noted = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    book = Ledger(ledger)
    known = book.contents().runs.get(run_id)
    run = book.run(run_id, planned=planned, block=block)
    if first != "continue":
        stream = known.statement.reservations[-1].stream if known else None
        run.resume_at(int(first), stream or run.stream)
    with suppress(BudgetError):
        release(run, noted, steps, rest[4])
    run.settle()
    book.close()


def release(run: RunLedger, noted: int, steps: int, mode: str) -> None:
    for _ in range(steps):
        line = f"{run.position}\n".encode()
        if mode == "late":
            os.write(noted, line)
            run.release(STEP)
        else:
            run.release(STEP)
            os.write(noted, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
