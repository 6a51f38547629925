"""A process that spends a ledger's budget whenever its test says so, against another such process.

Arguments: ledger, run, and "honest", or "careless" for the negative control that looks whether a
release fits before it locks the file. Each line on standard input is a moment of the system's clock
at which to start releasing; the answer is how many releases were made until one was refused.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from deniable.errors import BudgetError
from deniable.events import Event, GaussianEvent
from deniable.ledger import Ledger, RunLedger
from deniable.ledger.budget import Guard

ONE = GaussianEvent(20.0)


def careless(book: Ledger, run: RunLedger, event: Event) -> None:
    contents = book.contents()
    assert contents.budget is not None
    if not Guard().admits(contents.budget, contents.totals() + Counter({event: 1})):
        raise BudgetError("refused")
    run.release(event)


def main(ledger: str, run_id: str, mode: str) -> None:
    book = Ledger(ledger)
    book._store._connection.execute("PRAGMA synchronous = OFF")  # nothing loses power here
    run = book.run(run_id, block=1)
    if mode == "careless":
        run._guard.admits = lambda budget, total: True  # type: ignore[method-assign]
    print("ready", flush=True)
    for line in sys.stdin:
        while time.monotonic() < float(line):
            pass
        count = 0
        try:
            while True:
                if mode == "careless":
                    careless(book, run, ONE)
                else:
                    run.release(ONE)
                count += 1
        except BudgetError:
            print(count, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
