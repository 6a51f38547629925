"""The SQLite file under a ledger: its tables, its transactions, and what can be wrong with it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deniable.errors import LedgerError
from deniable.ledger.contents import Contents, chained

APPLICATION_ID = 0x44454E49  # "DENI", in the header of every ledger file
SCHEMA_VERSION = 2
LOCK_SECONDS = 30

_LOG = logging.getLogger("deniable")

_SCHEMA = f"""
BEGIN EXCLUSIVE;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER entry_update BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
CREATE TRIGGER entry_delete BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
COMMIT;
"""


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
        self._contents, self._stale = Contents(), False
        with explained(path):
            if path is not None and not path.exists():
                if not create:
                    raise LedgerError(
                        f"A ledger was expected at {path}, but there is no such file. "
                        "Give the path of a ledger or of a run folder."
                    )
                _make(path)
            self._connection = _connect(path)
            self._close = weakref.finalize(self, self._connection.close)
            if path is None:
                _fill(self._connection)
                return
            try:
                _check(self._connection, path)
                with self.transaction(write=False):
                    pass
            except BaseException:
                self.close()
                raise

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[Contents]:
        """What the ledger says now; with `write`, for as long as it lasts, nobody else may add.

        Every entry that is new to this process is read first and held against the chain. What is
        appended is durable on leaving, or, after an exception, not there at all.
        """
        with self._lock, explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                self._catch_up()
                yield self._contents
                self._connection.execute("COMMIT")
                self._stale = False
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def known(self) -> Iterator[Contents]:
        """What this process last read, without a look at the file, which may be closed."""
        with self._lock:
            yield self._contents

    def append(self, kind: str, **says: Any) -> int:
        """Adds an entry, inside a writing transaction, and returns its number."""
        number = self._contents.entries + 1
        content, written = _entry(self._contents.head, kind, says)
        self._stale = True  # until it is committed
        self._connection.execute(_INSERT, (number, content, written))
        self._contents.add(number, content, written)
        return number

    def read(self, until: str | None = None) -> Contents:
        """Everything replayed afresh, or only what was there when `until` was the head.

        Raises:
            LedgerError: the chain is broken, or no entry has that hash.
        """
        with self.transaction(write=False):
            contents = Contents()
            self._replay(contents, until)
        if contents.head == until:
            return contents
        if until is None:
            return contents
        raise LedgerError(
            f"No entry of {self.path or 'this ledger'} has the hash {until[:16]}...: entries were "
            "cut off its end or written anew since, or this is another ledger. What they stated "
            "counts as spent: restore the ledger from a copy."
        )

    def close(self) -> None:
        """Closes the file; so does letting go of the store."""
        self._close()

    def _catch_up(self) -> None:
        """Reads the entries that are new here, and sees that the last known one is still there."""
        contents = self._contents = Contents() if self._stale else self._contents
        self._stale = True  # until everything is read
        if contents.entries:
            last = self._connection.execute(_HASH, (contents.entries,)).fetchone()
            if last != (contents.head,):
                raise LedgerError(_untrusted(self.path, "entries vanished while it was open"))
        self._replay(contents)
        if not contents.entries:
            raise LedgerError(_untrusted(self.path, "its first entry is gone"))
        self._stale = False

    def _replay(self, contents: Contents, until: str | None = None) -> None:
        """Adds the entries that `contents` lacks, up to the one with the hash `until`."""
        try:
            for row in self._connection.execute(_ROWS, (contents.entries,)):
                contents.add(*row)
                if contents.head == until:
                    return
        except LedgerError as problem:
            raise LedgerError(_untrusted(self.path, problem)) from None


_ROWS = "SELECT id, content, hash FROM entry WHERE id > ? ORDER BY id"
_HASH = "SELECT hash FROM entry WHERE id = ?"
_INSERT = "INSERT INTO entry (id, content, hash) VALUES (?, ?, ?)"


def now() -> str:
    """The time as ledgers note it: ISO 8601, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _entry(previous: str, kind: str, says: dict[str, Any]) -> tuple[str, str]:
    """An entry's text and its hash."""
    content = json.dumps({"kind": kind, **says}, allow_nan=False, sort_keys=True)
    return content, chained(previous, content)


def _connect(path: Path | None) -> sqlite3.Connection:
    where = ":memory:" if path is None else f"{path.resolve().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        where,
        uri=path is not None,
        timeout=LOCK_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # EXTRA also syncs the folder after a commit, or power loss could undo the last one.
        connection.execute("PRAGMA synchronous = EXTRA")
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """Makes an empty ledger that appears at `path` whole or not at all, and replaces nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    draft.touch()
    try:
        with contextlib.closing(_connect(draft)) as connection:
            _fill(connection)
        with contextlib.suppress(FileExistsError):  # another process made it at the same moment
            try:
                os.link(draft, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links: claim the name, then fill it
                path.touch(exist_ok=False)
                draft.replace(path)
            _LOG.warning("There was no ledger at %s: a new one begins there.", path)
    finally:
        draft.unlink(missing_ok=True)


def _fill(connection: sqlite3.Connection) -> None:
    """The table, and a first entry whose random key makes every later hash this ledger's own."""
    connection.executescript(_SCHEMA)
    first = _entry("", "ledger", {"at": now(), "key": secrets.token_hex(32)})
    connection.execute(_INSERT, (1, *first))


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise LedgerError(
            f"{path} is not a deniable ledger, by its header; it was left untouched. Give the path "
            "of a ledger, or of a file that does not exist yet."
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        unchained = " Ledgers of version 1 have no hash chain that would show changes to them."
        raise LedgerError(
            f"{path} has ledger version {version}, this deniable reads version {SCHEMA_VERSION}. "
            f"Use the version of deniable that wrote it.{unchained if version == 1 else ''}"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise LedgerError(_damaged(path, verdict))


def _damaged(path: Path | None, reason: object, failing: str = "cannot be read or written") -> str:
    return (
        f"The ledger {path or 'in memory'} {failing}: {reason}. What it stated counts as spent: "
        "restore it from a copy before anything more is released on this data."
    )


def _untrusted(path: Path | None, reason: object) -> str:
    return _damaged(path, reason, "cannot be trusted")


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
        raise LedgerError(_misplaced(path, problem) or _damaged(path, problem)) from problem


def _misplaced(path: Path | None, problem: Exception) -> str | None:
    """What is wrong with the place rather than with the ledger."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF  # without what SQLite adds to its kind
    if path is None:
        return None
    if code == sqlite3.SQLITE_CANTOPEN and path.is_dir():
        return (
            f"The ledger {path} is a folder, and must be a file. Name one in it, such as "
            f"{path / 'people.ledger'}; it is made if there is none."
        )
    if code == sqlite3.SQLITE_NOTADB:
        return (
            f"{path} is no ledger, by its first bytes; it was left untouched. Give the path of a "
            "ledger, or of a file that does not exist yet. If it was a ledger, what it stated "
            "counts as spent: restore it from a copy."
        )
    if isinstance(problem, OSError) or code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return (
            f"The ledger {path} cannot be opened or made: {problem}. Nothing was recorded, so "
            "nothing may be released. Give a file in a folder in which you may write."
        )
    return None
