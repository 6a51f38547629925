"""A ledger: the released events of any number of runs."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deniable.errors import LedgerError
from deniable.events import Event
from deniable.ledger.run import RunLedger
from deniable.ledger.statement import composed
from deniable.ledger.store import Store, read
from deniable.units import Neighbouring

BLOCK = 64


@dataclass(frozen=True)
class RunRecord:
    """What a ledger states about one run.

    Attributes:
        run_id: the run's name.
        opened: when it was first opened, ISO 8601 in UTC.
        neighbouring: the relation under which its events are stated.
        planned: how many steps its latest opening planned, where one was given.
        description: what its latest opening said about itself.
        steps: the step at which everything that counts as released ends.
        event: everything stated for it, composed.
    """

    run_id: str
    opened: str
    neighbouring: Neighbouring
    planned: int | None
    description: dict[str, Any]
    steps: int
    event: Event


class Ledger:
    """A file (or, with None, memory) that holds the released events of any number of runs.

    Guarantees: an entry is durable (SQLite, `synchronous = EXTRA`) before `RunLedger.release`
    returns; nothing is updated or deleted; processes may share the file.

    Args:
        path: the SQLite file, made when absent; None keeps the ledger in memory, for experiments.
        create: False refuses a file that does not exist, for reading.

    Raises:
        LedgerError: the file is no ledger, is damaged, is newer than this version, or is locked.

    >>> from deniable.events import GaussianEvent
    >>> run = Ledger(None).run("first", planned=3)
    >>> run.release(GaussianEvent(1.0))
    >>> run.released_event()
    SelfComposedEvent(event=GaussianEvent(noise_multiplier=1.0), count=1)
    >>> run.event()  # a block is reserved at once, and counts until it is settled
    SelfComposedEvent(event=GaussianEvent(noise_multiplier=1.0), count=3)
    >>> run.settle()
    >>> run.event()
    SelfComposedEvent(event=GaussianEvent(noise_multiplier=1.0), count=1)
    """

    def __init__(self, path: Path | str | None, *, create: bool = True) -> None:
        self.path = None if path is None else Path(path)
        self._store = Store(self.path, create=create)

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
            planned: the number of steps planned: no block that begins within it reaches past it.
            description: JSON values that say what the run is.
            neighbouring: the relation under which its events are stated.
            block: how many steps are reserved at once; a crash overstates by this at most.

        Raises:
            LedgerError: the relation is not the one of the run so far, or the file fails.
        """
        return RunLedger(
            self._store,
            run_id,
            planned=planned,
            description=description or {},
            neighbouring=neighbouring,
            block=block,
        )

    def runs(self) -> list[RunRecord]:
        """What is stated about each run, in the order of their first opening."""
        with self._store.transaction(write=False) as connection:
            return [_record(connection, run_id) for run_id in _run_ids(connection)]

    def event(self, run_id: str | None = None) -> Event:
        """Everything stated, of one run or of all, composed; what is reserved counts as released.

        Raises:
            LedgerError: there is no such run.
        """
        with self._store.transaction(write=False) as connection:
            known = _run_ids(connection)
            if run_id is not None and run_id not in known:
                raise LedgerError(
                    f"No run {run_id!r} in {self.path or 'this ledger'}; "
                    f"it holds {', '.join(map(repr, known)) or 'no runs'}."
                )
            counts: Counter[Event] = Counter()
            for each in known if run_id is None else [run_id]:
                counts.update(read(connection, each).counts())
        return composed(counts)

    def close(self) -> None:
        """Closes the file; a run that was not settled stays stated as reserved."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _run_ids(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT run_id FROM opening GROUP BY run_id ORDER BY min(id)")
    return [run_id for (run_id,) in rows]


def _record(connection: sqlite3.Connection, run_id: str) -> RunRecord:
    rows = connection.execute(
        "SELECT opened, neighbouring, planned, description FROM opening WHERE run_id = ? "
        "ORDER BY id",
        (run_id,),
    ).fetchall()
    statement = read(connection, run_id)
    _, relation, planned, description = rows[-1]
    return RunRecord(
        run_id=run_id,
        opened=rows[0][0],
        neighbouring=Neighbouring(relation),
        planned=planned,
        description=json.loads(description),
        steps=statement.steps,
        event=composed(statement.counts()),
    )
