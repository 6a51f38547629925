"""The SQLite file under a ledger: its tables, its transactions, and what can be wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deniable.errors import LedgerError
from deniable.events import Event, from_json
from deniable.ledger.statement import Statement

APPLICATION_ID = 0x44454E49  # "DENI", in the header of every ledger file
SCHEMA_VERSION = 1
LOCK_SECONDS = 30

_SCHEMA = f"""
BEGIN EXCLUSIVE;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE opening (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    opened TEXT NOT NULL,
    neighbouring TEXT NOT NULL,
    planned INTEGER,
    description TEXT NOT NULL
) STRICT;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    opening INTEGER NOT NULL REFERENCES opening (id),
    kind TEXT NOT NULL CHECK (kind IN ('reserve', 'settle')),
    start INTEGER NOT NULL CHECK (start >= 0),
    stop INTEGER CHECK ((stop IS NULL) = (kind = 'settle') AND stop > start),
    event TEXT CHECK ((event IS NULL) = (kind = 'settle'))
) STRICT;
CREATE INDEX opening_run ON opening (run_id);
CREATE INDEX entry_opening ON entry (opening);
{{triggers}}
COMMIT;
""".format(
    triggers="\n".join(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;"
        for table in ("opening", "entry")
        for verb in ("UPDATE", "DELETE")
    )
)


class Store:
    """An open ledger file, or memory.

    Args:
        path: the file; None for memory.
        create: False refuses a file that does not exist.

    Raises:
        LedgerError: the file is no ledger, is damaged, is newer than this version, or is locked.
    """

    def __init__(self, path: Path | None, *, create: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        if path is None:
            self._connection = _connect(None)
            self._connection.executescript(_SCHEMA)
            return
        with explained(path):
            if not path.exists():
                if not create:
                    raise LedgerError(
                        f"A ledger was expected at {path}, but there is no such file. "
                        "Give the path of a ledger or of a run folder."
                    )
                _make(path)
            self._connection = _connect(path)
            try:
                _check(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable on leaving; one writer at a time over all processes."""
        with self._lock, explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def read(connection: sqlite3.Connection, run_id: str) -> Statement:
    """What a run's entries say."""
    statement = Statement()
    known: dict[str, Event] = {}
    for opening, kind, start, stop, event in connection.execute(
        "SELECT opening, kind, start, stop, event FROM entry "
        "WHERE opening IN (SELECT id FROM opening WHERE run_id = ?) ORDER BY id",
        (run_id,),
    ):
        if kind == "settle":
            statement.settle(opening, start)
            continue
        if event not in known:
            known[event] = from_json(json.loads(event))
        statement.reserve(opening, known[event], start, stop)
    return statement


def _connect(path: Path | None) -> sqlite3.Connection:
    where = ":memory:" if path is None else f"{path.resolve().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        where,
        uri=path is not None,
        timeout=LOCK_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    # EXTRA also syncs the folder after a commit, without which power loss can undo the last one.
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _make(path: Path) -> None:
    """Makes an empty ledger that appears at `path` whole or not at all, and replaces nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    draft.touch()
    try:
        with contextlib.closing(_connect(draft)) as connection:
            connection.executescript(_SCHEMA)
        with contextlib.suppress(FileExistsError):  # another process made it at the same moment
            try:
                os.link(draft, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links: claim the name, then fill it
                path.touch(exist_ok=False)
                draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise LedgerError(
            f"{path} is not a deniable ledger, by its header; it was left untouched. Give the path "
            "of a ledger, or of a file that does not exist yet."
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger version {version}, this deniable reads version {SCHEMA_VERSION}. "
            "Use the version of deniable that wrote it, or a later one."
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise LedgerError(_damaged(path, verdict))


def _damaged(path: Path | None, reason: object) -> str:
    return (
        f"The ledger {path or 'in memory'} cannot be read or written: {reason}. What it stated "
        "counts as spent: restore it from a copy before anything more is released on this data."
    )


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turns what SQLite and the file system raise into a `LedgerError`."""
    try:
        yield
    except (sqlite3.Error, OSError, json.JSONDecodeError) as problem:
        if "locked" in str(problem):
            raise LedgerError(
                f"The ledger {path} stayed locked by another process for {LOCK_SECONDS} s: nothing "
                "was recorded, so nothing may be released. Wait for that process, or end it."
            ) from problem
        raise LedgerError(_damaged(path, problem)) from problem
