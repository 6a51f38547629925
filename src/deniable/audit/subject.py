"""A finished run as the subject of an attack: its model, its data, and how to train another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from deniable import checkpoint
from deniable.accounting import privacy_curve
from deniable.data import Dataset, Progress
from deniable.ledger import Ledger
from deniable.plan import Plan
from deniable.rows import as_tensors
from deniable.runfolder import RunFolder
from deniable.session import attach
from deniable.settings import Settings
from deniable.training.loop import loss_of_each
from deniable.training.start import bound_for, load_same_data, model_and_optimizer
from deniable.units import PrivacyCurve

Rows = tuple[Tensor, Tensor]
CPU = torch.device("cpu")


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
            CheckpointError: its model is damaged.
            DataError: the data is not what the run was trained on.
        """
        folder = RunFolder(path)
        record = folder.read_complete("settings", "plan", "data")
        settings = Settings.from_json(record["settings"])
        where = settings.data_dir if data_dir is None else str(data_dir)
        data = load_same_data(replace(settings, data_dir=where), record, progress)
        model, _ = model_and_optimizer(settings, data, CPU)
        checkpoint.load_model(model, folder.model)
        return cls(path, settings, Plan.from_json(record["plan"]), data, model.eval())

    @property
    def name(self) -> str:
        """The run in a word, for titles: its folder."""
        return self.path.resolve().name

    @property
    def train_rows(self) -> Rows:
        """Inputs and targets that it was trained on."""
        return as_tensors(self.data.train)

    @property
    def test_rows(self) -> Rows:
        """Inputs and targets that it has not seen."""
        return as_tensors(self.data.test)

    def guarantee(self) -> PrivacyCurve | None:
        """What its ledger proves of it; None where that is nothing."""
        folder = RunFolder(self.path)
        record = folder.read("run_id")
        with Ledger(folder.ledger_of(record), create=False) as ledger:
            curve = privacy_curve(ledger.event(record["run_id"]))
        return curve if curve.is_private else None

    def plan_of_another(self, examples: int) -> Plan:
        """As many steps as this run had, as large as so many examples allow, with as much noise."""
        plan = self.plan
        largest = max(each.batch_size for each in plan.phases)
        return Plan(
            examples=examples,
            batch_size=max(1, plan.batch_size * min(examples, largest) // largest),
            sampling=plan.sampling,
            max_batch_size=plan.max_batch_size,
            neighbouring=plan.neighbouring,
            steps=plan.steps,
            noise_multiplier=plan.noise_multiplier,
            delta=plan.delta,
            batch_schedule=plan.batch_schedule,
            noise_schedule=plan.noise_schedule,
        )

    def train_another(self, inputs: Tensor, targets: Tensor) -> nn.Module:
        """A model trained like this one on other rows: see `plan_of_another`.

        Its randomness is its own. It stays in memory, and so does what it releases: a shadow model
        is trained on the data, and whoever shows it to others gives away what it says of them.
        """
        settings = self.settings
        model, optimizer = model_and_optimizer(replace(settings, seed=None), self.data, CPU)
        plan, bound = self.plan_of_another(len(inputs)), bound_for(settings)
        private = attach(model, optimizer, plan, bound)
        model.train()
        for rows, labels in private.batches((inputs, targets), rows=settings.rows):
            private.backward(loss_of_each(model(rows), labels))
            optimizer.step()
            optimizer.zero_grad()
        private.detach()
        return model.eval()
