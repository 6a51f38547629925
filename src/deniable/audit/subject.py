"""A finished run as the subject of an attack: its model, its data, and how to train another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from deniable.accounting import privacy_curve
from deniable.data import Dataset, Progress, load
from deniable.errors import DataError, SettingsError
from deniable.ledger import Ledger
from deniable.models import build, optimizer_for
from deniable.plan import Plan
from deniable.randomness import Streams
from deniable.runfolder import RunFolder
from deniable.session import attach
from deniable.settings import Settings
from deniable.training.loop import loss_of_each
from deniable.training.start import bound_for
from deniable.units import PrivacyCurve

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A complete run, loaded.

    Attributes:
        path: its folder.
        settings: what it was told.
        plan: how it was trained.
        data: what it was trained and tested on.
        model: the trained network, in evaluation mode, on the CPU.
    """

    path: Path
    settings: Settings
    plan: Plan
    data: Dataset
    model: nn.Module

    @classmethod
    def load(
        cls, path: Path, data_dir: Path | None = None, progress: Progress | None = None
    ) -> Self:
        """The run in a folder.

        Args:
            path: what `deniable train` made.
            data_dir: the folder that holds the data sets' files; that of the run if not given.
            progress: told about downloads.

        Raises:
            SettingsError: there is no complete run in the folder.
            DataError: the data is not what the run was trained on.
        """
        folder = RunFolder(path)
        record = folder.read()
        if record.get("status") != "complete" or not folder.model.exists():
            raise SettingsError(
                f"The run in {path} must be complete, with its {folder.model.name}. Go on with it "
                f"by `deniable train --resume {path}`."
            )
        settings = Settings.from_json(record["settings"])
        where = data_dir or (None if settings.data_dir is None else Path(settings.data_dir))
        data = load(settings.data, where, progress=progress)
        if data.fingerprint != record["data"]["fingerprint"]:
            raise DataError(
                f"The run in {path} was trained on other {settings.data} data than what was found "
                "now. Name the folder with its files by --data-dir."
            )
        model = _untrained(settings, data)
        model.load_state_dict(safetensors.torch.load_file(folder.model))
        return cls(path, settings, Plan.from_json(record["plan"]), data, model.eval())

    @property
    def name(self) -> str:
        """The run in a word, for titles: its folder."""
        return self.path.resolve().name

    @property
    def train_rows(self) -> Rows:
        """Inputs and targets that it was trained on."""
        return _tensors(self.data.train)

    @property
    def test_rows(self) -> Rows:
        """Inputs and targets that it has not seen."""
        return _tensors(self.data.test)

    def guarantee(self) -> PrivacyCurve | None:
        """What its ledger proves of it; None where that is nothing."""
        folder = RunFolder(self.path)
        record = folder.read()
        with Ledger(folder.ledger_of(record), create=False) as ledger:
            curve = privacy_curve(ledger.event(record["run_id"]))
        return curve if curve.is_private else None

    def train_another(self, inputs: Tensor, targets: Tensor) -> nn.Module:
        """A model trained like this one on other rows: as many steps, as large, as much noise.

        Its randomness is its own. It stays in memory, and so does what it releases: a shadow model
        is trained on the data, and whoever shows it to others gives away what it says of them.
        """
        settings, plan = self.settings, self.plan
        model = _untrained(Settings.from_json(settings.to_json() | {"seed": None}), self.data)
        optimizer = optimizer_for(model, settings.optimizer, settings.lr, settings.momentum)
        private = attach(
            model,
            optimizer,
            Plan(
                examples=len(inputs),
                batch_size=min(plan.batch_size, len(inputs)),
                sampling=settings.sampling,
                max_batch_size=settings.max_batch_size,
                neighbouring=settings.neighbouring,
                steps=plan.steps,
                noise_multiplier=plan.noise_multiplier,
                delta=plan.delta,
            ),
            bound=bound_for(settings),
        )
        model.train()
        for rows, labels in private.batches((inputs, targets), rows=settings.rows):
            private.backward(loss_of_each(model(rows), labels))
            optimizer.step()
            optimizer.zero_grad()
        private.detach()
        return model.eval()


def _untrained(settings: Settings, data: Dataset) -> nn.Module:
    return build(settings.model, data.train.inputs.shape[1:], data.classes, Streams(settings.seed))


def _tensors(arrays: Any) -> Rows:
    return torch.from_numpy(arrays.inputs), torch.from_numpy(arrays.targets)
