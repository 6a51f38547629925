"""A point of an experiment, trained by the library's own loop."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deniable import bounds, checkpoint
from deniable.accounting import Meter, noise_multiplier_for, nominal_spent, spent
from deniable.data import Arrays, load
from deniable.events import ComposedEvent, Event
from deniable.ledger import Ledger
from deniable.models import optimizer_for
from deniable.noise import per_unit
from deniable.papers.features import fixed, principal_components
from deniable.papers.networks import network
from deniable.papers.points import Named, Training, Watch
from deniable.papers.pretraining import clip_from_pretraining
from deniable.plan import Plan
from deniable.rows import as_tensors
from deniable.runfolder import RunFolder
from deniable.session import attach
from deniable.settings import Settings
from deniable.training import Moment, Run, evaluate, fit
from deniable.units import Spent, finite
from deniable.words import percent, rounded_up

CHECKPOINT_SECONDS = 60.0
SECONDS_BETWEEN_WORDS = 0.5


def train(
    point: Training, folder: Path, watch: Watch, data_dir: Path | None = None
) -> dict[str, Any] | None:
    """The trained point as JSON values; None when it was asked to stop before its end.

    Releases go to a ledger in the folder: features that cost privacy first, then every step; the
    epsilon of the result is that of the whole ledger.

    Args:
        point: what to train.
        folder: where the run is kept until it is complete.
        watch: told after each step.
        data_dir: the folder that holds the data sets' files.
    """
    return train_on(
        lambda ledger, fresh: _data(point, ledger, data_dir, fresh=fresh), point, folder, watch
    )


def train_on(
    read: Callable[[Ledger, bool], Data], point: Training, folder: Path, watch: Watch
) -> dict[str, Any] | None:
    """The same on other data.

    Args:
        read: gives the data; told the ledger, for what it releases, and whether the run begins.
        point: what to train.
        folder: where the run is kept until it is complete, and then its model.
        watch: told after each step.
    """
    run_folder = RunFolder(folder)
    saved = _saved(run_folder, point)
    if saved is None:
        run_folder.create(overwrite=True)
    with Ledger(run_folder.ledger, data=point.data) as ledger:
        if saved is None and point.epsilon is not None:
            ledger.set_budget(point.epsilon, point.delta)
        data = read(ledger, saved is None)
        run = _run(point, run_folder, ledger, data, saved)
        complete = fit(run, _Steps(point, run, data.released, watch))
        if not complete:
            return None
        event = ledger.event()
        nominal = nominal_spent(event, point.delta, run.record["bound"])
        return _result(point, run, data, spent(event, point.delta), nominal)


@dataclass(frozen=True)
class Data:
    """What a point is trained and measured on.

    Attributes:
        train: inputs and targets that are protected.
        test: inputs and targets that the history is measured on.
        also: others that are measured at the end, by name.
        released: what was released of the training rows before the training.
        public: inputs and targets that need no protection, where a threshold comes from them.
        classes: how many values a target can take; None: as many as there are.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    also: dict[str, tuple[Tensor, Tensor]]
    released: Event
    public: tuple[Tensor, Tensor] | None = None
    classes: int | None = None


def _data(point: Training, ledger: Ledger, data_dir: Path | None, *, fresh: bool) -> Data:
    """The data set, cut and turned into features."""
    data = load(point.data, data_dir)
    features = point.features or Named("none")
    whole = Arrays(fixed(features, data.train.inputs), data.train.targets)
    tested = Arrays(fixed(features, data.test.inputs), data.test.targets)
    rows = len(whole.inputs) - point.held_out
    groups = {
        "train": _cut(whole, 0, min(rows, point.train_rows or rows)),
        "test": _cut(whole, rows, None) if point.held_out else tested,
    }
    if point.bound.name == "FromPretraining":
        groups["public"] = load(point.bound.arguments["data"], data_dir).train
    if point.data == "cifar10":
        groups |= {"first 1,000 test images": _cut(tested, 0, 1000), "all test images": tested}
    released: Event = ComposedEvent(())
    if features.name == "pca":
        # A resumed point makes the same release again, which its ledger counts already.
        pca = principal_components(
            **features.arguments, ledger=ledger if fresh else None, seed=point.seed
        ).fit(groups["train"].inputs)
        released = pca.event_
        groups = {
            name: Arrays(pca.transform(each.inputs), each.targets) for name, each in groups.items()
        }
    tensors = {name: as_tensors(each) for name, each in groups.items()}
    train, test, public = (tensors.pop(name, None) for name in ("train", "test", "public"))
    assert train is not None and test is not None
    return Data(train, test, tensors, released, public)


def _cut(arrays: Arrays, start: int, stop: int | None) -> Arrays:
    return Arrays(arrays.inputs[start:stop], arrays.targets[start:stop])


def _run(
    point: Training, folder: RunFolder, ledger: Ledger, data: Data, saved: dict[str, Any] | None
) -> Run:
    shape = data.train[0].shape[1:]
    classes = data.classes or int(data.train[1].max()) + 1
    model = network(point.model.name, shape, classes, point.seed, **point.model.arguments)
    optimizer = optimizer_for(model, point.optimizer, rate_at(point, 0.0), point.momentum)
    bound = _bound(point, model, data.public)
    noise = point.noise_multiplier
    if point.noise_per == "example":
        assert noise is not None
        noise = per_unit(noise, point.batch_size, point.sampling)
    if point.noise_deviation is not None:
        noise = point.noise_deviation / bound.sensitivity(dict(model.named_parameters())).value
    plan = _plan(point, len(data.train[0]), data.released, noise)
    record = folder.read() if saved else _record(point)
    private = attach(
        model,
        optimizer,
        plan,
        bound,
        ledger=ledger,
        run_id=record["run_id"],
        budget=math.inf,
        seed=point.seed,
    )
    settings = Settings(
        point.data,
        point.model.name,
        point.optimizer,
        rate_at(point, 0.0),
        point.batch_size,
        rows=point.rows,
        checkpoint_seconds=CHECKPOINT_SECONDS,
    )
    randomness = [torch.Generator().manual_seed(point.seed).get_state()]
    run = Run(
        folder, settings, record, model, optimizer, private, data.train, data.test, randomness
    )
    record["bound"] = private.bound_settings
    folder.write(record)
    if saved is not None:
        run.restore(saved)
    return run


def _plan(point: Training, examples: int, released: Event, noise: float | None) -> Plan:
    """The plan whose steps, beside what was released before, stay within the point's epsilon."""
    size, delta, sampling = min(point.batch_size, examples), point.delta, point.sampling
    steps = round(point.epochs * (examples // size))

    def plan_of(noise: float, steps: int) -> Plan:
        return Plan(
            examples, size, delta=delta, noise_multiplier=noise, steps=steps, sampling=sampling
        )

    if noise is None:
        assert point.epsilon is not None, "a point states its noise or its epsilon"
        like = plan_of(1.0, steps)
        noise = noise_multiplier_for(
            lambda each: ComposedEvent((released, like.event_with(each, steps))),
            point.epsilon,
            delta,
        )
    plan = plan_of(noise, steps)
    if point.epsilon is None or noise == 0:
        return plan
    room = plan.steps_within(point.epsilon, 0, released)
    return plan_of(noise, room)


def _bound(point: Training, model: nn.Module, public: tuple[Tensor, Tensor] | None) -> bounds.Bound:
    """The bound of a point; a threshold may come from training on public data."""
    if public is None:
        return named_bound(point.bound)
    return clip_from_pretraining(model, public, point.batch_size, rate_at(point, 0.0), point.seed)


def named_bound(named: Named) -> bounds.Bound:
    """The bound of that name; the bounds of a chain are given as pairs of name and arguments."""
    if named.name == "Chain":
        return bounds.Chain(
            *(named_bound(Named(name, **each)) for name, each in named.arguments["bounds"])
        )
    made: bounds.Bound = getattr(bounds, named.name)(**named.arguments)
    return made


def rate_at(point: Training, epoch: float) -> float:
    """The learning rate: straight between the pairs of epoch and rate, constant outside."""
    if not isinstance(point.lr, tuple):
        return point.lr
    epochs, rates = zip(*point.lr, strict=True)
    return float(np.interp(epoch, epochs, rates))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate from now on, of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class _Steps:
    """Sets the learning rate of the next step, and tells how far the training is."""

    def __init__(self, point: Training, run: Run, released: Event, watch: Watch) -> None:
        self._point, self._run, self._released, self._watch = point, run, released, watch
        plan = run.private.plan
        self._meter = Meter(ComposedEvent((released, plan.event)), plan.delta)
        self._told = -math.inf
        self._set()

    def __call__(self, moment: Moment) -> None:
        self._set()
        if time.monotonic() - self._told < SECONDS_BETWEEN_WORDS:
            return
        plan = self._run.private.plan
        epsilon = self._meter.epsilon(ComposedEvent((self._released, plan.part(0, moment.step))))
        said = "infinite: NOT PRIVATE" if math.isinf(epsilon) else rounded_up(epsilon)
        accuracy = percent(moment.accuracy)
        self._watch(moment.step / plan.steps, f"accuracy {accuracy}, epsilon {said}")
        self._told = time.monotonic()

    def _set(self) -> None:
        private = self._run.private
        rate = rate_at(self._point, private.steps / private.plan.steps_per_epoch)
        set_rate(self._run.optimizer, rate)


def _record(point: Training) -> dict[str, Any]:
    return {
        "run_id": uuid.uuid4().hex,
        "point": point.to_json(),
        "status": "running",
        "history": [],
        "results": None,
    }


def _saved(folder: RunFolder, point: Training) -> dict[str, Any] | None:
    """The checkpoint of the same point, where one was left."""
    if not (folder.run_json.exists() and checkpoint.exists(folder.checkpoint)):
        return None
    if folder.read().get("point") != json.loads(json.dumps(point.to_json())):
        return None
    return checkpoint.load(folder.checkpoint)


def _result(
    point: Training, run: Run, data: Data, claim: Spent, nominal: Spent | None
) -> dict[str, Any]:
    """What is kept of a complete run: nothing that noise does not cover, but on public data."""
    plan = run.private.plan

    def epsilon_at(step: int) -> float | None:
        event = ComposedEvent((data.released, plan.part(0, step)))
        return finite(spent(event, point.delta).epsilon)

    history = [
        {
            "step": row["step"],
            "epoch": row["epoch"],
            "epsilon": epsilon_at(row["step"]),
            "accuracy": row["test_accuracy"],
            "loss": row["test_loss"],
        }
        for row in run.record["history"]
    ]
    return {
        "accuracy": history[-1]["accuracy"],
        "best": max(row["accuracy"] for row in history),
        "epsilon": finite(claim.epsilon),
        **({} if nominal is None else {"nominal_epsilon": finite(nominal.epsilon)}),
        "delta": claim.delta,
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "steps": plan.steps,
        "epochs": plan.epochs,
        "parameters": _size(run.model),
        "seconds": round(run.seconds, 1),
        **({"clip_norm": run.record["bound"]["norm"]} if data.public else {}),
        **({"also": also} if (also := _also(run.model, data)) else {}),
        "history": history,
    }


def _also(model: nn.Module, data: Data) -> dict[str, float]:
    return {name: evaluate(model, *rows)[0] for name, rows in data.also.items()}


def _size(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())
