"""A run begun, or taken up where its checkpoint left it."""

from __future__ import annotations

import hashlib
import inspect
import platform
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deniable import checkpoint
from deniable.bounds import AdaptiveClip, AutomaticClip, Bound, Chain, Clip, PerLayerClip, Tanh
from deniable.canaries import Canaries
from deniable.data import Arrays, Dataset, Progress, load
from deniable.errors import CheckpointError, DataError, LedgerError, SettingsError
from deniable.ledger import Ledger
from deniable.models import build, optimizer_for
from deniable.plan import Plan, Schedule
from deniable.randomness import Streams
from deniable.rows import as_tensors, fingerprint
from deniable.runfolder import RunFolder
from deniable.sampling import OwnLoader
from deniable.session import PrivateSession, attach
from deniable.settings import Settings
from deniable.training.run import Run

NOT_PRIVATE = (
    "train_loss, mean_norm, clip_fraction and rows are taken from the training data without noise: "
    "epsilon does not cover them. Keep them as private as the data."
)

MakeSession = Callable[..., PrivateSession]
"""`attach`, or what takes the same arguments."""


def begin(
    settings: Settings,
    path: Path,
    progress: Progress | None = None,
    *,
    ledger: Path | None = None,
    overwrite: bool = False,
    session: MakeSession = attach,
) -> Run:
    """Load the data, solve the plan and make the run's folder; nothing is released yet.

    Args:
        settings: what to train, and how privately.
        path: the run's folder, to be made.
        progress: told about downloads.
        ledger: the data set's ledger, which other runs share; made where absent. One in the run's
            folder, for this run alone, if not given.
        overwrite: replace a run that is there, once everything else has been found in order.
        session: what makes the session that the run follows.

    Raises:
        BudgetError: the plan does not fit the ledger's budget, or the ledger is closed.
        DeniableError: the settings, the data or the plan do not fit together; the message says the
            mend.
    """
    if settings.sampling == OwnLoader.name:
        raise SettingsError(
            "This loop draws its batches itself; sampling='own-loader' is for loops of your own. "
            "Choose poisson, truncated-poisson, fixed-size or shuffled."
        )
    data = load_data(settings, progress)
    device = device_for(settings)
    model, optimizer = model_and_optimizer(settings, data, device)
    examples, canaries = len(data.train.inputs), _canaries(settings, model)
    if (settings.mislabelled or 0) >= examples:
        raise SettingsError(
            f"Mislabelled examples take the places of some of the {examples:,} training examples: "
            f"mislabelled must be below that, got {settings.mislabelled:,}."
        )
    # Canaries are members: the batches grow with them, so that everyone joins as often as without.
    grown = 1 + (0 if canaries is None else canaries.gradients) / examples
    size, most = settings.batch_size, settings.max_batch_size
    plan = Plan(
        examples=round(examples * grown),
        batch_size=None if size is None else int(size * grown),  # never more often than without
        sampling=settings.sampling,
        max_batch_size=None if most is None else round(most * grown),
        neighbouring=settings.neighbouring,
        epochs=settings.epochs,
        epsilon=settings.epsilon,
        noise_multiplier=settings.noise_multiplier,
        delta=settings.delta,
        batch_schedule=Schedule.parse(settings.batch_schedule),
        noise_schedule=Schedule.parse(settings.noise_schedule),
    )
    record: dict[str, Any] = {
        "run_id": uuid.uuid4().hex,
        "ledger": None if ledger is None else str(ledger.resolve()),
        "settings": settings.to_json(),
        "environment": environment(model, device),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "examples": examples},
        "canaries": None
        if canaries is None
        else {"gradients": canaries.gradients, "examples": canaries.examples},
        "plan": plan.to_json(),
        "seeded": settings.seed is not None,
        "secure": settings.secure,
        "optimizer": {"name": settings.optimizer, "lr": settings.lr},
        "not_private": NOT_PRIVATE,
        "status": "running",
        "history": [],
        "results": None,
    }
    record["model"] = {
        "name": settings.model,
        "parameters": sum(each.numel() for each in model.parameters()),
    }
    folder = RunFolder(path)
    if ledger is not None and ledger.exists():
        _check_ledger(ledger, plan, data)
    folder.create(overwrite=overwrite)
    return _attached(folder, settings, record, plan, data, model, optimizer, canaries, session)


def resume(path: Path, progress: Progress | None = None, session: MakeSession = attach) -> Run:
    """Take a run up where its last checkpoint left it; it ends as if never stopped, bit for bit.

    Steps after the checkpoint that a killed run may have released are repeated with the same noise
    on the same batches, so they cost nothing more.

    Args:
        path: the folder of an interrupted or killed run.
        progress: told about downloads.
        session: what makes the session that the run follows.

    Raises:
        SettingsError: there is no run in the folder.
        DataError: the data is not what the run was trained on.
        LedgerError: its ledger is lost, or another one lies in its place.
        CheckpointError: the run is complete, its checkpoint is lost, or this machine would compute
            other numbers.
    """
    folder = RunFolder(path)
    record = folder.read("run_id", "settings", "plan", "data", "environment")
    folder.hold()
    if record.get("status") == "complete":
        raise CheckpointError(f"The run in {path} is complete: there is nothing left to resume.")
    settings = Settings.from_json(record["settings"])
    device = device_for(settings)
    torch.set_num_threads(record["environment"]["threads"])  # sums are ordered by threads
    data = load_same_data(settings, record, progress)
    plan = Plan.from_json(record["plan"])
    ledger = folder.ledger_of(record)
    if not ledger.exists():
        raise LedgerError(
            f"The releases of this run are recorded in {ledger}, and there is no such file. Bring "
            f"it back from a copy; if it was moved, name its place as the ledger in "
            f"{folder.run_json}."
        )
    saved = checkpoint.load(folder.checkpoint) if checkpoint.exists(folder.checkpoint) else None
    stated = _stated(ledger, record["run_id"])
    if saved is None and stated:
        raise CheckpointError(
            f"The checkpoint of {path} is gone, and its ledger states releases. Start a new run in "
            "another folder; what this one released stays spent."
        )
    model, optimizer = model_and_optimizer(settings, data, device)
    canaries = _canaries(settings, model)
    here = environment(model, device)
    if saved is not None and stated > saved["private"]["steps"]:
        _check_same(saved, record, settings, here)
    record["environment"] = here
    run = _attached(folder, settings, record, plan, data, model, optimizer, canaries, session)
    if saved is not None:
        run.restore(saved)
    return run


def bound_for(settings: Settings) -> Bound:
    """The bound that the settings name."""
    tanh = Tanh(settings.output_range, settings.active_range)
    match settings.bound:
        case "per-layer":
            return PerLayerClip(settings.clip)
        case "adaptive":
            return AdaptiveClip(settings.clip, quantile=settings.quantile)
        case "automatic":
            return AutomaticClip(settings.clip)
        case "tanh":
            return tanh
        case "tanh-clip":
            return Chain(tanh, Clip(settings.clip))
    return Clip(settings.clip)


def model_and_optimizer(
    settings: Settings, data: Dataset, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """What the settings train, on its device, once it was tried on two examples.

    Raises:
        SettingsError: the model cannot compute these data.
    """
    shape, streams = data.train.inputs.shape[1:], Streams(settings.seed)
    model = build(settings.model, shape, data.classes, streams).to(device)
    _check_fit(model, settings.model, data, device)
    return model, optimizer_for(model, settings.optimizer, settings.lr, settings.momentum)


@torch.no_grad()
def _check_fit(model: nn.Module, name: str, data: Dataset, device: torch.device) -> None:
    """Try the model on two examples, before anything is written."""
    expected = (*data.train.targets[:2].shape, data.classes)
    model.eval()
    try:
        found = tuple(model(torch.from_numpy(data.train.inputs[:2]).to(device)).shape)
    except (TypeError, ValueError, RuntimeError, IndexError) as problem:
        raise SettingsError(
            f"The model {name!r} cannot compute {data.name} examples of shape "
            f"{data.train.inputs.shape[1:]}: {problem}. Choose another with --model."
        ) from problem
    if found != expected:
        raise SettingsError(
            f"The model {name!r} must give scores of shape {expected} for two {data.name} "
            f"examples, got {found}. Choose another with --model."
        )


def _attached(
    folder: RunFolder,
    settings: Settings,
    record: dict[str, Any],
    plan: Plan,
    data: Dataset,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    canaries: Canaries | None,
    session: MakeSession,
) -> Run:
    """The run at step 0; only a model that could be made private leaves a run.json."""
    private = session(
        model,
        optimizer,
        plan,
        bound=bound_for(settings),
        ledger=folder.ledger_of(record),
        run_id=record["run_id"],
        seed=settings.seed,
        secure=settings.secure,
        canaries=canaries,
    )
    record["status"] = "running"
    record["bound"] = private.bound_settings
    folder.write(record)
    device = device_for(settings)
    with_canaries = joined(data, settings, record["run_id"])
    train, test = (as_tensors(each, device) for each in (with_canaries, data.test))
    validation = None if data.validation is None else as_tensors(data.validation, device)
    randomness = seeded_randomness(settings.seed, device)
    return Run(
        folder,
        settings,
        record,
        model,
        optimizer,
        private,
        train,
        test,
        randomness,
        validation=validation,
    )


def joined(data: Dataset, settings: Settings, run_id: str) -> Arrays:
    """The training rows; at the end those that the audit mislabels, each in place of itself.

    A mislabelled row has another target; of text, at every position. With a copy beside the row its
    example would be in the data twice, and protected less than is claimed. Which rows they are is
    no secret; which of them are in is, and the run's canaries know it.
    """
    if not settings.mislabelled:
        return data.train
    generator = np.random.default_rng(list(run_id.encode()))
    order = generator.permutation(len(data.train.inputs))
    inputs, targets = data.train.inputs[order], data.train.targets[order]
    wrong = targets[-settings.mislabelled :]
    wrong += generator.integers(1, data.classes, size=wrong.shape)
    wrong %= data.classes
    return Arrays(inputs, targets)


def _canaries(settings: Settings, model: nn.Module) -> Canaries | None:
    """The units of the run's audit; None where it is not audited."""
    if not settings.audit:
        return None
    gradients = settings.canaries
    if bound_for(settings).adapts:
        gradients = gradients or 0  # they would lead it astray; `attach` refuses any
    return Canaries(model, gradients, settings.mislabelled or 0, seed=settings.seed)


def load_data(settings: Settings, progress: Progress | None = None) -> Dataset:
    """The data set that the settings name."""
    folder = None if settings.data_dir is None else Path(settings.data_dir)
    return load(settings.data, folder, progress=progress)


def load_same_data(
    settings: Settings, record: Mapping[str, Any], progress: Progress | None = None
) -> Dataset:
    """The data set that a run was trained on.

    Args:
        settings: of the run; its `data_dir` may be where the files are now.
        record: of the run.
        progress: told about downloads.

    Raises:
        DataError: what is found now is other data.
    """
    data, known = load_data(settings, progress), str(record["data"].get("fingerprint"))
    if data.fingerprint != known:
        raise DataError(
            f"The run was trained on {record['data'].get('name')} data with the fingerprint "
            f"{known[:16]}..., but what was found now has {data.fingerprint[:16]}.... The same "
            "noise must never meet other data, nor an attack other rows: bring the old data back "
            "(for deniable attack, --data-dir names its folder), or start a new run."
        )
    return data


def device_for(settings: Settings) -> torch.device:
    """Where the settings compute."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=settings.device).device
    except (RuntimeError, AssertionError) as problem:
        raise SettingsError(
            f"The device {settings.device!r} cannot be used here: {problem} Choose another with "
            "--device, or leave it out."
        ) from problem


def environment(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """What the numbers of a run depend on, besides its data, plan and settings."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "deniable": version("deniable"),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "model_code": _fingerprint_of(model),
    }


_OF_THE_PLACE = ("data_dir", "checkpoint_seconds")
_MUST_AGREE = ("torch", "numpy", "deniable", "device", "model_code")


def _fingerprint_of(model: nn.Module) -> str:
    """Of the code that a model is made of, torch's own left out."""
    classes = {type(each) for each in model.modules()}
    code = hashlib.sha256(repr(model).encode())
    for each in sorted(classes, key=lambda each: (each.__module__, each.__qualname__)):
        if not each.__module__.startswith("torch."):
            with suppress(OSError, TypeError):  # typed in, say: then the name must do
                code.update(inspect.getsource(each).encode())
    return code.hexdigest()[:16]


def _check_same(
    saved: Mapping[str, Any], record: Mapping[str, Any], settings: Settings, here: Mapping[str, Any]
) -> None:
    """Refuse to repeat steps where the same noise would meet other arithmetic.

    Raises:
        CheckpointError: something is not what it was when the checkpoint was written.
    """
    before = saved.get("environment") or record["environment"]
    differing = [
        (f"{name} {before[name]}", f"{name} {here[name]}")
        for name in _MUST_AGREE
        if before.get(name, here[name]) != here[name]
    ]
    trained, now = saved.get("settings", settings.to_json()), settings.to_json()
    differing += [
        (f"the setting {name} {trained.get(name)}", f"{name} {now[name]}")
        for name in now
        if name not in _OF_THE_PLACE and trained.get(name) != now[name]
    ]
    if differing:
        was, found = (", ".join(each) for each in zip(*differing, strict=True))
        raise CheckpointError(
            f"This run was killed under {was}, here is {found}. The steps after its checkpoint "
            "must be repeated bit for bit, or the same noise would cover two different sums. "
            f"Resume it with {was}."
        )


def _stated(ledger: Path, run_id: str) -> int:
    """How many steps of the run the ledger states."""
    with Ledger(ledger, create=False) as book:
        return sum(each.steps for each in book.runs() if each.run_id == run_id)


def _check_ledger(path: Path, plan: Plan, data: Dataset) -> None:
    """Refuse a run that the data set's ledger has no place for, before anything is written."""
    trained_on = fingerprint(as_tensors(data.train))
    with Ledger(path, create=False) as ledger:
        ledger.check(plan.event, fingerprint=trained_on, neighbouring=plan.neighbouring)


def seeded_randomness(seed: int | None, device: torch.device) -> list[Tensor]:
    """Generator states for what a model draws while it trains, such as dropout."""
    number = int.from_bytes(Streams(seed).key("initialisation")[8:16])
    kinds = ["cpu", *(["cuda"] if device.type == "cuda" else [])]
    return [torch.Generator(kind).manual_seed(number).get_state() for kind in kinds]
