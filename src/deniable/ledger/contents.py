"""What all entries of a ledger say, replayed in order and held against their hash chain."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deniable.errors import BudgetError, LedgerError
from deniable.events import Event, from_json
from deniable.ledger.budget import Budget
from deniable.ledger.statement import Statement, composed
from deniable.units import Neighbouring


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

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan in its description, as JSON values; empty where it names none."""
        plan = self.description.get("plan")
        return plan if isinstance(plan, dict) else {}


@dataclass
class Run:
    """One run: its openings, as their entries say it, and what is stated for it."""

    openings: list[dict[str, Any]] = field(default_factory=list)
    latest: int = 0
    statement: Statement = field(default_factory=Statement)


def chained(previous: str, content: str) -> str:
    """The hash of an entry: SHA-256 of the hash before it and of what it says."""
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


@dataclass
class Contents:
    """The state that a ledger's entries add up to.

    Attributes:
        entries: how many there are.
        head: the hash of the last one, which every entry before it is part of.
        identity: the hash of the first one, which names this ledger among all others.
        name: what a person called the data set, if anyone did.
        fingerprints: the forms in which the data set was met.
        neighbouring: the relation of every run; None before the first.
        unit: what every run protects; None before the first.
        budgets: every budget that was set and when, the valid one last.
        closed: when spending was closed for good, or None.
        runs: by name, in the order of their first opening.
    """

    entries: int = 0
    head: str = ""
    identity: str = ""
    name: str | None = None
    fingerprints: list[str] = field(default_factory=list)
    neighbouring: Neighbouring | None = None
    unit: str | None = None
    budgets: list[tuple[str, Budget]] = field(default_factory=list)
    closed: str | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    _run_of: dict[int, Run] = field(default_factory=dict)
    _events: dict[str, Event] = field(default_factory=dict)

    @property
    def budget(self) -> Budget | None:
        """The budget that holds now."""
        return self.budgets[-1][1] if self.budgets else None

    def totals(self, *, without: str | None = None) -> Counter[Event]:
        """How often each event is stated, over all runs or all but one."""
        counts: Counter[Event] = Counter()
        for run_id, run in self.runs.items():
            if run_id != without:
                counts.update(run.statement.counts())
        return counts

    def records(self) -> list[RunRecord]:
        """Every run, in the order of the first opening."""
        return [_record(run_id, run) for run_id, run in self.runs.items()]

    def event(self, run_id: str | None = None) -> Event:
        """Everything stated, of one run or of all, composed.

        Raises:
            LedgerError: there is no such run.
        """
        if run_id is None:
            return composed(self.totals())
        if run_id not in self.runs:
            raise LedgerError(
                f"No run {run_id!r} in this ledger; it holds "
                f"{', '.join(map(repr, self.runs)) or 'no runs'}."
            )
        return composed(self.runs[run_id].statement.counts())

    def check_open(self) -> None:
        """Refuses to spend from a closed ledger.

        Raises:
            BudgetError: it was closed.
        """
        if self.closed:
            raise BudgetError(
                f"This ledger was closed at {self.closed}: nothing more may be released on this "
                "data. What was released stands; closing cannot be undone."
            )

    def add(self, number: int, content: str, written: str) -> None:
        """Replays one entry.

        Raises:
            LedgerError: it is not the entry that was written after those before it.
            UnknownEventError: it holds an event that this version does not know.
        """
        if number != self.entries + 1 or written != chained(self.head, content):
            raise LedgerError(
                f"entry {self.entries + 1} does not continue the chain of hashes: entries were "
                "changed, removed or put in another order"
            )
        try:
            self._say(number, json.loads(content))
        except (KeyError, TypeError, AttributeError) as problem:
            raise LedgerError(f"entry {number} is not one of a ledger: {problem!r}") from problem
        self.entries, self.head = number, written
        self.identity = self.identity or written

    def _say(self, number: int, entry: dict[str, Any]) -> None:
        match entry["kind"]:
            case "ledger":
                pass
            case "data":
                self.name = entry.get("name", self.name)
                self.fingerprints += [entry["fingerprint"]] if "fingerprint" in entry else []
            case "open":
                self.neighbouring = Neighbouring(entry["neighbouring"])
                self.unit = entry["unit"]
                run = self.runs.setdefault(entry["run"], Run())
                run.openings.append(entry)
                run.latest = number
                self._run_of[number] = run
            case "reserve":
                statement = self._run_of[entry["opening"]].statement
                event = self._event(entry["event"])
                stream = entry.get("stream")  # older entries name none: their steps match no other
                statement.reserve(entry["opening"], event, entry["start"], entry["stop"], stream)
            case "settle":
                self._run_of[entry["opening"]].statement.settle(entry["opening"], entry["start"])
            case "budget":
                budget = Budget(entry["epsilon"], entry["delta"], entry["accountant"])
                self.budgets.append((entry["at"], budget))
            case "close":
                self.closed = entry["at"]
            case kind:
                raise LedgerError(
                    f"entry {number} is of kind {kind!r}, which this version of deniable does not "
                    "know; ignoring it could understate epsilon"
                )

    def _event(self, values: dict[str, Any]) -> Event:
        text = json.dumps(values, sort_keys=True)
        if text not in self._events:
            self._events[text] = from_json(values)
        return self._events[text]


def _record(run_id: str, run: Run) -> RunRecord:
    first, last = run.openings[0], run.openings[-1]
    return RunRecord(
        run_id=run_id,
        opened=first["at"],
        neighbouring=Neighbouring(last["neighbouring"]),
        planned=last["planned"],
        description=last["description"],
        steps=run.statement.steps,
        event=composed(run.statement.counts()),
    )
