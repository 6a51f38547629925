"""A ledger: everything that was released on one data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deniable.errors import BudgetError, LedgerError
from deniable.events import Event, neighbouring_of
from deniable.ledger.budget import Budget, Guard
from deniable.ledger.contents import Contents, RunRecord
from deniable.ledger.run import RunLedger, check_expected, check_kind
from deniable.ledger.store import Store, now
from deniable.units import Neighbouring

EXAMPLE = "one example"
BLOCK = 64


class Ledger:
    """A file (or, with None, memory) that holds everything released on one data set.

    Guarantees: an entry is durable (SQLite, `synchronous = EXTRA`) before `RunLedger.release`
    returns; nothing is updated or deleted, and every entry's hash covers all before it; processes
    may share the file, and together stay within its budget.

    Args:
        path: the SQLite file, made when absent, which the log says; None keeps the ledger in
            memory, for experiments.
        create: False refuses a file that does not exist, for reading.
        data: what people call the data set; left out, its fingerprint names it at first use.

    Raises:
        LedgerError: the file is no ledger, is damaged or was tampered with, is of another version
            or of another data set, or is locked.

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

    def __init__(
        self, path: Path | str | None, *, create: bool = True, data: str | None = None
    ) -> None:
        self.path = None if path is None else Path(path)
        self._store = Store(self.path, create=create)
        if data is not None:
            self._name(data)

    def run(
        self,
        run_id: str,
        *,
        planned: int | None = None,
        expected: Event | None = None,
        description: Mapping[str, Any] | None = None,
        neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE,
        unit: str = EXAMPLE,
        block: int = BLOCK,
    ) -> RunLedger:
        """Opens the run, or takes it over when it exists; earlier openings can reserve no more.

        Args:
            run_id: the run's name.
            planned: the number of steps planned: no block that begins within it reaches past it.
            expected: what the whole run will release; refused here when that passes the budget.
            description: JSON values that say what the run is.
            neighbouring: the relation under which its events are stated.
            unit: what the guarantee is about, in words.
            block: how many steps are reserved at once; a crash overstates by this at most.

        Raises:
            BudgetError: `expected` does not fit the budget, or the ledger is closed.
            LedgerError: the relation or the unit is not the ledger's, the run began with another
                plan, or the file fails.
        """
        return RunLedger(
            self._store,
            run_id,
            planned=planned,
            expected=expected,
            description=description or {},
            neighbouring=neighbouring,
            unit=unit,
            block=block,
        )

    def release(
        self,
        run_id: str,
        event: Event,
        *,
        description: Mapping[str, Any] | None = None,
        neighbouring: Neighbouring | None = None,
        unit: str = EXAMPLE,
    ) -> None:
        """Records one release outside training (statistics, PCA, an audit), before it is made.

        Args:
            run_id: its name.
            event: what is released.
            description: JSON values that say what it is.
            neighbouring: the relation under which it is stated; the event's own if not given.
            unit: what the guarantee is about, in words.

        Raises:
            BudgetError: it would pass the budget, or the ledger is closed; it must not be made.
            LedgerError: it could not be recorded, or the relation or unit is another.
        """
        run = self.run(
            run_id,
            planned=1,
            expected=event,
            description=description,
            neighbouring=neighbouring or neighbouring_of(event),
            unit=unit,
            block=1,
        )
        run.release(event)

    def check(
        self,
        expected: Event,
        *,
        fingerprint: str,
        neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE,
        unit: str = EXAMPLE,
    ) -> None:
        """Refuses what `run` and `recognise` would refuse now, and records nothing.

        Args:
            expected: what a new run would release.
            fingerprint: of its data.
            neighbouring: the relation under which its events would be stated.
            unit: what the guarantee would be about, in words.

        Raises:
            BudgetError: `expected` does not fit the budget, or the ledger is closed.
            LedgerError: the data, the relation or the unit is not the ledger's.
        """
        with self._store.transaction(write=False) as contents:
            self._check_data(contents, fingerprint)
            check_kind(contents, neighbouring, unit)
            contents.check_open()
            check_expected(contents, expected, Guard())

    def recognise(self, fingerprint: str) -> None:
        """Notes that releases are made on the data of this fingerprint; other data is refused.

        In a ledger whose data set a person named, all its forms (scaled, reduced) are at home.

        Raises:
            LedgerError: the ledger belongs to another data set.
        """
        with self._store.transaction(write=True) as contents:
            self._check_data(contents, fingerprint)
            if fingerprint not in contents.fingerprints:
                self._store.append("data", fingerprint=fingerprint)

    def set_budget(self, epsilon: float, delta: float, accountant: str = "pld") -> None:
        """Limits what all releases on this data set may cost together, from now on.

        Each budget that was ever set stays on record; the last one holds.

        Raises:
            BudgetError: a value out of range, more than that is spent already, or the ledger is
                closed.
        """
        budget = Budget(epsilon, delta, accountant)
        with self._store.transaction(write=True) as contents:
            contents.check_open()
            spent = budget.cost(contents.totals())
            if not spent <= epsilon:
                raise BudgetError(
                    f"All releases on this data cost epsilon {spent:.6g} at delta {delta:g} "
                    f"already: a budget of {epsilon:g} cannot be kept. Set a larger one, or close "
                    "the ledger to further spending."
                )
            self._store.append(
                "budget",
                at=now(),
                epsilon=float(epsilon),
                delta=float(delta),
                accountant=accountant,
            )

    def close_spending(self) -> None:
        """Forbids every further release on this data set; this cannot be undone.

        Raises:
            BudgetError: the ledger is closed already.
        """
        with self._store.transaction(write=True) as contents:
            contents.check_open()
            self._store.append("close", at=now())

    def contents(self, until: str | None = None) -> Contents:
        """Everything the ledger says, or all it said when `until` was the hash of its last entry.

        Raises:
            LedgerError: the chain of hashes is broken, or no entry has that hash.
        """
        return self._store.read(until)

    def known(self) -> Contents:
        """What this process last read or wrote; the file is not looked at, and may be closed."""
        with self._store.known() as contents:
            return contents

    def runs(self) -> list[RunRecord]:
        """What is stated about each run, in the order of their first opening."""
        return self.contents().records()

    def event(self, run_id: str | None = None) -> Event:
        """Everything stated, of one run or of all, composed; what is reserved counts as released.

        Raises:
            LedgerError: there is no such run.
        """
        return self.contents().event(run_id)

    def close(self) -> None:
        """Closes the file; a run that was not settled stays stated as reserved."""
        self._store.close()

    def _check_data(self, contents: Contents, fingerprint: str) -> None:
        known = contents.fingerprints
        if known and fingerprint not in known and contents.name is None:
            raise LedgerError(
                f"{self.path or 'This ledger'} belongs to the data set with the fingerprint "
                f"{known[0]}, got {fingerprint}. Keep one ledger for each data set. If both are "
                "forms of the same data about the same people, say so by naming the data set: "
                "Ledger(path, data='...')."
            )

    def _name(self, data: str) -> None:
        with self._store.transaction(write=True) as contents:
            if contents.name == data:
                return
            if contents.name is not None:
                raise LedgerError(
                    f"{self.path or 'This ledger'} belongs to the data set {contents.name!r}, got "
                    f"{data!r}. Keep one ledger for each data set."
                )
            self._store.append("data", name=data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
