"""`deniable compare` and `deniable generate`, from the training of a text to its sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deniable.audit.comparison import Comparison, letter_perplexity
from deniable.cli import main
from deniable.data import Arrays, Dataset, fingerprint, load
from deniable.data.ptb import sequences
from deniable.papers.sentences import text
from deniable.runfolder import RunFolder
from deniable.training import start

SMALL = ["--data", "ptb", "--batch-size", "20", "--epochs", "2", "--lr", "0.01", "--seed", "1"]


def deniable(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return int(stop.value.code or 0)


def small_text() -> Dataset:
    train, test, validation = (sequences(text(rows, seed=rows)) for rows in (60, 10, 11))
    identity = fingerprint(train.inputs, train.targets)
    return Dataset("ptb", train, test, 256, identity, validation)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A private run and one without privacy, of a small text."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "load", lambda *_, **__: small_text())
        private = deniable("train", *SMALL, "--noise-multiplier", "2", "--out", folder / "private")
        assert private == 0
        assert deniable("train", *SMALL, "--no-privacy", "--out", folder / "ordinary") == 0
        yield folder


def test_text_is_measured_on_its_validation_part_and_at_the_end_on_its_test_part(
    runs: Path,
) -> None:
    for name in ("private", "ordinary"):
        record = RunFolder(runs / name).read()
        first, last = record["history"]
        assert first["test_loss"] is None
        assert first["validation_loss"] > last["validation_loss"] * (name == "ordinary")
        for part in ("validation", "test"):
            loss, perplexity = (
                record["results"][f"{part}_{key}"] for key in ("loss", "perplexity")
            )
            assert perplexity == pytest.approx(np.exp(loss))
    assert RunFolder(runs / "ordinary").read()["results"]["non_private"]


def test_the_report_of_a_text_shows_perplexity_in_the_place_of_accuracy(runs: Path) -> None:
    page = RunFolder(runs / "private").report.read_text(encoding="utf-8")
    assert "Test perplexity" in page
    assert "Test accuracy" not in page
    assert "NaN" not in page


def test_comparing_lists_sequences_both_ways(runs: Path, capsys: Any) -> None:
    capsys.readouterr()
    assert deniable("compare", runs / "ordinary", runs / "private", "--rows", "3") == 0
    printed = capsys.readouterr().out
    assert "60 train examples" in printed
    assert "Accepted, with a perplexity below" in printed
    assert "Likelier by" in printed
    assert "the " in printed and "⏎" in printed


def test_a_model_beside_itself_has_no_table(runs: Path, capsys: Any) -> None:
    assert deniable("compare", runs / "private", runs / "private") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("No example is likelier by") == 2 and "Likelier" not in said


def test_the_same_as_json_is_in_order(runs: Path, capsys: Any) -> None:
    capsys.readouterr()
    command = ("compare", runs / "ordinary", runs / "private", "--json", "--part", "test")
    assert deniable(*command, "--accept", "30") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 10
    assert found["accepted"]["threshold"] == 30
    for listed, sign in ((found["likelier_by_first"], 1), (found["likelier_by_second"], -1)):
        gaps = [sign * (each["second"] - each["first"]) for each in listed]
        assert gaps == sorted(gaps, reverse=True)
        assert all(each > 0 for each in gaps)


def test_a_model_writes_what_its_seed_says(runs: Path, capsys: Any) -> None:
    capsys.readouterr()
    written = []
    for seed in ("1", "1", "2"):
        command = ("generate", runs / "ordinary", "--prompt", "the bank", "--seed", seed)
        assert deniable(*command, "--characters", "100") == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2]
    assert written[0].startswith("the bank")
    assert len(written[0]) == len("the bank") + 100 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "not negative, got -1"),
        (["--temperature", "nan"], "not negative, got nan"),
        (["--prompt", "münchen"], "printable ASCII"),
        (["--characters", "-5"], "cannot be negative"),
    ],
)
def test_what_cannot_be_written_is_refused(
    runs: Path, arguments: list[str], message: str, capsys: Any
) -> None:
    assert deniable("generate", runs / "private", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_images_writes_no_text_and_compares_by_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(start, "load", load)
    options = ["--noise-multiplier", "20", "--epochs", "1", "--model", "digits-mlp"]
    for name in ("a", "b"):
        assert deniable("train", *options, "--out", tmp_path / name) == 0
    assert deniable("generate", tmp_path / "a") == 2
    assert "writes no text" in capsys.readouterr().err
    assert deniable("compare", tmp_path / "a", tmp_path / "b", "--rows", "2") == 0
    printed = capsys.readouterr().out
    assert "1,437 train examples" in printed
    assert "label" in printed and "loss" in printed
    assert deniable("compare", tmp_path / "a", tmp_path / "b", "--accept", "9") == 2
    assert "--accept is for text" in capsys.readouterr().err
    assert deniable("compare", tmp_path / "a", tmp_path / "b", "--part", "validation") == 2
    assert "no part for validation" in capsys.readouterr().err


def test_runs_on_other_data_are_not_compared(runs: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    with pytest.MonkeyPatch.context() as patch:
        folder = RunFolder(other)
        folder.create()
        record = RunFolder(runs / "private").read()
        folder.write(record)
        folder.model.write_bytes(RunFolder(runs / "private").model.read_bytes())
        data = small_text()
        moved = Arrays(data.train.inputs, data.train.targets[::-1].copy())
        identity = fingerprint(moved.inputs, moved.targets)
        folder.write(record | {"data": record["data"] | {"fingerprint": identity}})
        changed = Dataset("ptb", moved, data.test, 256, identity, data.validation)
        loads = iter((data, changed))
        patch.setattr(start, "load", lambda *_, **__: next(loads))
        assert deniable("compare", runs / "private", other) == 2
    assert "Give runs on the same data" in " ".join(capsys.readouterr().err.split())


def test_an_example_that_stands_several_times_is_listed_once() -> None:
    arrays = sequences(b"a" * 160 + b"b" * 80)
    found = Comparison(arrays, np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 2.5]))
    assert [each.row for each in found.apart(5)] == [0, 2]
    assert found.turned().apart(5) == []
    assert found.accepted(np.exp(2.7)) == pytest.approx((1, 1 / 3, 1 / 3))


def test_letters_that_are_all_alike_leave_no_doubt() -> None:
    assert letter_perplexity(np.full((3, 80), 97)) == pytest.approx(1)
