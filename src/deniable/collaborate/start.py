"""`collaborate`: the same script in every process, one of which coordinates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from torch import nn
from torch.distributed import Store
from torch.optim import Optimizer

from deniable import checkpoint
from deniable.bounds import Bound, Clip
from deniable.collaborate import parts
from deniable.collaborate.coordinator import Coordinator
from deniable.collaborate.sessions import HandsOver, Merges
from deniable.collaborate.worker import Worker
from deniable.errors import AttachError, CollaborationError, PlanError
from deniable.grouping import Example, Microbatch, Unit
from deniable.modes import Central, Mode, Shares
from deniable.plan import Plan
from deniable.randomness import derived_seed
from deniable.sampling import PoissonSampler
from deniable.session import PrivateSession
from deniable.settings import PATIENCE_SECONDS

MEETING_SECONDS = 60.0
ABSENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Place:
    """Which process this is, and where all of them meet.

    Attributes:
        rank: 0 coordinates; worker `rank - 1` otherwise.
        world_size: how many processes there are.
        store: torch's, which all of them reach.
    """

    rank: int
    world_size: int
    store: Store

    @classmethod
    def from_environment(cls) -> Place:
        """As torchrun, or `deniable train --workers`, says it.

        Raises:
            CollaborationError: neither of them started this process, or they cannot be reached.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise CollaborationError(
                "This process was started alone. Start the script by torchrun, with one process "
                "more than there are workers: torchrun --nproc-per-node 3 script.py"
            )
        try:
            store, rank, size = next(
                dist.rendezvous("env://", timeout=timedelta(seconds=MEETING_SECONDS))
            )
        except (RuntimeError, ValueError, StopIteration) as problem:
            raise CollaborationError(
                f"The processes of this training could not meet: {problem}"
            ) from problem
        return cls(rank, size, store)

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self.world_size - 1


def collaborate(
    model: nn.Module,
    optimizer: Optimizer,
    plan: Plan,
    bound: Bound | None = None,
    *,
    mode: Mode | None = None,
    sizes: Sequence[int] | None = None,
    speed: float = 1.0,
    folder: Path | str | None = None,
    unit: Unit | None = None,
    run_id: str = "collaboration",
    loss_reduction: Literal["mean", "sum"] = "mean",
    budget: float | None = None,
    seed: int | None = None,
    secure: bool = False,
    save_seconds: float = 30.0,
    patience: float = PATIENCE_SECONDS,
    absence: float = ABSENCE_SECONDS,
    place: Place | None = None,
) -> Coordinator | Worker:
    """Train one model with many workers, under one guarantee (Xia et al., section III.C).

    Every process runs the same script; torchrun says which is which. Rank 0 coordinates: its loop
    has no batches, and its model is the result. Every other rank is a worker, whose
    `optimizer.step()` uploads.

    ```
    private = deniable.collaborate(model, optimizer, plan, mode=Central(), folder="runs/together")
    for images, labels in private.batches(train_set):
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    if private.is_coordinator:
        print(private.spent())
    ```

    Args:
        model: the same architecture in every process; the coordinator's weights are the beginning.
        optimizer: over its parameters; the coordinator's alone steps.
        plan: of the whole data set; its sampling must be Poisson.
        bound: as in `attach`.
        mode: who adds how much noise: `Central()` if not given, `Shares` or `Local`.
        sizes: how many units each worker's part holds; in proportion to the workers' speeds if not
            given.
        speed: how fast this worker is, in any measure that all workers share.
        folder: where the coordinator keeps ledger and checkpoint, and worker i its own ledger, in
            `worker-i`; a training whose folder holds a checkpoint goes on from it. None: memory.
        unit: as in `attach`; microbatches cannot be spread.
        run_id: the run's name in every ledger.
        loss_reduction: as in `attach`.
        budget: as in `attach`.
        seed: as in `attach`; what is drawn after a fault differs from what was drawn before.
        secure: as in `attach`.
        save_seconds: the most seconds between checkpoints.
        patience: how many seconds a round waits for a worker.
        absence: after how many seconds without any worker (or, for a worker, without a
            coordinator) a process gives up.
        place: which process this is; what torchrun says if not given.

    Raises:
        AttachError: the model, the optimizer, the bound or the unit does not fit.
        PlanError: the plan or the sizes do not fit.
        CollaborationError: the processes cannot meet.
    """
    place = place or Place.from_environment()
    mode, bound, unit = mode or Central(), bound or Clip(1.0), unit or Example()
    workers = place.workers
    check(plan, bound, mode, unit, workers, sizes)
    path = None if folder is None else Path(folder)
    given: dict[str, Any] = {
        "bound": bound,
        "run_id": run_id,
        "loss_reduction": loss_reduction,
        "secure": secure,
        "about": {"collaboration": {"workers": workers, "mode": mode.to_json()}},
    }
    if place.rank == 0:
        return _coordinator(
            model, optimizer, plan, mode, place, sizes, path, save_seconds, patience, absence,
            given | {"unit": unit, "budget": plan.epsilon if budget is None else budget,
                     "seed": seed},
        )  # fmt: skip
    worker = place.rank - 1
    own = None if path is None else path / f"worker-{worker}"

    def make(sizes: Sequence[int], name: str, label: str) -> PrivateSession:
        given.update(run_id=name, seed=derived_seed(seed, "worker", worker, label))
        return worker_session(model, optimizer, plan, mode, unit, sizes, worker, own, given)

    return Worker(
        model,
        optimizer,
        plan,
        bound,
        mode,
        worker,
        place.store,
        make,
        speed=speed,
        silence=patience + absence,
        absence=absence,
    )


def _coordinator(
    model: nn.Module,
    optimizer: Optimizer,
    plan: Plan,
    mode: Mode,
    place: Place,
    sizes: Sequence[int] | None,
    folder: Path | None,
    save_seconds: float,
    patience: float,
    absence: float,
    given: dict[str, Any],
) -> Coordinator:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    saved_in = None if folder is None else folder / "checkpoint"
    session = Merges(
        model, optimizer, plan, **given,
        ledger=None if folder is None else folder / "ledger.sqlite",
    )  # fmt: skip
    if saved_in is not None and checkpoint.exists(saved_in):
        state = checkpoint.load(saved_in)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        session.go_on(state["private"])
        sizes = state["sizes"]
    else:
        session.go_on()

    def save() -> None:
        if saved_in is not None:
            checkpoint.save(
                saved_in,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "private": session.state_dict(),
                    "sizes": coordinator.sizes,
                },
            )

    coordinator = Coordinator(
        model,
        optimizer,
        session,
        mode,
        place.workers,
        place.store,
        sizes=sizes,
        save=save,
        save_seconds=save_seconds,
        patience=patience,
        absence=absence,
    )
    return coordinator


def worker_session(
    model: nn.Module,
    optimizer: Optimizer,
    plan: Plan,
    mode: Mode,
    unit: Unit,
    sizes: Sequence[int],
    worker: int,
    folder: Path | None,
    given: dict[str, Any],
) -> PrivateSession:
    """The session of one worker on its part.

    Args:
        model: the worker's copy.
        optimizer: over it.
        plan: of the whole.
        mode: who adds how much noise.
        unit: what is drawn.
        sizes: of all parts.
        worker: which one this is.
        folder: for its ledger; None: memory.
        given: further arguments of `PrivateSession`.
    """
    part = parts.Part(unit, parts.members(sizes, worker), plan.examples)
    about = given["about"]["collaboration"] | {"part": {"worker": worker, "units": sizes[worker]}}
    given = given | {"about": {"collaboration": about}}
    if isinstance(mode, Central):
        return HandsOver(
            model, optimizer, plan, **given, unit=part, budget=plan.epsilon, ledger=None
        )
    own = local_plan(plan, mode, len(sizes))
    session = PrivateSession(
        model,
        optimizer,
        own,
        **given,
        unit=part,
        budget=own.epsilon,
        ledger=None if folder is None else folder / "ledger.sqlite",
    )
    session.go_on()
    return session


def local_plan(plan: Plan, mode: Mode, workers: int) -> Plan:
    """What one worker that adds noise releases by itself, of the plan for everybody.

    Its part at the rate of the whole: under all of the noise in `Local`, one share in `Shares`.
    """
    share = mode.share(workers) if isinstance(mode, Shares) else 1.0
    if share == 1:
        return plan
    return Plan(
        plan.examples,
        plan.batch_size,
        steps=plan.steps,
        noise_multiplier=plan.noise_multiplier * share,
        delta=plan.delta,
        neighbouring=plan.neighbouring,
        accountant=plan.accountant,
    )


def check(
    plan: Plan, bound: Bound, mode: Mode, unit: Unit, workers: int, sizes: Sequence[int] | None
) -> None:
    """Refuse what cannot be spread over workers.

    Raises:
        AttachError: the bound or the unit cannot.
        PlanError: the plan or the sizes cannot.
        CollaborationError: there is no worker.
        SettingsError: the mode needs more workers.
    """
    if workers < 1:
        raise CollaborationError(
            "The coordinator computes nothing itself: start one process more than there are "
            "workers, two at least."
        )
    if plan.sampling != PoissonSampler.name:
        raise PlanError(
            f"The plan's sampling is {plan.sampling!r}, whose batches cannot be drawn by several "
            "workers independently. Make it with sampling='poisson': a union of Poisson samples "
            "is one."
        )
    stated = plan.batch_size, plan.noise_multiplier
    varies = any((each.batch_size, each.noise_multiplier) != stated for each in plan.phases)
    if varies and not isinstance(mode, Central):
        raise PlanError(
            f"With {type(mode).__name__} every worker counts its own releases, so that one that "
            "misses rounds would lose its place in a schedule. Use Central, or make the plan "
            "without batch_schedule and noise_schedule."
        )
    if isinstance(mode, Shares):
        mode.share(workers)
        if bound.adapts:
            raise AttachError(
                "A bound that adapts learns from what the coordinator releases, but with shares "
                "every worker adds noise before that. Use Central, or a bound of fixed size."
            )
    if isinstance(unit, Microbatch):
        raise AttachError(
            "Microbatches mix examples of one batch, which are spread over workers here. Use "
            "another unit, or rows= to bound memory."
        )
    if sizes is not None and (
        len(sizes) != workers or sum(sizes) != plan.examples or min(sizes) < 0
    ):
        raise PlanError(
            f"sizes must name the units of each of {workers} workers, {plan.examples} in all; got "
            f"{list(sizes)!r}."
        )
