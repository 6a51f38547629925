"""What faults do to collaborative training: 20 runs for each, on the digits.

    python -m benchmarks.collaborate_faults --runs 20 --at-once 5

Every process is real. A fault comes at a random moment of the first two thirds of a run. Beside the
program's own records, each process notes what it saw in a file of its own; the ledgers are held
against these notes.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import nn

import deniable
from benchmarks import machine, results
from benchmarks.lossy import LossyNetwork
from benchmarks.processes import Training
from deniable.collaborate import Central, Coordinator, Mode, Place, mode_from_json
from deniable.data import load
from deniable.ledger import Ledger
from deniable.plan import Plan
from deniable.training import evaluate

WORKERS = 2
STOPPED_SECONDS = 30.0
LOSS = 0.05
PATIENCE, ABSENCE = 3.0, 60.0
LIMIT = 240.0
OUT = results.FOLDER / "collaborate_faults.json"


@dataclass(frozen=True)
class Fault:
    """What happens to a run.

    Attributes:
        name: in words.
        pace: seconds that a worker sleeps in each round, where a run must last.
        happen: does it, at a moment of the run.
    """

    name: str
    pace: float
    happen: Callable[[Training, random.Random], None]


def nothing(_training: Training, _rng: random.Random) -> None:
    return


def worker_killed(training: Training, rng: random.Random) -> None:
    """Killed without a word, and started again a little later."""
    rank = rng.randint(1, WORKERS)
    training.kill(rank)
    time.sleep(rng.uniform(0, 1))
    training.start(rank)


def worker_stopped(training: Training, rng: random.Random) -> None:
    """Stopped for half a minute in the middle of whatever it does."""
    rank = rng.randint(1, WORKERS)
    training.send(rank, signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    training.send(rank, signal.SIGCONT)


def coordinator_killed(training: Training, rng: random.Random) -> None:
    """Killed without a word, and started again a little later."""
    training.kill(0)
    time.sleep(rng.uniform(0, 1))
    training.start(0)


FAULTS = {
    "undisturbed": Fault("no fault", 0.0, nothing),
    "worker-killed": Fault("a worker killed and started again", 0.04, worker_killed),
    "worker-stopped": Fault(
        f"a worker stopped for {STOPPED_SECONDS:g} s", 0.4, worker_stopped
    ),
    "coordinator-killed": Fault("the coordinator killed and started again", 0.01,
                                coordinator_killed),
    "packets-dropped": Fault(
        f"a network that drops {LOSS:.0%} of all packets, both ways", 0.0, nothing
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        ended: whether every process ended by itself, the training complete.
        accuracy: on the test set.
        seconds: from starting the processes to the end of the last.
        steps: that the coordinator's ledger states.
        planned: of the plan.
        seen: different parameters that workers met, less the first: no release is unseen but the
            last.
        worker_steps: that each worker's ledger states, where it has one.
        worker_uploads: that each worker began to make, by its own notes.
        merged: by how many rounds which workers' uploads were merged.
        problem: what went wrong.
    """

    ended: bool
    accuracy: float | None
    seconds: float
    steps: int
    planned: int
    seen: int
    worker_steps: list[int]
    worker_uploads: list[int]
    merged: dict[str, int]
    problem: str | None = None

    @property
    def covered(self) -> bool:
        """Whether every ledger states at least what was released."""
        own = zip(self.worker_steps, self.worker_uploads, strict=False)
        return self.steps >= self.seen and all(stated >= made for stated, made in own)

    @property
    def once(self) -> bool:
        """Whether nothing is stated beyond the plan."""
        return all(each <= self.planned for each in (self.steps, *self.worker_steps))


def script(
    place: Place, folder: str, plan: dict[str, Any], mode: dict[str, Any], pace: float
) -> tuple[float, dict[str, int]] | None:
    """What every process runs: an ordinary loop, and its notes."""
    data = load("digits")
    train, test = (
        (torch.from_numpy(each.inputs), torch.from_numpy(each.targets))
        for each in (data.train, data.test)
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    private = deniable.collaborate(
        model,
        optimizer,
        Plan.from_json(plan),
        mode=mode_from_json(mode),
        folder=folder,
        place=place,
        patience=PATIENCE,
        absence=ABSENCE,
        save_seconds=1.0,
    )
    notes = os.open(
        Path(folder) / f"notes-{place.rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
    )
    for inputs, targets in private.batches(train):
        os.write(notes, f"met {digest(model)}\n".encode())
        time.sleep(pace)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        os.write(notes, b"uploads\n")
        optimizer.step()
        optimizer.zero_grad()
    if not isinstance(private, Coordinator):
        return None
    merged: dict[str, int] = {}
    for each in private.rounds_done:
        name = "+".join(map(str, each.workers))
        merged[name] = merged.get(name, 0) + 1
    private.detach()
    return evaluate(model, *test)[0], merged


def digest(model: nn.Module) -> str:
    """Tells the parameters of one step from those of every other."""
    whole = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
    return hashlib.sha256(whole.numpy().tobytes()).hexdigest()[:16]


def one_run(fault: str, number: int, plan: Plan, mode: Mode) -> Outcome:
    """One run with one fault."""
    kind, rng = FAULTS[fault], random.Random(f"{fault} {number}")
    with TemporaryDirectory(prefix="collaborate-") as name:
        folder, started, problem = Path(name), time.monotonic(), None
        arguments = (name, plan.to_json(), mode.to_json(), kind.pace)
        found: dict[int, Any] = {}
        network = None
        if fault == "packets-dropped":
            network = LossyNetwork(f"bad{os.getpid()}-{number}", LOSS, seed=number)
        training = Training(WORKERS, script, *arguments, network=network).start()
        try:
            wait_for_step(folder, rng.randint(1, plan.steps * 2 // 3))
            kind.happen(training, rng)
            found = training.ended(LIMIT)
        except AssertionError as error:
            problem = str(error)
        finally:
            training.end()
        accuracy, merged = found.get(0) or (None, {})
        seen, uploads = noted(folder)
        return Outcome(
            ended=problem is None and accuracy is not None,
            accuracy=accuracy,
            seconds=round(time.monotonic() - started, 2),
            steps=stated(folder / "ledger.sqlite"),
            planned=plan.steps,
            seen=seen,
            worker_steps=[
                stated(path)
                for worker in range(WORKERS)
                if (path := folder / f"worker-{worker}" / "ledger.sqlite").exists()
            ],
            worker_uploads=uploads,
            merged=merged,
            problem=problem,
        )


def wait_for_step(folder: Path, step: int) -> None:
    """Until workers have met the parameters of so many steps."""
    limit = time.monotonic() + LIMIT
    while noted(folder)[0] < step:
        assert time.monotonic() < limit, f"step {step} was not reached within {LIMIT} s"
        time.sleep(0.01)


def noted(folder: Path) -> tuple[int, list[int]]:
    """How many parameters workers met beside the first, and how many uploads each made."""
    met, uploads = set[str](), []
    for rank in range(1, WORKERS + 1):
        path = folder / f"notes-{rank}"
        lines = path.read_text().splitlines() if path.exists() else []
        met |= {line for line in lines if line.startswith("met")}
        uploads.append(sum(line == "uploads" for line in lines))
    return max(0, len(met) - 1), uploads


def stated(ledger: Path) -> int:
    """How many steps a ledger states."""
    if not ledger.exists():
        return 0
    with Ledger(ledger, create=False) as book:
        return sum(each.steps for each in book.runs())


def main(
    runs: Annotated[int, typer.Option(help="Of each fault.")] = 20,
    at_once: Annotated[int, typer.Option(help="Runs at the same time.")] = 4,
    faults: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(FAULTS),
    mode: Annotated[str, typer.Option(help="central, shares or local.")] = Central.name,
    steps: Annotated[int, typer.Option(help="Of a run.")] = 200,
    out: Annotated[Path, typer.Option(help="Results file.")] = OUT,
) -> None:
    """Run each fault many times, and write what became of each run."""
    console = Console(stderr=True)
    plan = Plan(1437, 256, steps=steps, epsilon=8.0, delta=1e-5)
    found = results.load(out) or machine.header("benchmarks.collaborate_faults", "cpu")
    for fault in faults.split(","):
        with ThreadPoolExecutor(at_once) as pool:
            outcomes = list(
                pool.map(
                    lambda number, fault=fault: one_run(
                        fault, number, plan, mode_from_json({"name": mode})
                    ),
                    range(runs),
                )
            )
        found[f"{mode} {fault}"] = {
            "name": FAULTS[fault].name,
            "runs": [*map(asdict, outcomes)],
            **machine.moment(),
        }
        accuracies = [each.accuracy for each in outcomes if each.accuracy is not None]
        console.print(
            f"{mode} {fault}: {sum(each.ended for each in outcomes)} of {runs} ended, "
            f"{sum(each.covered for each in outcomes)} covered, "
            f"{sum(each.once for each in outcomes)} within the plan, mean accuracy "
            f"{statistics.mean(accuracies) if accuracies else float('nan'):.2%}"
        )
        for each in outcomes:
            if each.problem:
                console.print(each.problem)
        results.save(out, found)


if __name__ == "__main__":
    typer.run(main)
