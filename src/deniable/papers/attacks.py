"""Models of the threat model, trained and attacked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deniable.accounting import privacy_curve
from deniable.audit.disagreement import Disagreement, disagreement, opinion
from deniable.audit.inversion import Inversion, class_means, correlation, ranks, smoothed, stretched
from deniable.audit.membership import Candidates, membership_inference
from deniable.audit.observing import confidences
from deniable.audit.pictures import Curves
from deniable.audit.roc import RATES, Estimate, Roc
from deniable.audit.shadows import train_shadows
from deniable.data import class_names, load
from deniable.models import optimizer_for
from deniable.papers.encoded import encode
from deniable.papers.networks import network
from deniable.papers.points import Attacked, Training, Watch
from deniable.papers.pretraining import ordinary_epoch
from deniable.papers.training import named_bound
from deniable.plan import Plan
from deniable.rows import as_tensors
from deniable.session import attach
from deniable.units import finite

INVERSION = Inversion(process=smoothed)
TYPICAL = 6  # ordinary examples that stand below the rare ones

Rows = tuple[Tensor, Tensor]


def attack(point: Attacked, watch: Watch, data_dir: Path | None = None) -> dict[str, Any]:
    """What the attack found, as JSON values.

    Args:
        point: the model and the attack.
        watch: told after each model.
        data_dir: the folder that holds the data sets' files.
    """
    started = time.monotonic()
    found = _ATTACKS[point.attack.name](point, watch, data_dir)
    return found | {"seconds": round(time.monotonic() - started, 1)}


# -- membership -----------------------------------------------------------------------------------


def _membership(point: Attacked, watch: Watch, data_dir: Path | None) -> dict[str, Any]:
    """Fair coins decide for each of the candidates whether the model is trained on it.

    The size of the training set is then a secret of the coins, and no public number. So the plan
    counts a number that it does not exceed, and rows of weight zero fill the place.
    """
    training, shadows = point.training, point.attack.arguments["shadows"]
    data = load(training.data, data_dir)
    generator = np.random.default_rng(training.seed)
    chosen = generator.permutation(len(data.train.inputs))[: training.train_rows]
    inputs, targets = (each[chosen] for each in as_tensors(data.train))
    members = generator.random(len(chosen)) < 0.5
    size = math.ceil(len(chosen) / 2 + 3 * math.sqrt(len(chosen)))
    numbers = count(training.seed)

    def train(inputs: Tensor, targets: Tensor) -> nn.Module:
        return trained(
            training, (inputs, targets), classes=data.classes, size=size, seed=next(numbers)
        )[0]

    candidates = Candidates(inputs, targets, members)
    drawn = torch.from_numpy(members)
    model, plan = trained(
        training, (inputs[drawn], targets[drawn]), classes=data.classes, size=size,
        seed=next(numbers),
    )  # fmt: skip
    others = train_shadows(
        train, inputs, targets, shadows, seed=training.seed,
        watch=lambda done: watch((done + 1) / (shadows + 1), f"{done} of {shadows} shadow models"),
    )  # fmt: skip
    public = as_tensors(data.test)
    found = membership_inference(model, candidates, shadows=others, public=public)
    guarantee = privacy_curve(plan.event) if plan is not None else None
    curves = Curves.of("", found, guarantee)
    right = confidences(model, inputs, targets) > 0
    return {
        "members": int(members.sum()),
        "non_members": int((~members).sum()),
        "accuracy_on_members": float(right[members].mean()),
        "accuracy": float(right[~members].mean()),
        **_cost(plan),
        "attacks": {name: _measured(roc) for name, roc in found.items()},
        "allowed": None
        if guarantee is None
        else {str(rate): guarantee.attacker_true_positive_rate(rate) for rate in RATES},
        "curves": {name: _rounded(points) for name, points in curves.attacks.items()},
        "allowed_curve": None if curves.allowed is None else _rounded(curves.allowed),
    }


def _measured(roc: Roc) -> dict[str, Any]:
    return {
        "auc": _estimate(roc.auc),
        "at": {
            str(rate): {
                "false": _estimate(roc.at(rate).false_positive_rate),
                "true": _estimate(roc.at(rate).true_positive_rate),
            }
            for rate in RATES
        },
    }


def _estimate(found: Estimate) -> list[float]:
    return [round(each, 6) for each in found.to_json()]


def _rounded(points: Any) -> list[list[float]]:
    return [[round(x, 7), round(y, 6)] for x, y in points]


# -- inversion ------------------------------------------------------------------------------------


def _inversion(point: Attacked, watch: Watch, data_dir: Path | None) -> dict[str, Any]:
    """Classes that thousands of examples make up, and as many that are one picture each."""
    training, settings = point.training, point.attack.arguments
    data = load(training.data, data_dir)
    generator = np.random.default_rng(training.seed)
    order = generator.permutation(len(data.train.inputs))
    size = training.train_rows or len(order)
    inputs, targets = (each[order[:size]] for each in as_tensors(data.train))
    single, alike, kinds = _singles(settings["singles"], settings["alike"], data_dir, generator)
    of_singles = torch.arange(len(single)) + data.classes
    watch(0.05, "the model under attack")
    model, plan = trained(
        training,
        (torch.cat([inputs, single]), torch.cat([targets, of_singles])),
        classes=data.classes + len(single),
        seed=training.seed,
    )
    watch(0.9, "gradient descent on inputs")
    classes = range(data.classes + len(single))
    recovered = INVERSION(model, inputs.shape[1:], classes)
    digits, pictures = recovered[: data.classes], recovered[data.classes :]
    unseen = as_tensors(data.test)
    means = class_means(*unseen, range(data.classes))
    own = correlation(digits, means)
    closest = np.stack([correlation(means, each[None]) for each in digits]).argmax(1)
    return {
        "accuracy": float((confidences(model, *unseen) > 0).mean()),
        "accuracy_on_singles": float((confidences(model, single, of_singles) > 0).mean()),
        **_cost(plan),
        "correlation": own.round(4).tolist(),
        "recognised": int((closest == np.arange(data.classes)).sum()),
        "correlation_of_singles": correlation(pictures, single).round(4).tolist(),
        "ranks": ranks(pictures, single, alike),
        "among": int(alike.shape[1]) + 1,
        "names": [*class_names(training.data), *kinds],
        "shape": list(inputs.shape[1:]),
        "means": encode(means.numpy()),
        "singles": encode(single.numpy()),
        "recovered": encode(stretched(recovered).numpy()),
    }


def _singles(
    name: str, alike: int, data_dir: Path | None, generator: np.random.Generator
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """One picture of each kind, others of its kind, and what the kinds are called.

    Where no other data set is named, negatives of the digits are the pictures.
    """
    data = load("digits" if name == "negatives" else name, data_dir)
    train = data.train
    pictures, others = [], []
    for kind in range(data.classes):
        rows = generator.permutation(np.flatnonzero(train.targets == kind))[: alike + 1]
        found = train.inputs[rows] if name != "negatives" else 1 - train.inputs[rows]
        pictures.append(found[0])
        others.append(found[1:])
    kinds = class_names(data.name)
    if name == "negatives":
        kinds = tuple(f"negative {kind}" for kind in kinds)
    return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(others)), kinds


# -- rare examples --------------------------------------------------------------------------------


def _rare(point: Attacked, watch: Watch, data_dir: Path | None) -> dict[str, Any]:
    """The examples that two models differ on most; and both models trained without them."""
    assert point.beside is not None, "rare examples need two models"
    data = load(point.training.data, data_dir)
    rows = inputs, targets = as_tensors(data.train)
    both = {"private": point.training, "plain": point.beside}
    models = {}
    for done, (name, training) in enumerate(both.items()):
        watch(done / 4, f"the {name} model")
        models[name] = trained(training, rows, classes=data.classes, seed=training.seed)
    found = disagreement(models["private"][0], models["plain"][0], *rows)
    rarest = found.most(point.attack.arguments["count"])
    kept = torch.ones(len(targets), dtype=torch.bool)
    kept[rarest] = False
    without = {}
    for done, (name, training) in enumerate(both.items(), start=2):
        watch(done / 4, f"the {name} model without the rare examples")
        model, _ = trained(
            training, (inputs[kept], targets[kept]), classes=data.classes, seed=training.seed + 1
        )
        without[name] = opinion(model, inputs[rarest], targets[rarest]).probabilities
    tested = as_tensors(data.test)
    with_them = {"private": found.private, "plain": found.plain}
    return {
        "agreement": found.agreement,
        "accuracy": {
            name: float((confidences(models[name][0], *tested) > 0).mean()) for name in both
        },
        "accuracy_on_training": {
            name: float((each.probabilities == each.sure).mean())
            for name, each in with_them.items()
        },
        **_cost(models["private"][1]),
        "probability": {
            name: {
                "trained on them": float(with_them[name].probabilities[rarest].mean()),
                "not trained on them": float(without[name].mean()),
            }
            for name in both
        },
        "names": list(class_names(point.training.data)),
        "shape": list(inputs.shape[1:]),
        "rare": [_example(found, rows, row) for row in rarest],
        "typical": [_example(found, rows, row) for row in found.least(TYPICAL)],
    }


def _example(found: Disagreement, rows: Rows, row: int) -> dict[str, Any]:
    private, plain = found.private, found.plain
    return {
        "row": row,
        "label": int(rows[1][row]),
        "plain": [int(plain.predicted[row]), round(float(plain.sure[row]), 4)],
        "private": [int(private.predicted[row]), round(float(private.sure[row]), 4)],
        "doubt": round(float(private.probabilities[row]), 4),
        "image": encode(rows[0][row : row + 1].numpy())[0],
    }


# -- what they share ------------------------------------------------------------------------------


def trained(
    training: Training, rows: Rows, *, classes: int, seed: int, size: int | None = None
) -> tuple[nn.Module, Plan | None]:
    """A model trained on rows, privately or by ordinary SGD, with its plan where it is private.

    Args:
        training: its settings.
        rows: inputs and targets.
        classes: how many there are.
        seed: of everything.
        size: the public size of the data, which rows of weight zero fill; that of the rows if None.
    """
    inputs, targets = rows
    model = network(
        training.model.name, inputs.shape[1:], classes, seed, **training.model.arguments
    )
    assert isinstance(training.lr, float), "these models are trained at one rate"
    optimizer = optimizer_for(model, training.optimizer, training.lr, training.momentum)
    model.train()
    if training.noise_multiplier == 0:
        _plain(model, optimizer, training, rows, seed)
        return model.eval(), None
    size = size or len(inputs)
    plan = Plan(
        size, training.batch_size, epochs=training.epochs, epsilon=training.epsilon,
        noise_multiplier=training.noise_multiplier, delta=training.delta,
    )  # fmt: skip
    private = attach(model, optimizer, plan, named_bound(training.bound), seed=seed)
    for drawn, labels, weights in private.batches(filled(inputs, targets, size)):
        losses = nn.functional.cross_entropy(model(drawn), labels, reduction="none")
        private.backward(losses * weights)
        optimizer.step()
        optimizer.zero_grad()
    private.detach()
    return model.eval(), plan


def filled(inputs: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with weights: those that are there with one, and as many more with zero as are lacking.

    A row of weight zero has no gradient, so that a data set with one example more differs by that
    example's gradient alone, and every plan of `size` rows is the same plan.
    """
    lacking = size - len(inputs)
    if lacking < 0:
        raise ValueError(f"At most {size} rows have a place in the plan, got {len(inputs)}.")
    return (
        torch.cat([inputs, inputs.new_zeros(lacking, *inputs.shape[1:])]),
        torch.cat([targets, targets.new_zeros(lacking)]),
        torch.cat([torch.ones(len(inputs)), torch.zeros(lacking)]),
    )


def _plain(
    model: nn.Module, optimizer: torch.optim.Optimizer, training: Training, rows: Rows, seed: int
) -> None:
    """Ordinary training on shuffled batches."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(round(training.epochs)):
        order = torch.randperm(len(rows[0]), generator=generator)
        ordinary_epoch(model, optimizer, rows, order, training.batch_size)


def _cost(plan: Plan | None) -> dict[str, Any]:
    """What the private model cost; an epsilon of None is no guarantee."""
    if plan is None:
        return {"epsilon": None, "delta": None}
    return {
        "epsilon": finite(plan.epsilon),
        "delta": plan.delta,
        "noise_multiplier": plan.noise_multiplier,
        "steps": plan.steps,
    }


_ATTACKS: dict[str, Callable[[Attacked, Watch, Path | None], dict[str, Any]]] = {
    "membership": _membership,
    "inversion": _inversion,
    "rare": _rare,
}
