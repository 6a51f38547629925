from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deniable.audit.subject import Subject
from deniable.plan import Plan, Schedule
from deniable.settings import Settings
from deniable.training import begin, fit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits"
    settings = Settings.choose(
        "digits", epochs=2.0, batch_size=200, epsilon=2.0, seed=3, checkpoint_seconds=60.0
    )
    assert fit(begin(settings, path))
    return path


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def test_a_loaded_run_computes_what_it_computed_when_it_ended(run: Path) -> None:
    from deniable.runfolder import RunFolder
    from deniable.training import evaluate

    subject = Subject.load(run)
    accuracy, _ = evaluate(subject.model, *subject.test_rows)
    assert accuracy == RunFolder(run).read()["results"]["test_accuracy"]
    assert subject.name == "digits"


def test_its_guarantee_is_that_of_its_ledger(run: Path) -> None:
    subject = Subject.load(run)
    curve = subject.guarantee()
    assert curve is not None
    nearest = min(curve.points, key=lambda each: abs(np.log(each.delta / 1e-5)))
    assert nearest.epsilon == pytest.approx(subject.plan.epsilon, rel=0.02)


def test_another_model_is_trained_alike_on_other_rows_with_noise_of_its_own(run: Path) -> None:
    subject = Subject.load(run)
    inputs, targets = subject.train_rows
    first, second = (subject.train_another(inputs[:700], targets[:700]) for _ in range(2))
    weights = [weights_of(model) for model in (first, second)]
    assert not torch.allclose(*weights)
    assert not first.training
    own = weights_of(subject.model)
    assert 0.3 < float(weights[0].norm() / own.norm()) < 3


@pytest.mark.parametrize(("examples", "first", "second"), [(1437, 200, 400), (300, 150, 300)])
def test_the_plan_of_another_follows_the_schedules_and_fits_its_rows(
    run: Path, examples: int, first: int, second: int
) -> None:
    growing, falling = Schedule(((1, 1.0), (1, 2.0))), Schedule(((1, 1.0), (1, 0.5)))
    plan = Plan(
        1437, 200, steps=10, noise_multiplier=2.0, delta=1e-5,
        batch_schedule=growing, noise_schedule=falling,
    )  # fmt: skip
    another = replace(Subject.load(run), plan=plan).plan_of_another(examples)
    phases = [(each.batch_size, each.noise_multiplier) for each in another.phases]
    assert phases == [(first, 2.0), (second, 1.0)]
    assert another.steps == 10
