"""A process killed at any instant leaves a ledger that states no less than was released."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deniable.accounting import spent
from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.ledger import Ledger

WRITER = Path(__file__).with_name("writer.py")
STEP = PoissonSampledEvent(0.01, GaussianEvent(1.0))


class Case:
    """A ledger, and a side file that lists the steps that were released, in order."""

    def __init__(self, folder: Path) -> None:
        self.ledger, self.side = folder / "ledger.sqlite", folder / "side"

    def start(
        self,
        *,
        first: int | str = "continue",
        steps: int = 10**9,
        planned: int = 10**9,
        block: int = 3,
        die_before: int = 0,
        mode: str = "honest",
    ) -> subprocess.Popen[bytes]:
        arguments = [self.ledger, self.side, "run", first, steps, planned, block, die_before, mode]
        return subprocess.Popen([sys.executable, WRITER, *map(str, arguments)])

    def released(self) -> list[int]:
        if not self.side.exists():
            return []
        return [int(line) for line in self.side.read_text().splitlines()]

    def stated(self) -> int:
        if not self.ledger.exists():
            return 0
        with Ledger(self.ledger, create=False) as book:
            return sum(record.steps for record in book.runs())

    def holds(self) -> bool:
        """Whether every released step is stated."""
        return self.stated() > max(self.released(), default=-1)


def test_killed_at_random_instants_it_never_understates(tmp_path: Path) -> None:
    """Each process goes on where the one before was killed. Pitfall: privacy 10."""
    rng = random.Random(1)
    case = Case(tmp_path)
    for _ in range(12):
        already = len(case.released())
        process = case.start()
        deadline = time.monotonic() + 30
        while len(case.released()) == already and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        assert case.holds()
        released = case.released()
        assert len(released) > already
        assert len(set(released)) == len(released)
        assert case.stated() <= max(released) + 1 + 3


def fates(case: Case, mode: str) -> list[bool]:
    """Whether the ledger held, killed before each SQL statement until the process lives through."""
    found = []
    while True:
        process = case.start(steps=7, planned=7, die_before=len(found) + 1, mode=mode)
        if process.wait() == 0:
            return found
        found.append(case.holds())
        for path in case.ledger.parent.iterdir():
            path.unlink()


def test_killed_before_any_sql_statement_it_never_understates(tmp_path: Path) -> None:
    """Making the file, opening the run, each reservation, and settling. Pitfall: privacy 10."""
    found = fates(Case(tmp_path), "honest")
    assert len(found) > 20
    assert all(found)


def test_killed_writers_leave_a_readable_ledger_within_its_budget(tmp_path: Path) -> None:
    """Opening it checks every hash; what they reserved stays spent. Pitfall: privacy 10."""
    case = Case(tmp_path)
    with Ledger(case.ledger) as book:
        cost = spent(SelfComposedEvent(STEP, 50), 1e-5, "rdp").epsilon
        book.set_budget(cost, 1e-5, "rdp")
    for statement in (25, 45):
        case.start(die_before=statement).wait()
        assert case.holds()
        assert case.stated() <= 50
    assert case.start().wait() == 0
    assert case.stated() == 50


def test_a_release_that_is_recorded_too_late_is_caught(tmp_path: Path) -> None:
    """The negative control of the two tests above."""
    assert not all(fates(Case(tmp_path), "late"))


@pytest.mark.parametrize("checkpoint", [1, 5])
def test_steps_that_are_replayed_from_a_checkpoint_cost_nothing(
    tmp_path: Path, checkpoint: int
) -> None:
    """Killed again and again, a run of 40 steps is stated as 40. Pitfall: privacy 10."""
    case, statement = Case(tmp_path), 25
    while True:
        saved = len(set(case.released())) // checkpoint * checkpoint
        process = case.start(
            first=saved, steps=40 - saved, planned=40, block=8, die_before=statement
        )
        if process.wait() == 0:
            break
        assert case.holds()
        statement += 3
    assert set(case.released()) == set(range(40))
    assert len(case.released()) > 40 or checkpoint == 1
    with Ledger(case.ledger, create=False) as book:
        assert book.event() == SelfComposedEvent(STEP, 40)


def test_processes_share_a_file(tmp_path: Path) -> None:
    arguments = ["continue", "60", "60", "1", "0", "honest"]
    ledger = tmp_path / "ledger.sqlite"
    started = [
        subprocess.Popen(
            [sys.executable, WRITER, ledger, tmp_path / f"side-{name}", name, *arguments]
        )
        for name in ("one", "two", "three")
    ]
    assert [each.wait() for each in started] == [0, 0, 0]
    with Ledger(ledger, create=False) as book:
        assert {record.run_id: record.steps for record in book.runs()} == {
            "one": 60,
            "two": 60,
            "three": 60,
        }
        assert book.event() == SelfComposedEvent(STEP, 180)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ledger.sqlite",
        "side-one",
        "side-three",
        "side-two",
    ]
