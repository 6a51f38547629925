"""Whoever changes what a ledger says without writing all of it anew is found out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from deniable.errors import LedgerError
from deniable.events import GaussianEvent
from deniable.ledger import Ledger

ONE = GaussianEvent(1.0)
Row = tuple[int, str, str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of nine entries."""
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as book:
        for name in ("a", "b"):
            run = book.run(name, block=2)
            for _ in range(5):
                run.release(ONE)
    return path


def rows(path: Path) -> list[Row]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT id, content, hash FROM entry ORDER BY id").fetchall()
    connection.close()
    return found


def rewrite(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """What someone can do who knows SQLite: the triggers go, and the entries are other ones."""
    changed = change(rows(path))
    connection = sqlite3.connect(path)
    for (trigger,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    with connection:
        connection.execute("DELETE FROM entry")
        connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", changed)
    connection.close()


def renumbered(found: list[Row]) -> list[Row]:
    return [(number, *row[1:]) for number, row in enumerate(found, 1)]


def with_more_noise(found: list[Row]) -> list[Row]:
    return [(n, content.replace(": 1.0}", ": 9.0}"), written) for n, content, written in found]


def swapped(found: list[Row]) -> list[Row]:
    return renumbered([*found[:4], found[5], found[4], *found[6:]])


CHANGES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "changed": with_more_noise,
    "removed": lambda found: [row for row in found if row[0] != 4],
    "removed, numbers closed up": lambda found: renumbered(found[:3] + found[4:]),
    "first removed": lambda found: renumbered(found[1:]),
    "all removed": lambda found: [],
    "reordered": swapped,
    "repeated": lambda found: renumbered([*found, (0, found[-1][1], "another hash")]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_ledger_is_refused(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    before = rows(path)
    rewrite(path, change)
    assert rows(path) != before
    with pytest.raises(LedgerError, match=r"cannot be trusted.*restore it from a copy"):
        Ledger(path)


def test_a_ledger_that_was_only_copied_is_not_refused(path: Path) -> None:
    """The negative control of the test above."""
    before = Ledger(path).event()
    rewrite(path, renumbered)
    assert Ledger(path).event() == before


def test_entries_that_vanish_from_an_open_ledger_are_noticed_before_the_next_release(
    path: Path,
) -> None:
    book = Ledger(path)
    run = book.run("c", block=1)
    rewrite(path, lambda found: found[:-1])
    with pytest.raises(LedgerError, match="vanished while it was open"):
        run.release(ONE)


def test_an_end_that_was_cut_off_shows_against_the_last_hash_alone(path: Path) -> None:
    """No chain can show it; a claim that quotes the hash does."""
    head = Ledger(path).contents().head
    assert Ledger(path).contents(head).entries == len(rows(path))
    rewrite(path, lambda found: found[:-1])
    with pytest.raises(LedgerError, match=r"No entry of .* has the hash .* cut off its end"):
        Ledger(path).contents(head)


def test_what_was_said_up_to_an_entry_can_be_read_again(path: Path) -> None:
    with Ledger(path) as book:
        before = book.contents()
        book.run("a").release(ONE)
        assert book.contents().entries > before.entries
        assert book.contents(before.head).event() == before.event()


def test_no_two_ledgers_share_a_hash() -> None:
    """So the last hash, which a claim publishes, tells nobody who guesses what is in the ledger."""
    one, two = Ledger(None).contents(), Ledger(None).contents()
    assert one.head != two.head
