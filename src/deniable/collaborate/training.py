"""`deniable train` with many workers: the coordinator's loop and a worker's, on a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import Store

from deniable.collaborate.coordinator import Coordinator
from deniable.collaborate.sessions import Merges
from deniable.collaborate.start import ABSENCE_SECONDS, Place, check, collaborate
from deniable.collaborate.worker import Worker
from deniable.errors import BudgetError, CollaborationError
from deniable.grouping import Example
from deniable.plan import Plan
from deniable.randomness import derived_seed
from deniable.rows import as_tensors
from deniable.runfolder import RunFolder, write_json
from deniable.settings import PATIENCE_SECONDS, Settings
from deniable.training import Moment, Run
from deniable.training.interrupt import stop_when_asked
from deniable.training.loop import LiveEpsilon, Watch, add_row, loss_of_each, restate, row_every
from deniable.training.start import (
    bound_for,
    device_for,
    load_data,
    model_and_optimizer,
    seeded_randomness,
)

SPEED_ROWS = 256
SPEED_SECONDS = 0.5
ALIKE = 0.15  # speeds that differ by less are taken for the same: measuring is no more exact


def merging(settings: Settings) -> Any:
    """What `begin` and `resume` make the coordinator's session with.

    Raises:
        DeniableError: the settings do not fit many workers.
    """

    def make(
        model: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, **given: Any
    ) -> Merges:
        bound, mode = given.pop("bound"), settings.worker_mode()
        check(plan, bound, mode, Example(), settings.workers or 0, None)
        session = Merges(
            model, optimizer, plan, bound, Example(), loss_reduction="mean", budget=plan.epsilon,
            about={"collaboration": {"workers": settings.workers, "mode": mode.to_json()}},
            **given,
        )  # fmt: skip
        session.go_on()
        return session

    return make


def coordinate(run: Run, place: Place, watch: Watch = lambda _: None) -> bool:
    """Coordinate until the plan's last step, or until Ctrl-C; whether the run is complete.

    Args:
        run: from `begin` or `resume`, with `merging`.
        place: where the workers meet this process.
        watch: called after each step.

    Raises:
        BudgetError: other runs have spent what this one was to spend.
        CollaborationError: no worker was there for long; the run is saved as of its last step.
    """
    settings, session = run.settings, run.private
    assert isinstance(session, Merges)
    about = run.record.setdefault(
        "collaboration",
        {
            "workers": settings.workers,
            "mode": settings.worker_mode().to_json(),
            "guarantee": settings.worker_mode().guarantee,
            "sizes": None,
        },
    )

    def save() -> None:
        about["sizes"] = coordinator.sizes
        run.save()

    coordinator = Coordinator(
        run.model,
        run.optimizer,
        session,
        settings.worker_mode(),
        place.workers,
        place.store,
        sizes=about["sizes"],
        save=save,
        save_seconds=settings.checkpoint_seconds,
        patience=settings.patience or PATIENCE_SECONDS,
        absence=ABSENCE_SECONDS,
    )
    announce(run, place.store)
    session.recognise(run.train)
    try:
        with stop_when_asked() as stop:
            _rounds(run, coordinator, watch, lambda: stop.asked)
    except (BudgetError, CollaborationError):
        run.interrupt()
        raise
    about["claims"] = coordinator.claims_of_workers()
    if session.steps < session.plan.steps:
        run.interrupt()
        return False
    for number, claim in coordinator.claims.items():
        if claim is not None:
            folder = run.folder.worker(number)
            folder.mkdir(exist_ok=True)
            write_json(RunFolder(folder).claim, claim)
    if session.plan.epsilon == run.private.spent().epsilon:
        restate(run)
    run.finish()
    return True


def _rounds(run: Run, coordinator: Coordinator, watch: Watch, asked_to_stop: Any) -> None:
    plan, live = run.private.plan, LiveEpsilon(run.private)
    started, every = time.monotonic() - run.seconds, row_every(plan.steps, plan.steps_per_epoch)
    traffic = run.record["collaboration"].setdefault("bytes", {"up": 0, "down": 0})
    next_row = (run.private.steps // every + 1) * every
    for done in coordinator.rounds():
        run.seconds = time.monotonic() - started
        traffic["up"] += done.bytes_up
        traffic["down"] += done.bytes_down
        is_row = done.step >= min(next_row, plan.steps)
        if is_row:
            add_row(run, live.recent())
            next_row = (done.step // every + 1) * every
        history = run.record["history"]
        accuracy = history[-1]["test_accuracy"] if history else None
        watch(Moment(done.step, None, accuracy, live.recent(), is_row))
        if asked_to_stop():
            return


def announce(run: Run, store: Store) -> None:
    """Tells workers what they train."""
    told = {"settings": run.settings.to_json(), "plan": run.private.plan.to_json(),
            "run_id": run.record["run_id"]}  # fmt: skip
    store.set("training", json.dumps(told))


def work(place: Place, folder: Path | None, data_dir: str | None = None) -> None:
    """Work for the coordinator that is met at a place, until it says that the training is over.

    Args:
        place: where, and which worker this is.
        folder: for this worker's own ledger; None where nothing is released by it.
        data_dir: where the data are on this machine, if not where the coordinator has them.

    Raises:
        CollaborationError: there is no coordinator, or it refused.
        DataError: the data are not here.
    """
    told = _told(place.store)
    values = dict(told["settings"])
    if data_dir is not None:
        values["data_dir"] = data_dir
    settings = Settings.from_json(values)
    number = place.rank - 1
    data, device = load_data(settings), device_for(settings)
    model, optimizer = model_and_optimizer(settings, data, device)
    worker = collaborate(
        model,
        optimizer,
        Plan.from_json(told["plan"]),
        bound_for(settings),
        mode=settings.worker_mode(),
        speed=measured_speed(model, data.train.inputs.shape[1:], device),
        folder=folder,
        run_id=told["run_id"],
        seed=settings.seed,
        secure=settings.secure,
        patience=settings.patience or PATIENCE_SECONDS,
        absence=ABSENCE_SECONDS,
        place=place,
    )
    assert isinstance(worker, Worker)
    train = as_tensors(data.train, device)
    torch.set_rng_state(seeded_randomness(derived_seed(settings.seed, "worker", number), device)[0])
    model.train()
    for inputs, targets in worker.batches(train, rows=settings.rows):
        worker.backward(loss_of_each(model(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    worker.detach()


def measured_speed(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> float:
    """Rows a second of the best of a few forwards and backwards, on noise: no data are looked at.

    Rounded to steps of 15%, so that machines alike get parts alike.
    """
    model.train()
    best, limit = float("inf"), time.monotonic() + SPEED_SECONDS
    parameter = next(each for each in model.parameters() if each.is_floating_point())
    whole = any(isinstance(each, nn.Embedding) for each in model.modules())
    kind = torch.long if whole else parameter.dtype
    rows = torch.zeros(SPEED_ROWS, *shape, device=device, dtype=kind)
    while time.monotonic() < limit or best == float("inf"):
        started = time.perf_counter()
        torch.autograd.grad(model(rows).sum(), parameter, allow_unused=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return rounded_speed(SPEED_ROWS / best)


def rounded_speed(speed: float) -> float:
    """The nearest power of 1 + `ALIKE`.

    >>> rounded_speed(1000.0) == rounded_speed(950.0)
    True
    """
    base = torch.tensor(1 + ALIKE).log()
    return float((torch.tensor(speed).log() / base).round().mul(base).exp())


def _told(store: Store) -> Mapping[str, Any]:
    try:
        store.wait(["training"], timedelta(seconds=ABSENCE_SECONDS))
        told: Mapping[str, Any] = json.loads(store.get("training"))
    except (RuntimeError, ValueError) as problem:
        raise CollaborationError(
            f"No coordinator told this worker what to train within {ABSENCE_SECONDS:g} s "
            f"({problem}). See what the coordinator says, and start the training again."
        ) from problem
    return told
