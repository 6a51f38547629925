"""Points that workers train for a coordinator: real processes on this machine."""

from __future__ import annotations

import json
import multiprocessing
import signal
import statistics
import tempfile
import time
from datetime import timedelta
from functools import lru_cache
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributed import TCPStore

from deniable.bounds import Clip
from deniable.collaborate import Central, Coordinator, Local, Place, collaborate
from deniable.data import Arrays, load
from deniable.errors import CollaborationError
from deniable.papers.networks import network
from deniable.papers.points import Together, Watch
from deniable.papers.training import SECONDS_BETWEEN_WORDS, set_rate
from deniable.pca import PublicPCA
from deniable.plan import Plan
from deniable.training import evaluate
from deniable.units import finite

PUBLIC = "fashion-mnist"
FIRST = 8  # rounds in which ways are still being tried


def train(point: Together, watch: Watch, data_dir: Path | None = None) -> dict[str, Any] | None:
    """The trained point as JSON values; None when Ctrl-C asked to stop before its end.

    Args:
        point: what to train.
        watch: told after some rounds.
        data_dir: the folder that holds the data sets' files.

    Raises:
        CollaborationError: a process ended before the training did.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["deniable.papers.collaboration"])
    store = TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples = _keep_data(point, folder, data_dir)
        plan = _plan(point, examples)
        processes: list[BaseProcess] = [
            context.Process(
                target=_member, args=(rank, store.port, point, plan.to_json(), folder), daemon=True
            )
            for rank in range(point.workers + 1)
        ]
        for each in processes:
            each.start()
        try:
            _follow(processes[0], folder, watch)
        except KeyboardInterrupt:
            return None
        finally:
            for each in processes:
                each.join(0 if processes[0].is_alive() else 10)
                each.kill()
        if not (folder / "result.json").exists():
            raise CollaborationError(
                "The coordinator ended before the training did; what it said is above."
            )
        found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def _keep_data(point: Together, folder: Path, data_dir: Path | None) -> int:
    """What the processes read; how many examples there are."""
    groups = _data(point.data, point.components, data_dir)
    for name, each in groups.items():
        np.save(folder / f"{name}-inputs.npy", each.inputs)
        np.save(folder / f"{name}-targets.npy", each.targets)
    return len(groups["train"].inputs)


@lru_cache(1)  # one point follows another on the same data
def _data(name: str, components: int, data_dir: Path | None) -> dict[str, Arrays]:
    data = load(name, data_dir)
    groups = {"train": data.train, "test": data.test}
    if not components:
        return groups
    pca = PublicPCA(components).fit(load(PUBLIC, data_dir).train.inputs)
    return {
        name: Arrays(pca.transform(each.inputs).astype(np.float32), each.targets)
        for name, each in groups.items()
    }


def _plan(point: Together, examples: int) -> Plan:
    size = min(point.batch_size, examples)
    return Plan(
        examples, size, steps=point.steps, delta=point.delta,
        noise_multiplier=point.noise_multiplier, epsilon=point.epsilon,
    )  # fmt: skip


def _follow(coordinator: BaseProcess, folder: Path, watch: Watch) -> None:
    """Pass on what the coordinator says, until it ends."""
    while coordinator.is_alive():
        coordinator.join(SECONDS_BETWEEN_WORDS)
        try:
            share = float((folder / "progress").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        watch(share, "rounds")


def _member(rank: int, port: int, point: Together, plan_json: dict[str, Any], folder: Path) -> None:
    """What each process does: rank 0 coordinates."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process ends it
    torch.set_num_threads(1)
    inputs, targets = _read(folder, "train")
    model = network("mlp", inputs.shape[1:], 10, point.seed, hidden=point.hidden)
    first = point.lr if isinstance(point.lr, float) else point.lr[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=first)
    private = collaborate(
        model,
        optimizer,
        Plan.from_json(plan_json),
        Clip(point.norm),
        mode=Local(point.upload, point.carry) if point.mode == "local" else Central(),
        seed=point.seed,
        place=Place(rank, point.workers + 1, TCPStore("127.0.0.1", port, is_master=False)),
    )
    if isinstance(private, Coordinator):
        started = time.perf_counter()
        found = _coordinate(private, optimizer, point, folder)
        found["accuracy"] = evaluate(model, *_read(folder, "test"))[0]
        found["seconds"] = round(time.perf_counter() - started, 1)
        (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")
        return
    for some, labels in private.batches((inputs, targets)):
        F.cross_entropy(model(some), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def _read(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = (np.load(folder / f"{name}-{kind}.npy") for kind in ("inputs", "targets"))
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _coordinate(
    private: Coordinator, optimizer: torch.optim.Optimizer, point: Together, folder: Path
) -> dict[str, Any]:
    ends, up, down, told = [], [], [], 0.0
    first, last = point.lr if isinstance(point.lr, tuple) else (point.lr, point.lr)
    for done in private.rounds():
        ends.append(time.perf_counter())
        up.append(done.bytes_up)
        down.append(done.bytes_down)
        set_rate(optimizer, first + (last - first) * done.step / point.steps)
        if ends[-1] - told > SECONDS_BETWEEN_WORDS:
            told = ends[-1]
            (folder / "progress").write_text(f"{done.step / point.steps}", encoding="utf-8")
    rounds = [after - before for before, after in pairwise(ends)][FIRST:]
    return {
        "epsilon": finite(private.spent().epsilon),
        "steps": len(ends),
        "round_seconds": statistics.median(rounds) if rounds else None,
        "bytes_up": statistics.fmean(up[FIRST:]) if rounds else None,
        "bytes_down": statistics.fmean(down[FIRST:]) if rounds else None,
    }
