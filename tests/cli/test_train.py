"""`deniable train`, from the command line to the run folder, and killed at any instant."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deniable import checkpoint
from deniable.cli import main
from deniable.ledger import Ledger
from deniable.runfolder import RunFolder
from deniable.training import loop

QUICK = ["--noise-multiplier", "20", "--epochs", "6", "--model", "digits-mlp"]


def train(*arguments: str | Path) -> int:
    """The exit status of `deniable train`."""
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, arguments)])
    return int(stop.value.code or 0)


def ctrl_c_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presses Ctrl-C while a step is under way."""
    real: Callable[..., None] = loop.add_statistics
    seen = [0]

    def press(*arguments: Any) -> None:
        seen[0] += 1
        if seen[0] == step:
            os.kill(os.getpid(), signal.SIGINT)
        real(*arguments)

    monkeypatch.setattr(loop, "add_statistics", press)


def test_a_run_prints_its_results_and_where_its_report_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(*QUICK, "--out", tmp_path) == 0
    printed = capfd.readouterr().out
    assert "Test accuracy" in printed
    assert "at delta 1e-05" in printed
    assert str(RunFolder(tmp_path).report) in printed
    assert RunFolder(tmp_path).report.exists()


def test_the_first_lines_say_why_batches_vary_and_what_epsilon_bounds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rate, expected size, relation, and an attacker's best rate. Pitfall: users 7."""
    train(*QUICK, "--out", tmp_path)
    first = capfd.readouterr().err.partition("step 1 of 6")[0]
    for words in (
        "Batch sizes vary:",
        "with probability 0.7126",
        "1,024 on average",
        "add-or-remove",
        "A test that wrongly names 1 in every 100 people who were not in the data can find at most",
    ):
        assert words in first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["truncated-poisson", "--max-batch-size", "1040"],
            "no more than a public number were kept",
        ),
        (["fixed-size"], "random batch of fixed size"),
        (["shuffled"], "No amplification by sampling is claimed"),
        (["shuffled", "--neighbouring", "replace"], "both hold the same number of units"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_sampling_trains_and_its_report_says_which_it_was(
    options: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pitfall: privacy 1."""
    assert train(*QUICK, "--out", tmp_path, "--sampling", *options) == 0
    printed = capfd.readouterr()
    opening = printed.err.partition("step 1 of 6")[0]
    assert "guarantee counts on that chance" in opening or "No amplification" in opening
    assert ("no amplification by sampling is claimed" in printed.out) == ("shuffled" in options)
    assert said in RunFolder(tmp_path).report.read_text(encoding="utf-8")
    assert f"--sampling {options[0]}" in RunFolder(tmp_path).report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["per-layer", "--clip", "0.5"], "clipped parameter by parameter, to norm 0.5 in all"),
        (["adaptive", "--quantile", "0.8"], "a norm that follows the quantile 0.8"),
        (["automatic"], "normalised to norm 1 (stability 0.01)"),
        (["tanh", "--output-range", "0.2", "--active-range", "3"], "filtered by 0.2 tanh(g / 3)"),
        (["tanh-clip", "--clip", "0.7"], "filtered by 1 tanh(g / 1), then clipped to norm 0.7"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_bound_trains_and_its_report_says_which_it_was(
    options: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(*QUICK, "--out", tmp_path, "--bound", *options) == 0
    printed = capfd.readouterr()
    assert said in printed.err.partition("step 1 of 6")[0]
    folder = RunFolder(tmp_path)
    page = folder.report.read_text(encoding="utf-8")
    assert said in page.replace("\n", " ")
    assert f"--bound {options[0]}" in page
    record = folder.read()
    assert record["bound"]["sensitivity"] > 0
    assert ("threshold" in record["history"][-1]) == (options[0] == "adaptive")
    assert ("ominal, not a guarantee" in printed.out) == (options[0] == "tanh")
    assert ("ominal, not a guarantee" in page) == (options[0] == "tanh")


def test_an_interrupted_run_whose_threshold_adapts_ends_as_if_it_never_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall: privacy 11."""
    given = [*QUICK, "--bound", "adaptive", "--seed", "2"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(*given, "--out", whole) == 0
    with monkeypatch.context() as patch:
        ctrl_c_at(4, patch)
        assert train(*given, "--out", stopped) == 130
    assert train("--resume", stopped) == 0
    read = [RunFolder(each) for each in (whole, stopped)]
    assert read[0].model.read_bytes() == read[1].model.read_bytes()
    thresholds = [[row["threshold"] for row in each.read()["history"]] for each in read]
    assert thresholds[0] == thresholds[1]
    assert thresholds[0][-1] != 1.0


def test_an_interrupted_run_on_shuffled_data_ends_as_if_it_never_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch. Pitfall: privacy 11."""
    given = [*QUICK, "--sampling", "shuffled", "--batch-size", "400", "--seed", "2", "--json"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(*given, "--out", whole) == 0
    capfd.readouterr()
    with monkeypatch.context() as patch:
        ctrl_c_at(4, patch)
        assert train(*given, "--out", stopped) == 130
    assert train("--resume", stopped) == 0
    assert RunFolder(whole).model.read_bytes() == RunFolder(stopped).model.read_bytes()
    costs = [RunFolder(each).read()["results"]["epsilon"] for each in (whole, stopped)]
    assert costs[0] == costs[1]


def test_json_is_one_object_and_nothing_else_on_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(*QUICK, "--seed", "3", "--json", "--out", tmp_path) == 0
    printed = capfd.readouterr()
    (line,) = printed.out.splitlines()
    values = json.loads(line)
    assert values["status"] == "complete"
    assert values["steps"] == 6
    assert 0 < values["epsilon"] < 1
    assert 0 < values["test_accuracy"] <= 1
    assert {"delta", "seconds", "seeded", "report"} <= set(values)
    assert values["out"] == str(tmp_path)
    assert "Seeded: the noise can be computed again" in printed.err


def test_a_run_without_noise_says_everywhere_that_it_is_not_private(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("--noise-multiplier", "0", "--epochs", "2", "--out", tmp_path / "a") == 0
    said = capfd.readouterr()
    opening, *rows = said.err.partition("step 1 of 2")
    assert "NOT PRIVATE" in opening
    assert all("NOT PRIVATE" in row for row in "".join(rows).splitlines() if row.startswith("step"))
    assert "NOT PRIVATE" in said.out
    assert "not private" in RunFolder(tmp_path / "a").report.read_text().lower()
    train("--noise-multiplier", "0", "--epochs", "1", "--json", "--out", tmp_path / "b")
    values = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert values["epsilon"] is None
    assert values["non_private"] is True


def test_ctrl_c_saves_and_says_the_command_that_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    with monkeypatch.context() as patch:
        ctrl_c_at(3, patch)
        assert train(*QUICK, "--json", "--out", out) == 130
    printed = capfd.readouterr()
    values = json.loads(printed.out)
    assert values["status"] == "interrupted"
    assert values["steps"] == 3
    assert values["resume"] == f"deniable train --resume '{out}'"
    assert values["resume"] in printed.err
    assert "keep it to yourself" in printed.err
    assert train("--resume", out) == 0
    printed = capfd.readouterr()
    assert "Going on after step 3" in printed.err
    assert "removed" in printed.err
    assert not RunFolder(out).checkpoint.exists()


def test_resuming_a_complete_run_prints_its_results_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*QUICK, "--json", "--out", tmp_path)
    first = capfd.readouterr().out
    RunFolder(tmp_path).report.unlink()
    assert train("--resume", tmp_path, "--json") == 0
    assert capfd.readouterr().out == first
    assert RunFolder(tmp_path).report.exists()


def test_mistakes_are_a_message_and_status_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text("{}")
    cases = {
        ("--data", "imagenet"): "digits, mnist",
        ("--optimizer", "lion", *QUICK): "sgd, adam",
        ("--model", "resnet"): "module:factory",
        ("--epsilon", "-1"): "epsilon must be",
        ("--batch-size", "5000"): "batch_size must be",
        ("--epsilon", "0.01", "--noise-multiplier", "0.1", "--epochs", "1"): "Even batches of one",
        ("--sampling", "own-loader"): "draws its batches itself",
        ("--sampling", "truncated-poisson"): "needs max_batch_size",
        ("--sampling", "fixed-size", "--neighbouring", "add-or-remove"): "is no guarantee",
        ("--resume", str(tmp_path / "absent")): "holds no run",
        ("--resume", str(tmp_path), "--lr", "1"): "leave out --lr",
    }
    for arguments, words in cases.items():
        out = () if "--resume" in arguments else ("--out", tmp_path / "new")
        assert train(*arguments, *out) == 2, arguments
        printed = capfd.readouterr()
        assert words in printed.err
        assert not printed.out
    assert train("--out", tmp_path) == 2
    assert "holds a run already" in capfd.readouterr().err


def test_a_run_is_replaced_only_when_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*QUICK, "--seed", "1", "--out", tmp_path)
    assert train(*QUICK, "--seed", "2", "--out", tmp_path) == 2
    assert RunFolder(tmp_path).read()["settings"]["seed"] == 1
    assert train(*QUICK, "--seed", "2", "--out", tmp_path, "--overwrite") == 0
    assert RunFolder(tmp_path).read()["settings"]["seed"] == 2


def test_runs_share_the_ledger_of_their_data_set_until_its_budget_is_spent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A refused run is a message, and leaves nothing half made. Pitfall: users 12."""
    ledger, first, second = (tmp_path / name for name in ("ledger", "first", "second"))
    assert train(*QUICK, "--out", first, "--ledger", ledger) == 0
    printed = capfd.readouterr()
    assert f"no ledger at {ledger}: a new one begins there" in printed.err
    assert f"recorded in {ledger}" in printed.err
    assert str(RunFolder(first).claim) in printed.out
    epsilon = RunFolder(first).read()["results"]["epsilon"]
    with Ledger(ledger) as book:
        book.set_budget(1.2 * epsilon, 1e-5)
        entries = book.contents().entries
    assert train(*QUICK, "--out", second, "--ledger", ledger) == 2
    said = capfd.readouterr().err
    assert "does not fit, and nothing of it was released" in said
    assert f"the budget is {1.2 * epsilon:g}" in said
    assert not second.exists()
    with Ledger(ledger, create=False) as book:
        assert book.contents().entries == entries
    assert train("--resume", first, "--ledger", ledger) == 2
    assert "leave out --ledger" in capfd.readouterr().err


# -- kill -9 ---------------------------------------------------------------------------------------

KILLS = 50 if os.environ.get("DENIABLE_LONG") else 6
STEPS = 12


class Processes:
    """The command in processes of its own, forked from one that has imported everything."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            [
                "deniable.cli",
                "deniable.training",
                "deniable.report.page",
                "dp_accounting.pld",
                "dp_accounting.rdp",
                "matplotlib.figure",
                "matplotlib.pyplot",
                "sklearn.model_selection",
                "torch._dynamo",
            ]
        )

    def start(self, *arguments: str | Path) -> multiprocessing.process.BaseProcess:
        process = self._context.Process(target=main, args=(["train", *map(str, arguments)],))
        process.start()
        return process

    def finish(self, *arguments: str | Path) -> None:
        process = self.start(*arguments)
        process.join()
        assert process.exitcode == 0


def wait_for(path: Path, process: multiprocessing.process.BaseProcess) -> None:
    """Until a file is there."""
    while not path.exists():
        assert process.exitcode in (None, 0), "the run failed"
        time.sleep(0.001)


def outcome(path: Path) -> tuple[bytes, list[Any], dict[str, Any]]:
    """Everything that two equal runs have in common: weights, history, results, less times."""
    folder = RunFolder(path)
    record = folder.read()
    for each in [*record["history"], record["results"]]:
        del each["seconds"]
    return folder.model.read_bytes(), record["history"], record["results"]


def check_after_kill(path: Path) -> None:
    """The ledger is readable, and states at least every step that left a trace."""
    folder = RunFolder(path)
    history = folder.read()["history"]
    traces = [row["step"] for row in history]
    if checkpoint.exists(folder.checkpoint):
        traces.append(checkpoint.load(folder.checkpoint)["private"]["steps"])
    if traces:
        with Ledger(folder.ledger, create=False) as ledger:
            assert max(run.steps for run in ledger.runs()) >= max(traces)


def test_killed_at_any_instant_a_run_understates_nothing_and_ends_the_same(
    tmp_path: Path,
) -> None:
    """kill -9 at random instants, then --resume; DENIABLE_LONG=1 does it 50 times.

    Every second run keeps a checkpoint a step, so that kills fall into its writing; the others
    only the first, so that steps are repeated. Pitfall: privacy 10, privacy 11.
    """
    processes, chance = Processes(), random.Random(0)
    run = ["--noise-multiplier", "20", "--epochs", str(STEPS), "--seed", "5"]
    whole = RunFolder(tmp_path / "whole")
    process = processes.start(*run, "--out", whole.path)
    wait_for(whole.run_json, process)
    began = time.monotonic()
    wait_for(whole.model, process)
    window = 1.2 * (time.monotonic() - began)
    process.join()
    expected = outcome(whole.path)
    killed = 0
    while killed < KILLS:
        path = tmp_path / str(time.monotonic_ns())
        seconds = "0" if killed % 2 else "1000"
        process = processes.start(*run, "--out", path, "--checkpoint-seconds", seconds)
        wait_for(RunFolder(path).run_json, process)
        time.sleep(chance.uniform(0, window))
        process.kill()
        process.join()
        check_after_kill(path)
        processes.finish("--resume", path)
        assert outcome(path) == expected
        if process.exitcode == -signal.SIGKILL:
            killed += 1
        else:
            window *= 0.8  # this machine has become faster: the run was over
