"""`deniable claim` and `deniable spend --verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deniable.cli import main
from deniable.events import GaussianEvent, PoissonSampledEvent
from deniable.ledger import Ledger

STEP = PoissonSampledEvent(0.02, GaussianEvent(1.0))


def run(*arguments: object) -> int:
    """The exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a ledger of its own that holds another release too."""
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "mine"}))
    with Ledger(tmp_path / "ledger.sqlite") as book:
        one = book.run("mine", planned=30, description={"plan": {"delta": 1e-6}})
        for _ in range(30):
            one.release(STEP)
        book.release("mean", GaussianEvent(20.0))
    return tmp_path


def claimed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run("claim", *arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_run_folder_claims_its_own_run_and_a_ledger_everything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert claimed(capsys, folder)["run"] == "mine"
    everything = claimed(capsys, folder / "ledger.sqlite")
    assert everything["run"] is None
    assert claimed(capsys, folder / "ledger.sqlite", "--run", "mean")["run"] == "mean"
    assert claimed(capsys, folder)["everything"] == everything["epsilon"]


def test_it_is_said_in_plain_words_with_what_it_rests_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("claim", folder, "--out", folder / "claim.json") == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "All that run mine released costs epsilon",
        "at delta 1e-06",
        "wrongly names 0.1 in 100",
        "This rests on what no ledger can show:",
        "no loss or layer mixes units",
        "spend --verify",
    ):
        assert words in said
    assert json.loads((folder / "claim.json").read_text())["run"] == "mine"


def test_a_run_that_was_killed_is_said_to_be_unfinished(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(folder / "ledger.sqlite") as book:
        book.run("killed", planned=100, block=10).release(STEP)
    (folder / "run.json").write_text(json.dumps({"run_id": "killed", "status": "running"}))
    assert claimed(capsys, folder)["unfinished"] == {"killed": [10, 100]}
    assert run("claim", folder, "--out", folder / "claim.json") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of its 100 steps, 10 count as released" in said
    assert "is not complete" in said and "deniable train --resume" in said
    assert run("spend", "--verify", folder / "claim.json") == 0


def test_a_true_claim_is_verified_beside_its_ledger_or_with_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("claim", folder, "--out", folder / "claim.json")
    capsys.readouterr()
    for where in ([], [folder], [folder / "ledger.sqlite"]):
        assert run("spend", *where, "--verify", folder / "claim.json") == 0
        assert "Verified" in capsys.readouterr().out
    assert run("spend", "--verify", folder / "claim.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True


def test_a_claim_holds_after_the_ledger_has_grown_and_the_growth_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("claim", folder, "--out", folder / "claim.json")
    with Ledger(folder / "ledger.sqlite") as book:
        book.release("variance", GaussianEvent(3.0))
    capsys.readouterr()
    assert run("spend", "--verify", folder / "claim.json") == 0
    assert "everything together now costs" in " ".join(capsys.readouterr().out.split())


def test_a_false_claim_fails_and_says_field_claim_and_ledger(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = claimed(capsys, folder)
    true = values["epsilon"]
    (folder / "claim.json").write_text(json.dumps(values | {"epsilon": 0.125}))
    assert run("spend", "--verify", folder / "claim.json") == 1
    said = capsys.readouterr().out
    assert "NOT BORNE OUT" in said
    assert "epsilon" in said and "0.125" in said and f"{true:.4f}" in said
    assert run("spend", "--verify", folder / "claim.json", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is False
    first = found["differences"][0]
    assert (first["field"], first["claimed"], first["found"]) == ("epsilon", 0.125, true)


def test_a_claim_of_another_ledger_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("claim", folder, "--out", folder / "claim.json")
    with Ledger(folder / "other") as book:
        book.release("mine", STEP)
    assert run("spend", folder / "other", "--verify", folder / "claim.json") == 2
    assert "another ledger" in capsys.readouterr().err


def test_mistakes_are_a_message_and_status_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("claim", folder, "--out", folder / "claim.json")
    cases: dict[tuple[object, ...], str] = {
        ("spend",): "Give the ledger",
        ("spend", "--verify", folder / "absent.json"): "absent.json",
        ("spend", "--verify", folder / "run.json"): "has the fields",
        ("spend", "--verify", folder / "claim.json", "--delta", "1e-3"): "leave out --run, --delta",
        ("claim", folder, "--run", "theirs"): "No run 'theirs'",
        ("claim", folder, "--accountant", "guess"): "accountant must be one of",
        ("claim", folder / "absent"): "no such file",
    }
    for arguments, words in cases.items():
        capsys.readouterr()
        assert run(*arguments) == 2, arguments
        assert words in capsys.readouterr().err
