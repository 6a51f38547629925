from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from deniable.errors import LedgerError, UnknownEventError
from deniable.events import ComposedEvent, GaussianEvent, SelfComposedEvent
from deniable.ledger import Ledger
from deniable.units import Neighbouring

ONE, TWO = GaussianEvent(1.0), GaussianEvent(2.0)


def filled(path: Path) -> None:
    with Ledger(path) as book:
        first = book.run("first", planned=5, description={"who": "me"})
        for _ in range(5):
            first.release(ONE)
        second = book.run("second")
        second.release(TWO)
        second.release(ONE)
        second.settle()


def test_runs_on_one_data_set_compose(tmp_path: Path) -> None:
    """Pitfall: users 12."""
    filled(tmp_path / "l")
    with Ledger(tmp_path / "l", create=False) as book:
        assert book.event() == ComposedEvent((SelfComposedEvent(ONE, 6), SelfComposedEvent(TWO, 1)))
        assert book.event("first") == SelfComposedEvent(ONE, 5)


def test_a_record_says_what_a_run_is(tmp_path: Path) -> None:
    filled(tmp_path / "l")
    with Ledger(tmp_path / "l", create=False) as book:
        first, second = book.runs()
    assert (first.run_id, second.run_id) == ("first", "second")
    assert (first.planned, first.steps, first.description) == (5, 5, {"who": "me"})
    assert (second.planned, second.steps, second.description) == (None, 2, {})
    assert first.neighbouring is Neighbouring.ADD_OR_REMOVE
    assert first.opened.endswith("+00:00")


def test_a_run_that_is_opened_again_keeps_its_place_and_its_first_date(tmp_path: Path) -> None:
    filled(tmp_path / "l")
    with Ledger(tmp_path / "l") as book:
        opened = [record.opened for record in book.runs()]
        book.run("first", planned=9, description={"who": "you"})
        again = book.runs()
    assert [record.run_id for record in again] == ["first", "second"]
    assert [record.opened for record in again] == opened
    assert (again[0].planned, again[0].steps, again[0].description) == (9, 5, {"who": "you"})


def test_a_run_that_is_not_there_is_refused_with_those_that_are() -> None:
    book = Ledger(None)
    with pytest.raises(LedgerError, match=r"No run 'x' in this ledger; it holds no runs\."):
        book.event("x")


@pytest.mark.parametrize("table", ["opening", "entry"])
@pytest.mark.parametrize("change", ["UPDATE {} SET id = id + 100", "DELETE FROM {}"])
def test_rows_can_be_neither_changed_nor_deleted(tmp_path: Path, table: str, change: str) -> None:
    filled(tmp_path / "l")
    connection = sqlite3.connect(tmp_path / "l")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(change.format(table))
    connection.close()


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"expected at .*absent, but there is no such file"):
        Ledger(tmp_path / "absent", create=False)
    assert list(tmp_path.iterdir()) == []


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    Ledger(tmp_path / "a" / "b" / "l").close()
    assert (tmp_path / "a" / "b" / "l").is_file()


def test_where_hard_links_are_unknown_the_file_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    filled(tmp_path / "l")
    assert [path.name for path in tmp_path.iterdir()] == ["l"]
    with Ledger(tmp_path / "l") as book:
        assert len(book.runs()) == 2


def test_threads_share_a_ledger(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "l")

    def work(name: str) -> None:
        run = book.run(name, block=1)
        for _ in range(20):
            run.release(ONE)

    threads = [threading.Thread(target=work, args=(f"run {each}",)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert book.event() == SelfComposedEvent(ONE, 80)


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, " * 100], ids=["empty", "another format"]
)
@pytest.mark.parametrize("create", [True, False])
def test_a_file_of_another_kind_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, create: bool
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"notes\.txt"):
        Ledger(path, create=create)
    assert path.read_bytes() == content


def test_a_database_of_someone_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE entry (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is not a deniable ledger, by its header"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be read or written"):
        Ledger(tmp_path)


def test_a_ledger_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    filled(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LedgerError, match="restore it from a copy"):
        Ledger(path)


def test_a_ledger_with_overwritten_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    filled(path)
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="restore it from a copy"):
        Ledger(path)


def test_a_ledger_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(LedgerError, match=r"version 2, this deniable reads version 1\. Use the"):
        Ledger(path)


def test_an_event_of_a_later_version_is_refused_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "l"
    filled(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "INSERT INTO entry (opening, kind, start, stop, event) "
            """VALUES (1, 'reserve', 5, 6, '{"kind": "laplace", "scale": 1.0}')"""
        )
    connection.close()
    with Ledger(path) as book, pytest.raises(UnknownEventError, match="laplace"):
        book.event()


def test_a_file_that_stays_locked_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deniable.ledger.store.LOCK_SECONDS", 0)
    path = tmp_path / "l"
    filled(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="locked by another process"):
        Ledger(path)
    other.close()
