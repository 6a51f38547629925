"""One run's place in a ledger."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deniable.accounting.tally import tally
from deniable.errors import BudgetError, LedgerError
from deniable.events import Event, from_json, to_json
from deniable.ledger.budget import Budget, Guard
from deniable.ledger.contents import Contents, Run
from deniable.ledger.statement import Statement, composed
from deniable.ledger.store import Store, now
from deniable.units import Neighbouring


class RunLedger:
    """Records the releases of one run, each before it takes effect; made by `Ledger.run`.

    Attributes:
        run_id: the run's name.
        position: how many steps count as released so far, from this process's point of view. A run
            that is taken over starts where the stated steps end; `resume_at` goes back.
        opening: the number of the entry by which this process opened the run; no other has it.
        stream: the name of the randomness that steps are released from: of its own, unless
            `resume_at` named another's. It is drawn by itself and tells nothing about the noise.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        planned: int | None,
        expected: Event | None,
        description: Mapping[str, Any],
        neighbouring: Neighbouring,
        unit: str,
        block: int,
    ) -> None:
        if not isinstance(run_id, str):
            raise LedgerError(f"A run's name must be a string, got {run_id!r}.")
        if block < 1:
            raise ValueError(f"A block must be of at least 1 step, got {block!r}.")
        self.run_id = run_id
        self.stream = _new_stream()
        self._process = os.getpid()
        self._store = store
        self._planned = planned
        self._block = block
        self._guard = Guard()
        with store.transaction(write=True) as contents:
            check_kind(contents, neighbouring, unit)
            _check_plan(contents, run_id, description)
            contents.check_open()
            if expected is not None:
                check_expected(contents, expected, self._guard, run_id)
            self.opening = store.append(
                "open",
                at=now(),
                run=run_id,
                neighbouring=neighbouring.value,
                unit=unit,
                planned=planned,
                description=dict(description),
            )
            self.position = contents.runs[run_id].statement.steps
        self._highest = 0  # where the last step that this process released ends
        self._current: Event | None = None
        self._free_until = 0

    @property
    def reserved(self) -> int:
        """The step at which everything reserved for this run ends."""
        with self._store.known() as contents:
            return contents.runs[self.run_id].statement.steps

    def resume_at(self, position: int, stream: str) -> None:
        """Continues at `position`; replaying steps that were reserved before costs nothing.

        Only for a replay that repeats the same releases bit for bit (the same noise on the same
        batches). Anything else is a new release: leave the position where it is.

        Args:
            position: the step before which the randomness stands.
            stream: its name, as `stream` had it where it was first released from.

        Raises:
            LedgerError: the position lies beyond what was reserved, so releases went unrecorded; or
                a step from there on was released from other randomness, so it is no replay.
        """
        if not 0 <= position <= self.reserved:
            raise LedgerError(
                f"Run {self.run_id!r} can resume between step 0 and step {self.reserved}, where "
                f"this ledger's record ends; got {position!r}. This is not the ledger that the run "
                "was recorded in: use the one that lies beside the checkpoint."
            )
        departs = self.departs(stream, position)
        if departs is not None:
            raise LedgerError(
                f"Run {self.run_id!r} counts step {departs} as released from other randomness: to "
                f"release it again from stream {stream!r} is no replay. Go on after every step "
                "that counts (go_on)."
            )
        self.position, self.stream = position, stream
        self._current, self._free_until = None, 0

    def departs(self, stream: str, position: int) -> int | None:
        """The first step from `position` on that counts as released from other randomness.

        None where every one of them would be repeated by a replay from `stream`.
        """
        with self._store.known() as contents:
            return contents.runs[self.run_id].statement.departs(stream, position)

    def record(self) -> list[dict[str, Any]]:
        """What is stated of the steps before `position`, as JSON values; see `restate`."""
        with self._store.known() as contents:
            return [
                {
                    "event": to_json(each.event),
                    "start": each.start,
                    "stop": min(each.stop, self.position),
                    "stream": each.stream,
                }
                for each in contents.runs[self.run_id].statement.reservations
                if each.start < min(each.stop, self.position)
            ]

    def restate(self, record: Sequence[Mapping[str, Any]]) -> None:
        """States what another process's `record` says, where that ledger was in memory and is gone.

        Raises:
            LedgerError: this run counts steps of its own among them, so that both were released.
        """
        with self._store.transaction(write=True) as contents:
            statement, said = contents.runs[self.run_id].statement, Statement()
            for each in record:
                event, stream = from_json(dict(each["event"])), each["stream"]
                said.reserve(self.opening, event, each["start"], each["stop"], stream)
            strange = statement.beside(said)
            if strange is not None:
                raise LedgerError(
                    f"Run {self.run_id!r} counts step {strange} here as another release than the "
                    "record that it is to go on from: both were made. Go on from that record "
                    "before the first step, or with a ledger in a file, which counts both."
                )
            for new in said.reservations:
                if statement.states(new):
                    continue
                self._store.append(
                    "reserve",
                    opening=self.opening,
                    start=new.start,
                    stop=new.stop,
                    event=to_json(new.event),
                    stream=new.stream,
                )
        self._highest = max(self._highest, said.steps)  # nothing of it is to be given back

    def go_on(self) -> None:
        """Continues after every step that counts, with randomness of its own.

        What this process reserved and did not release is given back first.
        """
        self.settle()
        self.position, self.stream = self.reserved, _new_stream()

    def release(self, event: Event, alike: int | None = None) -> None:
        """Records one release; to be called before it takes effect.

        Inside the reserved block this only counts; otherwise the next block is made durable first.

        Args:
            event: the release.
            alike: how many releases are planned to be like it, from this one on: no block reaches
                past them.

        Raises:
            BudgetError: the release would pass the ledger's budget, or the ledger is closed.
            LedgerError: the block could not be made durable, or another process took the run over.
                After either, nothing may be released.
        """
        self.prepare(event, alike)
        self.position += 1
        if self.position > self._highest:
            self._highest = self.position

    def prepare(self, event: Event, alike: int | None = None) -> None:
        """Makes the record of the next release durable now, so that `release` will only count it.

        What was prepared and not released counts as released, until it is settled.

        Args:
            event: the release.
            alike: as in `release`.

        Raises:
            BudgetError: as in `release`.
            LedgerError: as in `release`.
        """
        if os.getpid() != self._process:
            raise LedgerError(
                f"Run {self.run_id!r} was opened by another process, from which this one was "
                "forked: both would release with the same noise, and count it once. Attach in the "
                "process that trains."
            )
        if self.position >= self._free_until or (
            event is not self._current and event != self._current
        ):
            self._cover(event, alike)

    def settle(self) -> None:
        """Gives back what this process reserved and did not release, at a clean stop.

        What an earlier, killed process reserved stays stated: it may have been released. So does
        everything once another process has taken the run over, and in a process that was forked.
        """
        with self._store.transaction(write=True) as contents:
            mine = contents.runs[self.run_id].latest == self.opening
            if mine and os.getpid() == self._process:
                self._give_back(contents.runs[self.run_id].statement)
        self._current, self._free_until = None, 0

    def event(self) -> Event:
        """Everything stated for this run, reserved steps included."""
        with self._store.transaction(write=False) as contents:
            return composed(contents.runs[self.run_id].statement.counts())

    def released_event(self) -> Event:
        """What is stated for the steps before `position`: for a live display, never for a claim."""
        with self._store.known() as contents:
            return composed(contents.runs[self.run_id].statement.counts(before=self.position))

    def _cover(self, event: Event, alike: int | None) -> None:
        """Sees to it that the step at `position` is durably reserved as `event`."""
        with self._store.transaction(write=True) as contents:
            run = contents.runs[self.run_id]
            if run.latest != self.opening:
                raise LedgerError(
                    f"Run {self.run_id!r} was opened again after this process opened it: step "
                    f"{self.position} was not recorded and must not be released. Let one process "
                    "continue the run, or give this one a run_id of its own."
                )
            free_until = run.statement.covered_until(event, self.position)
            if free_until is None:
                free_until = self._reserve(event, alike, contents, run.statement)
        self._current, self._free_until = event, free_until

    def _reserve(
        self, event: Event, alike: int | None, contents: Contents, statement: Statement
    ) -> int:
        """Reserves the next block, or as much of it as the budget admits."""
        contents.check_open()
        self._give_back(statement)
        start, length = self.position, max(1, min(self._block, alike or self._block))
        if self._planned is not None and start < self._planned:
            length = min(length, self._planned - start)
        budget, totals = contents.budget, contents.totals()

        def with_block(length: int) -> Counter[Event]:
            return totals + Counter({event: statement.added(event, start, start + length)})

        while budget and not self._guard.admits(budget, with_block(length)):
            if length == 1:
                step = f"Step {start} of run {self.run_id!r} is refused and must not be released"
                raise _refused(step, budget, totals, with_block(1))
            length //= 2
        self._store.append(
            "reserve",
            opening=self.opening,
            start=start,
            stop=start + length,
            event=to_json(event),
            stream=self.stream,
        )
        return start + length

    def _give_back(self, statement: Statement) -> None:
        if statement.unreleased(self.opening, self._highest):
            self._store.append("settle", opening=self.opening, start=self._highest)


def _new_stream() -> str:
    return secrets.token_hex(8)


def check_expected(
    contents: Contents, expected: Event, guard: Guard, run_id: str | None = None
) -> None:
    """Refuses a run that cannot end within the budget before it has spent anything.

    Args:
        contents: what the ledger says.
        expected: what the whole run will release.
        guard: says what fits.
        run_id: a run that may have begun already; a new one if not given.

    Raises:
        BudgetError: it does not fit.
    """
    if contents.budget is None:
        return
    begun = contents.runs.get(run_id, Run()) if run_id else Run()
    whole = tally(expected) | tally(composed(begun.statement.counts()))
    total = contents.totals(without=run_id) + whole
    if not guard.admits(contents.budget, total):
        plan = f"The plan of run {run_id!r}" if run_id else "This plan"
        what = f"{plan} does not fit, and nothing of it was released"
        raise _refused(what, contents.budget, contents.totals(), total)


def _refused(
    what: str, budget: Budget, spent: Counter[Event], total: Counter[Event]
) -> BudgetError:
    return BudgetError(
        f"{what}: all releases on this data cost epsilon {budget.cost(spent):.6g} at delta "
        f"{budget.delta:g} so far, with it they would cost {budget.cost(total):.6g}, and the "
        f"budget is {budget.epsilon:g}. Use more noise or fewer steps; `deniable ledger show` "
        "lists what was spent."
    )


def _check_plan(contents: Contents, run_id: str, description: Mapping[str, Any]) -> None:
    """Refuses to take over a run whose plan was another: what is claimed of it names one plan.

    Raises:
        LedgerError: it was.
    """
    openings = contents.runs.get(run_id, Run()).openings
    before = openings[-1]["description"].get("plan") if openings else None
    now = json.loads(json.dumps(description.get("plan")))  # as it was written
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return
    differing = [
        f"{name} {before[name]!r}, now {now[name]!r}"
        for name in now
        if not _alike(before.get(name, now[name]), now[name])
    ]
    if differing:
        raise LedgerError(
            f"Run {run_id!r} is in this ledger with another plan ({'; '.join(differing)}). To go "
            "on with it, give the plan that it began with. Another training needs a run_id of its "
            "own, or none."
        )


def _alike(one: object, other: object) -> bool:
    """Two machines solve a plan alike but for its last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def check_kind(contents: Contents, neighbouring: Neighbouring, unit: str) -> None:
    """Refuses a run whose guarantee is of another kind than that of the runs before it.

    Raises:
        LedgerError: the relation or the unit is another.
    """
    mine = contents.neighbouring, contents.unit
    if None not in mine and mine != (neighbouring, unit):
        raise LedgerError(
            f"This ledger states releases under the relation {contents.neighbouring} that protect "
            f"{contents.unit}, got {neighbouring} and {unit}. These do not compose into one claim: "
            "keep one ledger for each data set, relation and unit."
        )
