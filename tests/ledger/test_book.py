from __future__ import annotations

import gc
import hashlib
import json
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from deniable.errors import LedgerError, UnknownEventError
from deniable.events import ComposedEvent, GaussianEvent, SelfComposedEvent
from deniable.ledger import Ledger
from deniable.units import Neighbouring

ONE, TWO = GaussianEvent(1.0), GaussianEvent(2.0)


def append(path: Path, kind: str, says: dict[str, Any]) -> None:
    """An entry that another version of deniable wrote: its hash is in order."""
    connection = sqlite3.connect(path)
    number, head = connection.execute("SELECT max(id), hash FROM entry").fetchone()
    content = json.dumps({"kind": kind, **says})
    written = hashlib.sha256(f"{head}\n{content}".encode()).hexdigest()
    with connection:
        connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (number + 1, content, written))
    connection.close()


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


def test_a_run_is_not_taken_over_by_another_plan(tmp_path: Path) -> None:
    """Its claim names one plan; older ledgers lack a field, other machines another last digit."""
    plan: dict[str, Any] = {"examples": 100, "schedule": (1, 2), "noise_multiplier": 1.1}
    book = Ledger(tmp_path / "a.ledger")
    book.run("a", description={"plan": plan})
    book.run("a", description={"plan": plan | {"noise_multiplier": 1.1 + 1e-12}})
    book.run("a", description={"plan": plan | {"new": 1}})
    entries = book.contents().entries
    with pytest.raises(LedgerError, match=r"'a' .* another plan \(examples 100, now 200\)"):
        book.run("a", description={"plan": plan | {"examples": 200}})
    assert book.contents().entries == entries


def test_a_run_that_is_not_there_is_refused_with_those_that_are() -> None:
    book = Ledger(None)
    with pytest.raises(LedgerError, match=r"No run 'x' in this ledger; it holds no runs\."):
        book.event("x")


@pytest.mark.parametrize("change", ["UPDATE entry SET id = id + 100", "DELETE FROM entry"])
def test_entries_can_be_neither_changed_nor_deleted(tmp_path: Path, change: str) -> None:
    filled(tmp_path / "l")
    connection = sqlite3.connect(tmp_path / "l")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(change)
    connection.close()


def test_letting_go_of_a_ledger_closes_its_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    connection = ledger._store._connection
    del ledger
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_file_that_is_made_is_logged_and_one_that_is_there_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Ledger(tmp_path / "people.ledger").close()
    assert f"no ledger at {tmp_path / 'people.ledger'}: a new one begins" in caplog.text
    caplog.clear()
    Ledger(tmp_path / "people.ledger").close()
    assert caplog.text == ""


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


@pytest.mark.parametrize(
    ("version", "advice"), [(1, "no hash chain"), (3, "the version of deniable that wrote it")]
)
def test_a_ledger_of_another_version_is_refused(tmp_path: Path, version: int, advice: str) -> None:
    path = tmp_path / "l"
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    said = rf"version {version}, this deniable reads version 2\..*{advice}"
    with pytest.raises(LedgerError, match=said):
        Ledger(path)


@pytest.mark.parametrize(
    ("kind", "says", "error"),
    [
        (
            "reserve",
            {"opening": 2, "start": 5, "stop": 6, "event": {"kind": "laplace", "scale": 1.0}},
            UnknownEventError,
        ),
        ("rebate", {"epsilon": 1.0}, LedgerError),
        ("reserve", {"opening": 99, "start": 0, "stop": 1}, LedgerError),
    ],
    ids=["event", "entry", "reservation of nobody"],
)
def test_what_this_version_does_not_know_is_refused_not_left_out(
    tmp_path: Path, kind: str, says: dict[str, Any], error: type[Exception]
) -> None:
    path = tmp_path / "l"
    filled(path)
    append(path, kind, says)
    with pytest.raises(error, match=r"laplace|rebate|99"):
        Ledger(path)


def test_a_ledger_holds_one_data_set() -> None:
    """Pitfall: users 12."""
    book = Ledger(None)
    book.recognise("f00d")
    book.recognise("f00d")
    with pytest.raises(LedgerError, match=r"fingerprint f00d, got beef.*Ledger\(path, data="):
        book.recognise("beef")
    assert book.contents().fingerprints == ["f00d"]


def test_a_data_set_that_a_person_named_may_take_many_forms(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l", data="hospital") as book:
        book.recognise("raw")
        book.recognise("scaled")
    with Ledger(tmp_path / "l", data="hospital") as book:
        assert book.contents().name == "hospital"
        assert book.contents().fingerprints == ["raw", "scaled"]
    with pytest.raises(LedgerError, match=r"the data set 'hospital', got 'school'"):
        Ledger(tmp_path / "l", data="school")


def test_releases_on_other_terms_do_not_compose_here() -> None:
    """A person's rows are another unit than one row. Pitfall: privacy 14."""
    book = Ledger(None)
    book.run("a", unit="one user")
    with pytest.raises(LedgerError, match=r"protect one user, got .* and one example"):
        book.run("b")


def test_a_release_is_stated_under_the_relation_of_its_event() -> None:
    """Pitfall: privacy 14."""
    book = Ledger(None)
    book.release("mean", GaussianEvent(1.0, Neighbouring.REPLACE))
    assert book.runs()[0].neighbouring is Neighbouring.REPLACE
    with pytest.raises(LedgerError, match="under the relation replace"):
        book.release("median", GaussianEvent(1.0))


def test_a_release_outside_training_is_one_event_on_record() -> None:
    """Statistics, PCA and audits compose with training. Pitfall: users 12."""
    book = Ledger(None)
    book.run("training", planned=3, block=3).release(ONE)
    book.release("mean", TWO, description={"what": "column means"})
    assert book.event() == ComposedEvent((SelfComposedEvent(ONE, 3), SelfComposedEvent(TWO, 1)))
    assert book.runs()[1].description == {"what": "column means"}


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


def test_a_place_where_no_ledger_can_be_is_named_with_its_mend(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database, " * 100)
    for path, said in (
        (tmp_path, r"is a folder, and must be a file\. Name one in it, such as .*people\.ledger"),
        (text, r"is no ledger, by its first bytes.*a file that does not exist yet"),
        (text / "people.ledger", r"cannot be opened or made: .*a folder in which you may write"),
    ):
        with pytest.raises(LedgerError, match=said):
            Ledger(path)
    assert text.read_text() == "no database, " * 100
    assert list(tmp_path.iterdir()) == [text]
