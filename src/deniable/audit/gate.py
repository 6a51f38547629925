"""The audit of a run folder: every test that fits the run, and one verdict.

The mechanism is tested by the code that is installed, under the settings of the run; what happened
in the run itself is tested by the canaries that it was trained with, if it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deniable import checkpoint
from deniable.accounting import privacy_curve
from deniable.audit.findings import Audit, Finding
from deniable.audit.mechanism import (
    Mechanism,
    findings_of_step,
    noise_again,
    sensitivity_of,
    step_of,
)
from deniable.audit.one_run import (
    FEWEST,
    TESTS_OF_EXAMPLES,
    TESTS_OF_GRADIENTS,
    example_canaries,
    gradient_canaries,
)
from deniable.audit.roc import Roc
from deniable.audit.sampling import sampling_of
from deniable.audit.sequences import losses
from deniable.claim import Claim
from deniable.data import Dataset
from deniable.errors import SettingsError
from deniable.events import Event
from deniable.ledger import Ledger
from deniable.plan import Plan
from deniable.runfolder import RunFolder, write_json
from deniable.settings import Settings
from deniable.training.loop import loss_of_each
from deniable.training.start import bound_for, joined, load_same_data, model_and_optimizer
from deniable.units import Spent

ROWS = 16  # of the data, each alone through the model

Say = Callable[[str], None]


def audit(path: Path, say: Say = lambda _: None) -> Audit:
    """Audits a run, and writes audit.json into its folder.

    Args:
        path: the folder of a run.
        say: told what is tested next.

    Raises:
        SettingsError: there is no run in the folder, or it has no noise, so that nothing is
            claimed.
        LedgerError: its ledger is lost.
        CheckpointError: its model or its canaries are damaged.
    """
    folder = RunFolder(path)
    audited = _Audited.of(folder)
    findings: list[Finding] = []
    tests = audited.tests()
    for name, run in audited.checks(tests):
        say(name)
        findings += run()
    found = Audit(tuple(findings), audited.claim.epsilon, audited.claim.delta, audited.roc())
    write_json(folder.audit, found.to_json())
    return found


@dataclass(frozen=True)
class _Audited:
    """A run, with all that its audit needs."""

    folder: RunFolder
    settings: Settings
    run_id: str
    plan: Plan
    data: Dataset
    claim: Spent
    event: Event
    canaries: dict[str, Tensor]

    @classmethod
    def of(cls, folder: RunFolder) -> _Audited:
        record = folder.read("run_id", "settings", "plan", "data")
        settings, plan = Settings.from_json(record["settings"]), Plan.from_json(record["plan"])
        if not plan.noise_multiplier:
            raise SettingsError(
                f"The run in {folder.path} has no noise and claims nothing, so there is nothing to "
                "audit. Train with noise: deniable train --epsilon 3 --audit."
            )
        with Ledger(folder.ledger_of(record), create=False) as ledger:
            contents, event = ledger.contents(), ledger.event(record["run_id"])
        claim = Claim.of(contents, record["run_id"], plan.delta, plan.accountant)
        saved = checkpoint.load_tensors(folder.canaries) if folder.canaries.exists() else {}
        return cls(
            folder,
            settings,
            record["run_id"],
            plan,
            load_same_data(settings, record),
            Spent(claim.epsilon, plan.delta),
            event,
            saved,
        )

    def checks(self, tests: int) -> list[tuple[str, Callable[[], list[Finding]]]]:
        """What fits the run, by name."""
        mechanism, delta = self.mechanism(), self.plan.delta
        found: list[tuple[str, Callable[[], list[Finding]]]] = [
            ("rows of the data, one at a time", lambda: [self.sensitivity(mechanism)]),
            ("one step, thousands of times", lambda: step_of(mechanism, delta, tests)),
            ("noise before and after a resumption", lambda: [noise_again(mechanism, delta, tests)]),
            ("how batches are drawn", lambda: [sampling_of(self.plan, tests)]),
        ]
        if self.gradients:
            found.append(("gradient canaries", partial(self.white_box, tests)))
        if self.examples:
            found.append(("mislabelled examples", partial(self.black_box, tests)))
        return found

    def tests(self) -> int:
        """How many findings share the error of the audit."""
        return (
            2
            + findings_of_step(self.model())
            + (TESTS_OF_GRADIENTS if self.gradients else 0)
            + (TESTS_OF_EXAMPLES if self.examples else 0)
        )

    # -- the mechanism, made anew --------------------------------------------------------------

    def mechanism(self) -> Mechanism:
        return Mechanism(
            self.model,
            min(each.noise_multiplier for each in self.plan.phases),
            partial(bound_for, self.settings),
            self.plan.neighbouring,
            self.settings.secure,
        )

    def model(self) -> nn.Module:
        return model_and_optimizer(self.settings, self.data, torch.device("cpu"))[0]

    def sensitivity(self, mechanism: Mechanism) -> Finding:
        count = min(ROWS, len(self.data.train.inputs))
        rows = tuple(
            torch.from_numpy(each[:count])
            for each in (self.data.train.inputs, self.data.train.targets)
        )
        return sensitivity_of(mechanism, _losses, rows, self.plan.delta)

    # -- the run itself ------------------------------------------------------------------------

    @property
    def examples(self) -> int:
        count = int(self.canaries["examples"]) if self.canaries else 0
        return count if count >= FEWEST and self.folder.model.exists() else 0

    @property
    def gradients(self) -> int:
        count = len(self.canaries["scores"]) if self.canaries else 0
        return count if count >= FEWEST else 0

    def _coins(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the example canaries, and of the gradient canaries."""
        coins = self.canaries["inside"].numpy().astype(bool)
        first = int(self.canaries["examples"])
        return coins[:first], coins[first:]

    def white_box(self, tests: int) -> list[Finding]:
        curve = privacy_curve(self.event)
        coins, scores = self._coins()[1], self.canaries["scores"].numpy()
        return gradient_canaries(coins, scores, self.claim, curve, tests)

    def black_box(self, tests: int) -> list[Finding]:
        model = self.model()
        checkpoint.load_model(model, self.folder.model)
        rows = joined(self.data, self.settings, self.run_id)
        count = int(self.canaries["examples"])
        inputs, targets = (torch.from_numpy(e[-count:]) for e in (rows.inputs, rows.targets))
        found = losses(model, inputs, targets)
        return example_canaries(self._coins()[0], found, self.claim, tests)

    def roc(self) -> list[tuple[float, float]]:
        """Of the gradient canaries; nothing where none was put in, or none left out."""
        if not self.gradients:
            return []
        coins, scores = self._coins()[1], self.canaries["scores"].numpy()
        if coins.all() or not coins.any():
            return []
        return [(0.0, 0.0), *Roc(scores[coins], scores[~coins]).points()]


def _losses(model: nn.Module, rows: tuple[Tensor, ...]) -> Tensor:
    inputs, targets = rows
    return loss_of_each(model(inputs), targets)
