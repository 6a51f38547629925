"""One run's place in a ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deniable.errors import LedgerError
from deniable.events import Event, to_json
from deniable.ledger.statement import composed
from deniable.ledger.store import Store, read
from deniable.units import Neighbouring


class RunLedger:
    """Records the releases of one run, each before it takes effect; made by `Ledger.run`.

    Attributes:
        run_id: the run's name.
        position: how many steps count as released so far, from this process's point of view. A run
            that is taken over starts where the stated steps end; `resume_at` goes back.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        planned: int | None,
        description: Mapping[str, Any],
        neighbouring: Neighbouring,
        block: int,
    ) -> None:
        self.run_id = run_id
        self._store = store
        self._planned = planned
        self._block = block
        with store.transaction(write=True) as connection:
            _check_relation(connection, run_id, neighbouring)
            self._statement = read(connection, run_id)
            self._opening = _open(connection, run_id, planned, description, neighbouring)
        self.position = self._statement.steps
        self._highest = 0  # where the last step that this process released ends
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
        with self._store.transaction(write=True) as connection:
            if self._is_latest(connection):
                self._give_back(connection)
        self._current, self._free_until = None, 0

    def event(self) -> Event:
        """Everything stated for this run, reserved steps included."""
        with self._store.transaction(write=False) as connection:
            return composed(read(connection, self.run_id).counts())

    def released_event(self) -> Event:
        """What is stated for the steps before `position`: for a live display, never for a claim."""
        return composed(self._statement.counts(before=self.position))

    def _cover(self, event: Event) -> None:
        """Sees to it that the step at `position` is durably reserved as `event`."""
        free_until = self._statement.covered_until(event, self.position)
        self._free_until = self._reserve(event) if free_until is None else free_until
        self._current = event

    def _reserve(self, event: Event) -> int:
        start = self.position
        stop = start + self._block
        if self._planned is not None and start < self._planned:
            stop = min(stop, self._planned)
        written = json.dumps(to_json(event), allow_nan=False, sort_keys=True)
        with self._store.transaction(write=True) as connection:
            if not self._is_latest(connection):
                raise LedgerError(
                    f"Run {self.run_id!r} was opened again after this process opened it: step "
                    f"{start} was not recorded and must not be released. Let one process continue "
                    "the run, or give this one a run_id of its own."
                )
            self._give_back(connection)
            connection.execute(
                "INSERT INTO entry (opening, kind, start, stop, event) "
                "VALUES (?, 'reserve', ?, ?, ?)",
                (self._opening, start, stop, written),
            )
        self._statement.reserve(self._opening, event, start, stop)
        return stop

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._statement.unreleased(self._opening, self._highest):
            connection.execute(
                "INSERT INTO entry (opening, kind, start) VALUES (?, 'settle', ?)",
                (self._opening, self._highest),
            )
            self._statement.settle(self._opening, self._highest)

    def _is_latest(self, connection: sqlite3.Connection) -> bool:
        (latest,) = connection.execute(
            "SELECT max(id) FROM opening WHERE run_id = ?", (self.run_id,)
        ).fetchone()
        return bool(latest == self._opening)


def _check_relation(
    connection: sqlite3.Connection, run_id: str, neighbouring: Neighbouring
) -> None:
    for (relation,) in connection.execute(
        "SELECT DISTINCT neighbouring FROM opening WHERE run_id = ?", (run_id,)
    ):
        if relation != neighbouring.value:
            raise LedgerError(
                f"Run {run_id!r} is stated under the relation {relation}, got "
                f"{neighbouring.value}. Give the new run a name of its own."
            )


def _open(
    connection: sqlite3.Connection,
    run_id: str,
    planned: int | None,
    description: Mapping[str, Any],
    neighbouring: Neighbouring,
) -> int:
    cursor = connection.execute(
        "INSERT INTO opening (run_id, opened, neighbouring, planned, description) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            run_id,
            datetime.now(UTC).isoformat(timespec="seconds"),
            neighbouring.value,
            planned,
            json.dumps(dict(description), allow_nan=False),
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid
