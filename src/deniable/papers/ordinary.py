"""Training without privacy, as it is usual: what private training is compared with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from deniable import checkpoint
from deniable.models import optimizer_for
from deniable.papers.networks import network
from deniable.papers.points import Training, Watch
from deniable.papers.training import Data, rate_at, set_rate
from deniable.runfolder import RunFolder, replaced
from deniable.training import evaluate
from deniable.training.interrupt import stop_when_asked
from deniable.training.loop import loss_of_each


def train(
    read: Callable[[], Data], point: Training, folder: Path, watch: Watch
) -> dict[str, Any] | None:
    """Epochs in random order over the whole data; None when it was asked to stop before its end.

    No bound, no noise, no ledger. Where the processor knows bfloat16, matrix products are taken in
    it, and the weights stay in single precision.

    Args:
        read: gives the data.
        point: network, optimizer, batch size, epochs, rate and seed; the rest says nothing here.
        folder: where its state is kept, and at the end the model.
        watch: told now and then.
    """
    data = read()
    folder.mkdir(parents=True, exist_ok=True)
    run_folder, inputs, targets = RunFolder(folder), *data.train
    classes = data.classes or int(targets.max()) + 1
    model = network(
        point.model.name, inputs.shape[1:], classes, point.seed, **point.model.arguments
    )
    optimizer = optimizer_for(model, point.optimizer, rate_at(point, 0.0), point.momentum)
    state: dict[str, Any] = {"epoch": 0, "batch": 0, "total": 0.0, "history": [], "seconds": 0.0}
    saved = _saved(run_folder, point)
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    history: list[dict[str, Any]] = state["history"]
    started = time.monotonic() - state["seconds"]
    epochs = round(point.epochs)
    with stop_when_asked() as stop:
        while state["epoch"] < epochs:
            order = torch.split(_order(len(inputs), point.seed, state["epoch"]), point.batch_size)
            model.train()
            for rows in order[state["batch"] :]:
                done = state["epoch"] + state["batch"] / len(order)
                set_rate(optimizer, rate_at(point, done))
                loss = _step(model, optimizer, inputs[rows], targets[rows])
                state["total"] += len(rows) * loss
                state["batch"] += 1
                if state["batch"] % 20 == 0:
                    watch(done / epochs, _said(history))
                if stop.asked:
                    state["seconds"] = time.monotonic() - started
                    _save(run_folder, point, model, optimizer, state)
                    return None
            with _quick():
                accuracy, loss = evaluate(model, *data.test)
            state["epoch"] += 1
            history.append(
                {
                    "epoch": state["epoch"],
                    "train_loss": state["total"] / len(inputs),
                    "accuracy": accuracy,
                    "loss": loss,
                }
            )
            state |= {"batch": 0, "total": 0.0, "seconds": time.monotonic() - started}
            _save(run_folder, point, model, optimizer, state)
    with replaced(run_folder.model) as file:
        file.write(safetensors.torch.save(dict(model.state_dict())))
    return {
        "accuracy": history[-1]["accuracy"],
        "epochs": epochs,
        "parameters": sum(each.numel() for each in model.parameters()),
        "seconds": round(time.monotonic() - started, 1),
        "history": history,
    }


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor, goal: Tensor) -> float:
    """One step; the mean loss of its batch."""
    optimizer.zero_grad()
    with _quick():
        scores = model(rows)
    loss = loss_of_each(scores.float(), goal).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def _quick() -> Any:
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", dtype=torch.bfloat16) if supported else nullcontext()


def _said(history: list[dict[str, Any]]) -> str:
    return f"loss {history[-1]['loss']:.3f}" if history else "first epoch"


def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))


def _save(
    folder: RunFolder,
    point: Training,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    checkpoint.save(
        folder.checkpoint,
        {
            "point": json.dumps(point.to_json()),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": state,
        },
    )


def _saved(folder: RunFolder, point: Training) -> dict[str, Any] | None:
    """Where the training of the same point stopped, if one was left."""
    if not checkpoint.exists(folder.checkpoint):
        return None
    saved = checkpoint.load(folder.checkpoint)
    return saved if saved["point"] == json.dumps(point.to_json()) else None
