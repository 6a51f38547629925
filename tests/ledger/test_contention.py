"""Several processes that spend one ledger's budget at once cannot overspend it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from deniable.accounting import spent
from deniable.events import GaussianEvent, SelfComposedEvent
from deniable.ledger import Ledger

SPENDER = Path(__file__).with_name("spender.py")
ONE = GaussianEvent(20.0)
DELTA = 1e-5
TRIES = 1_000


def cost(count: int) -> float:
    return spent(SelfComposedEvent(ONE, count), DELTA, "rdp").epsilon


def races(ledger: Path, mode: str) -> Iterator[tuple[int, list[int]]]:
    """For each try, how many more releases the budget admits, and how many each process made."""
    with ExitStack() as stack:
        book = stack.enter_context(Ledger(ledger))
        book._store._connection.execute("PRAGMA synchronous = OFF")  # nothing loses power here
        both = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, SPENDER, ledger, name, mode],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in ("one", "two")
        ]
        pipes = [(each.stdin, each.stdout) for each in both]
        assert all(out and out.readline() == "ready\n" for _, out in pipes)
        total = 0
        for number in range(TRIES):
            more = 1 + number % 3
            book.set_budget(cost(total + more), DELTA, "rdp")
            start = time.monotonic() + 0.001
            for say, _ in pipes:
                assert say
                print(start, file=say, flush=True)
            made = [int(out.readline()) for _, out in pipes if out]
            total += sum(made)
            yield more, made
        for say, _ in pipes:
            assert say
            say.close()


def test_two_processes_at_once_spend_the_budget_and_no_more(tmp_path: Path) -> None:
    """Each of 1,000 tries races both for one to three releases. Pitfall: users 12."""
    ledger = tmp_path / "ledger.sqlite"
    found = list(races(ledger, "honest"))
    assert [(more, made) for more, made in found if sum(made) != more] == []
    assert len(found) == TRIES
    with Ledger(ledger, create=False) as book:
        assert book.event() == SelfComposedEvent(ONE, sum(more for more, _ in found))
    winners = [made.index(max(made)) for _, made in found]
    assert 0 < sum(winners) < TRIES, "one process never got a turn: nothing was contended"


def test_looking_before_locking_overspends(tmp_path: Path) -> None:
    """The negative control: the same race, with the check outside of the lock."""
    careless = races(tmp_path / "ledger.sqlite", "careless")
    assert any(sum(made) > more for more, made in careless)
