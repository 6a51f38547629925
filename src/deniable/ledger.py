"""The append-only record of what was released: durable before a release takes effect.

A run reserves a block of steps durably and then releases them one by one, so that a process killed
at any instant leaves a ledger that overstates and never understates. Rows are only ever added:

- an *opening* says that a process took a run over; only the latest opening of a run may reserve,
- a *reserve* entry says that steps `start` to `stop` of the run count as released as one event,
- a *settle* entry says that its own opening released nothing from step `start` on.

A step that is reserved twice as the same event counts once: a process that replays it after a crash
repeats the same release, bit for bit. Reserved as different events, it counts as each of them.

Importable without torch.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deniable.errors import LedgerError
from deniable.events import ComposedEvent, Event, SelfComposedEvent, from_json, to_json
from deniable.units import Neighbouring

APPLICATION_ID = 0x44454E49  # "DENI", in the header of every ledger file
SCHEMA_VERSION = 1
BLOCK = 64

_SCHEMA = f"""
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
    stop INTEGER CHECK ((stop > start) = (kind = 'reserve')),
    event TEXT CHECK ((event IS NULL) = (kind = 'settle'))
) STRICT;
CREATE INDEX opening_run ON opening (run_id);
CREATE INDEX entry_opening ON entry (opening);
""" + "".join(
    f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;\n"
    for table in ("opening", "entry")
    for verb in ("UPDATE", "DELETE")
)


@dataclass(frozen=True)
class RunRecord:
    """What a ledger states about one run.

    Attributes:
        run_id: the run's name.
        opened: when it was first opened, ISO 8601 in UTC.
        neighbouring: the relation under which its events are stated.
        planned: how many steps its latest opening planned, where one was given.
        description: what its latest opening said about itself.
        steps: how many steps count as released.
        event: everything stated for it, composed.
    """

    run_id: str
    opened: str
    neighbouring: Neighbouring
    planned: int | None
    description: dict[str, Any]
    steps: int
    event: Event


@dataclass
class _Reservation:
    """Steps `start` to `stop` of a run that `opening` reserved as `event`."""

    opening: int
    event: Event
    start: int
    stop: int


@dataclass
class _Statement:
    """What the entries of one run say, replayed in order."""

    reservations: list[_Reservation] = field(default_factory=list)

    def reserve(self, reservation: _Reservation) -> None:
        self.reservations.append(reservation)

    def settle(self, opening: int, at: int) -> None:
        for each in self.reservations:
            if each.opening == opening:
                each.stop = max(each.start, min(each.stop, at))

    @property
    def steps(self) -> int:
        return max((each.stop for each in self.reservations if each.stop > each.start), default=0)

    def intervals(self, event: Event) -> list[tuple[int, int]]:
        """The steps that are reserved as `event`: disjoint, sorted, none adjacent."""
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(
            (each.start, each.stop)
            for each in self.reservations
            if each.event == event and each.stop > each.start
        ):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return merged

    def counts(self, before: int | None = None) -> dict[Event, int]:
        """How many steps are stated as each event, of all or of those before a position."""
        found: dict[Event, int] = {}
        for event in dict.fromkeys(each.event for each in self.reservations):
            count = sum(
                max(0, (stop if before is None else min(stop, before)) - start)
                for start, stop in self.intervals(event)
            )
            if count:
                found[event] = count
        return found


class Ledger:
    """A file (or, with None, memory) that holds the released events of any number of runs.

    Guarantees: entries are durable (`synchronous = EXTRA`) before `RunLedger.release` returns;
    nothing is updated or deleted; processes may share the file.

    Args:
        path: the SQLite file, made when absent; None keeps the ledger in memory, for experiments.
        create: False refuses a file that does not exist, for reading.

    Raises:
        LedgerError: the file is no ledger, is damaged, is newer than this version, or is locked.
    """

    def __init__(self, path: Path | str | None, *, create: bool = True) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.RLock()
        if self.path is None:
            self._connection = _connect(None)
            self._connection.executescript(_SCHEMA)
            return
        if not self.path.exists():
            if not create:
                raise LedgerError(
                    f"A ledger was expected at {self.path}, but there is no such file. "
                    "Give the path of a ledger or of a run folder."
                )
            _make(self.path)
        with _explained(self.path):
            self._connection = _connect(self.path)
            try:
                _check(self._connection, self.path)
            except BaseException:
                self._connection.close()
                raise

    def run(
        self,
        run_id: str,
        *,
        planned: int | None = None,
        description: Mapping[str, Any] | None = None,
        neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE,
        block: int = BLOCK,
    ) -> RunLedger:
        """Opens the run, or takes it over when it exists; earlier openings can reserve no more.

        Args:
            run_id: the run's name.
            planned: the number of steps planned: no block reaches past it.
            description: JSON values that say what the run is.
            neighbouring: the relation under which its events are stated.
            block: how many steps are reserved at once; a crash overstates by fewer than this.

        Raises:
            LedgerError: the relation is not the one of the run so far, or the file fails.
        """
        return RunLedger(self, run_id, planned, dict(description or {}), neighbouring, block)

    def runs(self) -> list[RunRecord]:
        """What is stated about each run, in the order of their first opening."""
        with self._transaction(write=False) as connection:
            openings = connection.execute(
                "SELECT run_id, opened, neighbouring, planned, description FROM opening ORDER BY id"
            ).fetchall()
            statements = {run_id: _read(connection, run_id) for run_id, *_ in openings}
        first_opened = {run_id: opened for run_id, opened, *_ in reversed(openings)}
        latest = {run_id: rest for run_id, _, *rest in openings}
        return [
            RunRecord(
                run_id=run_id,
                opened=first_opened[run_id],
                neighbouring=Neighbouring(relation),
                planned=planned,
                description=json.loads(description),
                steps=statements[run_id].steps,
                event=_composed(statements[run_id].counts()),
            )
            for run_id, (relation, planned, description) in latest.items()
        ]

    def event(self, run_id: str | None = None) -> Event:
        """Everything stated, of one run or of all, composed; what is reserved counts as released.

        Raises:
            LedgerError: there is no such run.
        """
        with self._transaction(write=False) as connection:
            known = [run for (run,) in connection.execute("SELECT DISTINCT run_id FROM opening")]
            if run_id is not None and run_id not in known:
                raise LedgerError(
                    f"No run {run_id!r} in {self.path or 'this ledger'}; "
                    f"it holds {', '.join(map(repr, known)) or 'no runs'}."
                )
            counts: dict[Event, int] = {}
            for each in known if run_id is None else [run_id]:
                for event, count in _read(connection, each).counts().items():
                    counts[event] = counts.get(event, 0) + count
        return _composed(counts)

    def close(self) -> None:
        """Closes the file; a run that was not settled stays stated as reserved."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable on leaving; one writer at a time over all processes."""
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


class RunLedger:
    """One run's place in a ledger; made by `Ledger.run`.

    Attributes:
        run_id: the run's name.
        position: how many steps count as released so far, from this process's point of view. A run
            that is taken over starts where the stated steps end; `resume_at` goes back.
    """

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        planned: int | None,
        description: dict[str, Any],
        neighbouring: Neighbouring,
        block: int,
    ) -> None:
        self.run_id = run_id
        self._ledger = ledger
        self._planned = planned
        self._block = block
        with ledger._transaction(write=True) as connection:
            for (relation,) in connection.execute(
                "SELECT neighbouring FROM opening WHERE run_id = ?", (run_id,)
            ):
                if relation != neighbouring:
                    raise LedgerError(
                        f"Run {run_id!r} is stated under the relation {relation}, got "
                        f"{neighbouring}. Give the new run a name of its own."
                    )
            self._statement = _read(connection, run_id)
            cursor = connection.execute(
                "INSERT INTO opening (run_id, opened, neighbouring, planned, description) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    run_id,
                    datetime.now(UTC).isoformat(timespec="seconds"),
                    neighbouring.value,
                    planned,
                    json.dumps(description, allow_nan=False),
                ),
            )
            assert cursor.lastrowid is not None
            self._opening = cursor.lastrowid
        self.position = self._highest = self._statement.steps
        self._current: Event | None = None
        self._free_until = 0

    @property
    def reserved(self) -> int:
        """The step at which everything reserved for this run ends."""
        return self._statement.steps

    def resume_at(self, position: int) -> None:
        """Continues at `position`; replaying steps that were reserved before costs nothing.

        Only for a replay that repeats the same releases bit for bit (the same noise on the same
        batches). Anything else is a new release: leave the position where it is.

        Raises:
            LedgerError: the position lies beyond what was reserved, so releases went unrecorded.
        """
        if not 0 <= position <= self.reserved:
            raise LedgerError(
                f"Run {self.run_id!r} can resume between step 0 and step {self.reserved}, where "
                f"this ledger's record ends; got {position!r}. This is not the ledger that the run "
                "was recorded in: use the one that lies beside the checkpoint."
            )
        self.position = position
        self._current, self._free_until = None, 0

    def release(self, event: Event) -> None:
        """Records one release; to be called before it takes effect.

        Inside the reserved block this only counts; otherwise the next block is made durable first.

        Raises:
            LedgerError: the block could not be made durable, or another process took the run over.
                Nothing may be released then.
        """
        if self.position >= self._free_until or (
            event is not self._current and event != self._current
        ):
            self._cover(event)
        self.position += 1
        if self.position > self._highest:
            self._highest = self.position

    def settle(self) -> None:
        """Gives back what this process reserved and did not release, at a clean stop.

        What an earlier, killed process reserved stays stated: it may have been released. So does
        everything once another process has taken the run over.
        """
        with self._ledger._transaction(write=True) as connection:
            if self._is_latest(connection):
                self._give_back(connection)
        self._current, self._free_until = None, 0

    def event(self) -> Event:
        """Everything stated for this run, reserved steps included."""
        return self._ledger.event(self.run_id)

    def released_event(self) -> Event:
        """What is stated for the steps before `position`: for a live display, never for a claim."""
        return _composed(self._statement.counts(before=self.position))

    def _cover(self, event: Event) -> None:
        """Sees to it that the step at `position` is durably reserved as `event`."""
        free_until = self._covered_until(event)
        if free_until is None:
            free_until = self._reserve(event)
        self._current, self._free_until = event, free_until

    def _covered_until(self, event: Event) -> int | None:
        for start, stop in self._statement.intervals(event):
            if start <= self.position < stop:
                return stop
        return None

    def _reserve(self, event: Event) -> int:
        start = self.position
        stop = start + self._block
        if self._planned is not None and start < self._planned:
            stop = min(stop, self._planned)
        written = json.dumps(to_json(event), allow_nan=False, sort_keys=True)
        with self._ledger._transaction(write=True) as connection:
            if not self._is_latest(connection):
                raise LedgerError(
                    f"Run {self.run_id!r} was taken over by another process, which opened it after "
                    "this one: step "
                    f"{start} was not recorded and must not be released. Let one process continue "
                    "the run, or give this one a run_id of its own."
                )
            self._give_back(connection)
            connection.execute(
                "INSERT INTO entry (opening, kind, start, stop, event) "
                "VALUES (?, 'reserve', ?, ?, ?)",
                (self._opening, start, stop, written),
            )
        self._statement.reserve(_Reservation(self._opening, event, start, stop))
        return stop

    def _give_back(self, connection: sqlite3.Connection) -> None:
        unreleased = any(
            each.opening == self._opening and each.stop > max(each.start, self._highest)
            for each in self._statement.reservations
        )
        if unreleased:
            connection.execute(
                "INSERT INTO entry (opening, kind, start) VALUES (?, 'settle', ?)",
                (self._opening, self._highest),
            )
            self._statement.settle(self._opening, self._highest)

    def _is_latest(self, connection: sqlite3.Connection) -> bool:
        row = connection.execute(
            "SELECT max(id) FROM opening WHERE run_id = ?", (self.run_id,)
        ).fetchone()
        return bool(row[0] == self._opening)


def _read(connection: sqlite3.Connection, run_id: str) -> _Statement:
    """Replays the entries of a run."""
    statement = _Statement()
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
        statement.reserve(_Reservation(opening, known[event], start, stop))
    return statement


def _composed(counts: Mapping[Event, int]) -> Event:
    events = tuple(SelfComposedEvent(event, count) for event, count in counts.items())
    return events[0] if len(events) == 1 else ComposedEvent(events)


def _connect(path: Path | None) -> sqlite3.Connection:
    where = ":memory:" if path is None else f"{path.resolve().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        where, uri=path is not None, timeout=30, isolation_level=None, check_same_thread=False
    )
    # EXTRA also syncs the folder after a commit, without which power loss can undo the last one.
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _make(path: Path) -> None:
    """Makes an empty ledger that appears at `path` whole or not at all, and replaces nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    with _explained(path):
        draft.touch()
        try:
            connection = _connect(draft)
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            connection.close()
            os.link(draft, path)
        except FileExistsError:
            pass  # another process made it at the same moment
        finally:
            draft.unlink()


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
def _explained(path: Path | None) -> Iterator[None]:
    """Turns what SQLite and the file system raise into a `LedgerError`."""
    try:
        yield
    except sqlite3.OperationalError as problem:
        if "locked" in str(problem):
            raise LedgerError(
                f"The ledger {path} stayed locked by another process for 30 s: nothing was "
                "recorded, so nothing may be released. Wait for that process, or end it."
            ) from problem
        raise LedgerError(_damaged(path, problem)) from problem
    except (sqlite3.Error, OSError, json.JSONDecodeError) as problem:
        raise LedgerError(_damaged(path, problem)) from problem
