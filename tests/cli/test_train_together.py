"""`deniable train --workers`, and the same command under torchrun: whole programs, from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deniable.claim import read_claim, verify
from deniable.cli import main
from deniable.ledger import Ledger
from deniable.runfolder import RunFolder

DENIABLE = [sys.executable, "-m", "deniable", "train"]
SECONDS = 150


def started(*arguments: str | Path, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [*before, *DENIABLE, "--data", "digits", "--batch-size", "256", "--noise-multiplier",
               "4", *map(str, arguments)]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def children(of: int) -> Iterator[tuple[int, int]]:
    """Rank and process id of everybody whom a process started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            told = dict(
                each.partition("=")[::2] for each in (path / "environ").read_text().split("\0")
            )
        except (OSError, ValueError):
            continue
        if int(parent) == of and "RANK" in told:
            yield int(told["RANK"]), int(path.name)


def stated(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    with Ledger(ledger, create=False) as book:
        return sum(each.steps for each in book.runs())


@pytest.mark.slow
def test_it_goes_on_though_the_coordinator_and_a_worker_are_killed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = started("--workers", "2", "--mode", "local", "--epochs", "40", "--out", out)
    for rank, step in ((1, 10), (0, 60)):
        limit = time.monotonic() + SECONDS
        while stated(RunFolder(out).ledger) < step and time.monotonic() < limit:
            time.sleep(0.05)
        os.kill(dict(children(running.pid))[rank], signal.SIGKILL)
    assert running.wait(SECONDS) == 0
    record: dict[str, Any] = RunFolder(out).read()
    assert record["status"] == "complete"
    assert record["results"]["steps"] == record["plan"]["steps"]
    for folder in (RunFolder(out), RunFolder(RunFolder(out).worker(0))):
        with Ledger(folder.ledger, create=False) as ledger:
            assert verify(read_claim(folder.claim), ledger) == ()
    assert stated(RunFolder(RunFolder(out).worker(1)).ledger) <= record["plan"]["steps"]


@pytest.mark.slow
def test_torchrun_starts_the_same_command_everywhere(tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                "3", "--no-python")  # fmt: skip
    running = started("--epochs", "4", "--out", out, before=torchrun)
    assert running.wait(SECONDS) == 0
    record = json.loads(RunFolder(out).run_json.read_text())
    assert record["status"] == "complete"
    assert record["collaboration"]["workers"] == 2
    assert sum(record["collaboration"]["sizes"]) == record["plan"]["examples"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mode", "local"], "give --workers"),
        (["--workers", "2", "--upload", "0.1"], "upload is for the mode local"),
        (["--workers", "2", "--mode", "other"], "No mode is called"),
        (["--workers", "2", "--mode", "shares", "--survives", "2"], "below the number of workers"),
        (["--workers", "2", "--sampling", "shuffled"], "union of Poisson samples"),
    ],
)
def test_settings_that_do_not_fit_many_workers_are_refused_in_words(
    arguments: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--noise-multiplier", "20", "--epochs", "6", "--out",
              str(tmp_path / "run"), *arguments])  # fmt: skip
    assert stop.value.code == 2
    assert says in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
