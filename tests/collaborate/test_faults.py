"""A training goes on whoever is killed, stopped or late, and its ledgers cover what left.

The 20 runs of each fault on real data are `python -m benchmarks.collaborate_faults`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import Training
from collaborate.scripts import EXAMPLES, faulty
from deniable.collaborate import Central, Local, Mode, Shares
from deniable.ledger import Ledger
from deniable.plan import Plan, Schedule

STEPS = 16
PLAN = Plan(EXAMPLES, 12, steps=STEPS, noise_multiplier=1.0, delta=1e-3)
LONG = Plan(EXAMPLES, 12, steps=300, noise_multiplier=1.0, delta=1e-3)


def training(
    folder: Path, mode: Mode, fault: str = "", rank: int = 1, at: int = 5, **given: Any
) -> Training:
    return Training(2, faulty, PLAN.to_json(), mode.to_json(), str(folder), given, fault, rank, at)


def stated(folder: Path) -> int:
    with Ledger(folder / "ledger.sqlite", create=False) as book:
        return sum(each.steps for each in book.runs())


def rows_uploaded(folder: Path, rank: int) -> list[int]:
    return [int(line) for line in (folder / f"uploads-{rank}").read_text().splitlines()]


def uploads(folder: Path, rank: int) -> int:
    return len(rows_uploaded(folder, rank))


def wait_until_dead(running: Training, rank: int) -> None:
    running.processes[rank].join(60)
    assert running.processes[rank].exitcode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["downloaded", "computed", "stepped", "mid-upload"])
@pytest.mark.parametrize("mode", [Central(), Local()], ids=["central", "local"])
def test_a_worker_killed_in_any_phase_leaves_its_rounds_and_may_come_back(
    tmp_path: Path, mode: Mode, moment: str
) -> None:
    running = training(tmp_path, mode, moment, patience=1.0).start()
    wait_until_dead(running, 1)
    running.start(1)
    found = running.ended(60)[0]
    assert found["steps"] == STEPS == stated(tmp_path)
    assert (1,) in found["merged"] and found["merged"][-1] == (0, 1)
    if isinstance(mode, Local):
        for rank in (1, 2):
            own = stated(tmp_path / f"worker-{rank - 1}")
            # What a crash overstates is what was recorded ahead.
            assert uploads(tmp_path, rank) - 1 <= own <= min(STEPS, uploads(tmp_path, rank) + 4)


@pytest.mark.parametrize("moment", ["recorded", "merged"])
@pytest.mark.parametrize("mode", [Central(), Shares()], ids=["central", "shares"])
def test_a_coordinator_killed_and_restarted_goes_on_from_its_checkpoint(
    tmp_path: Path, mode: Mode, moment: str
) -> None:
    """With fresh noise: the step that it died in is spent. Pitfall: privacy 10."""
    running = training(tmp_path, mode, moment, rank=0).start()
    wait_until_dead(running, 0)
    before = stated(tmp_path)
    assert before >= 6 if moment == "recorded" else before >= 5
    running.start(0)
    found = running.ended(60)[0]
    assert found["steps"] == STEPS == stated(tmp_path)
    assert len(found["merged"]) == STEPS - before


def is_stopped(running: Training, rank: int) -> bool:
    """Whether a process has been stopped by a signal."""
    command = ["ps", "-o", "state=", "-p", str(running.processes[rank].pid)]
    return subprocess.run(command, capture_output=True, text=True).stdout.startswith("T")


def test_a_stopped_worker_is_left_out_and_taken_back(tmp_path: Path) -> None:
    running = training(tmp_path, Local(), "stopped when computed", at=2, patience=0.5)
    running.arguments = (LONG.to_json(), *running.arguments[1:])
    running.start()
    while not is_stopped(running, 1):
        time.sleep(0.02)
    time.sleep(0.8)  # longer than it is waited for
    running.send(1, signal.SIGCONT)
    found = running.ended(60)[0]
    assert (1,) in found["merged"] and found["merged"][-1] == (0, 1)
    assert stated(tmp_path / "worker-0") >= uploads(tmp_path, 1)


def test_a_worker_that_missed_rounds_goes_on_where_the_schedule_is(tmp_path: Path) -> None:
    """It had drawn ahead at the rate of the first steps; everybody is drawn in the later ones."""
    rising = Schedule(((20, 0.1), (40, 1.0)))
    plan = Plan(
        EXAMPLES, EXAMPLES, steps=60, noise_multiplier=1.0, delta=1e-3, batch_schedule=rising
    )
    running = training(
        tmp_path, Central(), "stopped when computed", at=2, patience=0.5, sizes=[30, 30]
    )
    running.arguments = (plan.to_json(), *running.arguments[1:])
    running.start()
    while not is_stopped(running, 1) or stated(tmp_path) <= 21:
        time.sleep(0.02)
    running.send(1, signal.SIGCONT)
    assert running.ended(60)[0]["steps"] == 60
    late = rows_uploaded(tmp_path, 1)
    assert max(late[:3]) < 30 and set(late[3:]) == {30}
    steady = rows_uploaded(tmp_path, 2)
    assert max(steady[:20]) < 30 and steady[20:] == [30] * 40


def test_a_training_ends_though_a_worker_stays_stopped(tmp_path: Path) -> None:
    running = training(tmp_path, Central(), "stopped when computed", at=2, patience=0.5).start()
    found = running.ended(60, but=(1,))[0]
    assert found["steps"] == STEPS
    running.send(1, signal.SIGCONT)
    running.ended(60)


def test_a_worker_that_comes_late_is_taken_in(tmp_path: Path) -> None:
    running = training(tmp_path, Central(), sizes=[30, 30], patience=0.5)
    running.arguments = (LONG.to_json(), *running.arguments[1:])
    running.start(0, 1)
    while stated_or_none(tmp_path) < 3:
        time.sleep(0.02)
    running.start(2)
    found = running.ended(60)[0]
    assert found["merged"][0] == (0,) and (0, 1) in found["merged"]


def test_without_any_worker_it_stops_with_a_message_in_time(tmp_path: Path) -> None:
    running = training(tmp_path, Central(), patience=0.2, absence=1.0).start(0)
    with pytest.raises(AssertionError, match="No worker was there for"):
        running.ended(30)


def test_without_a_coordinator_a_worker_stops_with_a_message_in_time(tmp_path: Path) -> None:
    running = training(tmp_path, Central(), "merged", rank=0, absence=1.0).start()
    with pytest.raises(AssertionError, match="reached no coordinator for"):
        wait_until_dead(running, 0)
        running.ended(60)


def test_a_worker_of_another_plan_is_refused_in_words(tmp_path: Path) -> None:
    running = training(tmp_path, Central(), patience=0.5, absence=4.0).start(0)
    other = Plan(EXAMPLES, 12, steps=STEPS, noise_multiplier=2.0, delta=1e-3)
    running.arguments = (other.to_json(), *running.arguments[1:])
    running.start(1)
    with pytest.raises(AssertionError, match="another plan than the coordinator"):
        running.processes[1].join(30)
        running.processes.pop(0).kill()
        running.ended(30)


def stated_or_none(folder: Path) -> int:
    return stated(folder) if (folder / "ledger.sqlite").exists() else 0
