"""Runs taken up again end as if never stopped; runs that could not are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deniable import checkpoint
from deniable.errors import (
    AttachError,
    CheckpointError,
    DataError,
    LedgerError,
    PlanError,
    SettingsError,
)
from deniable.ledger import Ledger
from deniable.models import MODELS, OPTIMIZERS
from deniable.runfolder import RunFolder
from deniable.settings import Settings
from deniable.training import Moment, begin, fit, resume, start

Make = Callable[..., Settings]
Read = Callable[[Path], tuple[bytes, list[Any], dict[str, Any]]]


class CrashError(Exception):
    """The process dies here."""


def crash_at(step: int) -> Callable[[Moment], None]:
    def watch(moment: Moment) -> None:
        if moment.step == step:
            raise CrashError

    return watch


def crashed(settings: Settings, path: Path, step: int) -> None:
    """A run that died right after a step, as a killed process would leave it."""
    with pytest.raises(CrashError):
        fit(begin(settings, path), crash_at(step))


VARIANTS: list[dict[str, Any]] = [
    *({"optimizer": name} for name in OPTIMIZERS),
    {"model": "dropout"},
    {"model": "dropout", "rows": 3, "optimizer": "adam"},
    {"secure": True},
    {"noise_multiplier": 0.0},
    {"batch_size": 2},
    {"noise_schedule": "1:1,1:0.5", "batch_schedule": "2:1,1:1.5"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_crashed_run_ends_as_if_it_had_never_stopped(
    variant: dict[str, Any], tmp_path: Path, settings: Make, results_of: Read
) -> None:
    """Every generator, the optimizer and the tallies come back. Pitfall: privacy 11."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert fit(begin(settings(**variant), whole))
    crashed(settings(**variant, checkpoint_seconds=0.0), broken, step=4)
    run = resume(broken)
    assert run.private.steps == 3  # the checkpoint before the fourth step, which is repeated
    assert fit(run)
    assert results_of(broken) == results_of(whole)


def test_two_resumptions_of_a_run_without_a_seed_repeat_the_same_noise(
    tmp_path: Path, settings: Make, results_of: Read
) -> None:
    """The same noise on the same batches, or it would cancel out. Pitfall: privacy 11."""
    first, second = tmp_path / "first", tmp_path / "second"
    crashed(settings(seed=None), first, step=5)
    shutil.copytree(first, second)
    ends = []
    for path in (first, second):
        run = resume(path)
        assert run.private.steps == 0
        assert fit(run)
        ends.append(results_of(path))
    assert ends[0] == ends[1]
    other = tmp_path / "other"
    fit(begin(settings(seed=None), other))
    assert results_of(other)[0] != ends[0][0]


def test_what_a_crash_repeats_costs_nothing_more(tmp_path: Path, settings: Make) -> None:
    """Pitfall: privacy 10."""
    crashed(settings(), tmp_path, step=5)
    run = resume(tmp_path)
    fit(run)
    assert RunFolder(tmp_path).read()["results"]["epsilon"] == run.private.plan.epsilon
    with Ledger(RunFolder(tmp_path).ledger, create=False) as ledger:
        (stated,) = ledger.runs()
    assert stated.steps == 9


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(
    tmp_path: Path, settings: Make, results_of: Read
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(begin(settings(), whole))
    begin(settings(), broken)
    fit(resume(broken))
    assert results_of(broken) == results_of(whole)


def test_a_lost_checkpoint_is_refused_once_the_ledger_states_releases(
    tmp_path: Path, settings: Make
) -> None:
    crashed(settings(), tmp_path, step=5)
    RunFolder(tmp_path).remove_checkpoint()
    with pytest.raises(CheckpointError, match=r"checkpoint of .* is gone"):
        resume(tmp_path)


def test_a_lost_ledger_is_refused(tmp_path: Path, settings: Make) -> None:
    """Pitfall: privacy 10."""
    crashed(settings(checkpoint_seconds=0.0), tmp_path, step=5)
    RunFolder(tmp_path).ledger.unlink()
    with pytest.raises(
        LedgerError, match=r"recorded in .*ledger\.sqlite, and there is no such file"
    ):
        resume(tmp_path)
    assert not RunFolder(tmp_path).ledger.exists()


def test_another_ledger_in_its_place_is_refused(tmp_path: Path, settings: Make) -> None:
    """Pitfall: privacy 10."""
    crashed(settings(checkpoint_seconds=0.0), tmp_path, step=5)
    RunFolder(tmp_path).ledger.unlink()
    Ledger(RunFolder(tmp_path).ledger).close()
    with pytest.raises(LedgerError, match="not the ledger that the run"):
        resume(tmp_path)


def test_other_data_is_refused(
    tmp_path: Path, settings: Make, use_data: Callable[..., None]
) -> None:
    """The same noise on other data would cancel out. Pitfall: privacy 11."""
    crashed(settings(), tmp_path, step=5)
    use_data(shift=0.001)
    with pytest.raises(DataError, match="fingerprint"):
        resume(tmp_path)


def test_a_complete_run_is_not_resumed(tmp_path: Path, settings: Make) -> None:
    fit(begin(settings(), tmp_path))
    with pytest.raises(CheckpointError, match="complete"):
        resume(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run"):
        resume(tmp_path)


@pytest.mark.parametrize("name", ["torch", "numpy", "deniable", "device", "model_code"])
def test_a_killed_run_goes_on_only_where_the_arithmetic_is_the_same(
    name: str, tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rounding under the same noise would show the difference. Pitfall: privacy 11."""
    crashed(settings(), tmp_path, step=5)
    elsewhere(monkeypatch, name)
    with pytest.raises(CheckpointError, match=f"killed under {name} .*, here is {name} 1.0"):
        resume(tmp_path)


def test_how_sums_are_formed_is_saved_before_the_first_release(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is chosen by measuring: chosen anew, the same noise would cover sums of other rounding."""

    def convolution(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, classes))

    monkeypatch.setitem(MODELS, "convolution", convolution)
    crashed(settings(model="convolution", seed=None), tmp_path, step=1)
    saved = checkpoint.load(RunFolder(tmp_path).checkpoint)["private"]
    assert saved["steps"] == 0 and saved["strategies"]


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    here = start.environment
    monkeypatch.setattr(start, "environment", lambda *given: here(*given) | {name: "1.0"})


def test_a_run_that_was_stopped_goes_on_anywhere_and_is_then_at_home_there(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is repeated after a clean stop; what is killed later is killed under the new."""
    run = begin(settings(), tmp_path)
    run.save()
    run.interrupt()
    with monkeypatch.context() as patch:
        elsewhere(patch, "torch")
        with pytest.raises(CrashError):
            fit(resume(tmp_path), crash_at(5))
    with pytest.raises(CheckpointError, match=r"killed under torch 1\.0"):
        resume(tmp_path)
    elsewhere(monkeypatch, "torch")
    assert fit(resume(tmp_path))


def test_a_killed_run_goes_on_with_its_own_settings_alone(tmp_path: Path, settings: Make) -> None:
    crashed(settings(), tmp_path, step=5)
    folder = RunFolder(tmp_path)
    record = folder.read()
    record["settings"]["lr"] *= 2
    folder.write(record)
    with pytest.raises(CheckpointError, match="the setting lr"):
        resume(tmp_path)


def test_sums_keep_their_order_whatever_the_threads(tmp_path: Path, settings: Make) -> None:
    crashed(settings(), tmp_path, step=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    resume(tmp_path)
    assert torch.get_num_threads() == threads


class WithBatchNorm(nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, classes), nn.BatchNorm1d(classes))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "batch-norm"}, AttachError, "BatchNorm"),
        ({"model": "char-transformer"}, SettingsError, "tiny examples of shape"),
        ({"model": "flat"}, SettingsError, r"must give scores of shape \(2, 2\)"),
        ({"batch_size": 37}, PlanError, "batch_size"),
        ({"epsilon": 1.0}, PlanError, "three of"),
        ({"device": "abacus"}, SettingsError, "abacus"),
        ({"optimizer": "lion"}, SettingsError, "lion"),
    ],
)
def test_settings_that_cannot_work_leave_no_run_behind(
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
    tmp_path: Path,
    settings: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS, "batch-norm", WithBatchNorm)
    monkeypatch.setitem(MODELS, "flat", lambda *_, **__: nn.Flatten())
    with pytest.raises(error, match=words):
        begin(settings(**changes), tmp_path / "run")
    assert not RunFolder(tmp_path / "run").run_json.exists()


def test_a_run_that_is_to_be_replaced_stays_when_the_new_one_cannot_work(
    tmp_path: Path, settings: Make
) -> None:
    fit(begin(settings(), tmp_path))
    before = json.dumps(RunFolder(tmp_path).read())
    with pytest.raises(PlanError):
        begin(settings(batch_size=37), tmp_path, overwrite=True)
    assert json.dumps(RunFolder(tmp_path).read()) == before
    assert fit(begin(settings(seed=8), tmp_path, overwrite=True))
    assert RunFolder(tmp_path).read()["settings"]["seed"] == 8
