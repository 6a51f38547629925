"""A run folder as `deniable train` leaves it, and its pieces."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from deniable.events import GaussianEvent, PoissonSampledEvent
from deniable.ledger import Ledger
from deniable.report.statement import Releases, Statement

RUN = json.loads((Path(__file__).parent / "run.json").read_text(encoding="utf-8"))


@pytest.fixture
def run() -> dict[str, Any]:
    """What run.json of a complete MNIST run at epsilon 3 holds."""
    return copy.deepcopy(RUN)


@pytest.fixture
def statement() -> Statement:
    """What the ledger of that run states."""
    plan = RUN["plan"]
    releases = Releases(plan["steps"], PoissonSampledEvent, 256 / 60_000, plan["noise_multiplier"])
    return Statement({"rdp": 3.5959520445181066, "pld": plan["epsilon"]}, (releases,), 1)


@pytest.fixture
def folder(tmp_path: Path, run: dict[str, Any]) -> Path:
    """The folder of that run, with its ledger."""
    folder = tmp_path / "mnist-eps3"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    event = PoissonSampledEvent(256 / 60_000, GaussianEvent(run["plan"]["noise_multiplier"]))
    with Ledger(folder / "ledger.sqlite") as ledger:
        entry = ledger.run("mnist", planned=run["plan"]["steps"], block=4096)
        for _ in range(run["plan"]["steps"]):
            entry.release(event)
        entry.settle()
    return folder
