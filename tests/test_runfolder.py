"""The folder of one run."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deniable.errors import SettingsError
from deniable.runfolder import RunFolder, replaced, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"status": "running"})
    with pytest.raises(TypeError):
        write_json(path, {"status": object()})
    with pytest.raises(RuntimeError, match="power"), replaced(path) as file:
        file.write(b"half")
        raise RuntimeError("power cut")
    assert json.loads(path.read_text()) == {"status": "running"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_not_written_where_none_can_be(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"was not written: there is no folder .*absent"):
        write_json(tmp_path / "absent" / "run.json", {})
    with pytest.raises(SettingsError, match="is a folder: nothing was written"):
        write_json(tmp_path, {})
    assert not list(tmp_path.parent.glob("*.new"))


def test_the_new_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with replaced(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_private_file_is_private_from_its_first_byte_on(tmp_path: Path) -> None:
    with replaced(tmp_path / "state", mode=0o600) as file:
        (fresh,) = tmp_path.iterdir()
        assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
        file.write(b"secret")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "run.json", {"epsilon": number})


def test_a_folder_without_a_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no run: run\.json is missing"):
        RunFolder(tmp_path).read()
    (tmp_path / "a file").touch()
    with pytest.raises(SettingsError, match=r"a file holds no run"):
        RunFolder(tmp_path / "a file").read()


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SettingsError, match=r"run\.json"):
        RunFolder(tmp_path).read()


def test_a_run_is_not_written_over_unless_asked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create()
    folder.write({"status": "complete"})
    with pytest.raises(SettingsError, match="--resume"):
        folder.create()
    folder.create(overwrite=True)
    assert not folder.run_json.exists()


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.mkdir()
    for path in (folder.run_json, folder.ledger, folder.model, folder.report):
        path.write_text("old")
    (folder.checkpoint / "state.safetensors").write_text("secret")
    (tmp_path / "notes.txt").write_text("mine")
    folder.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--out"):
        RunFolder(tmp_path / "file").create()


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    """Else its model could end beside another run's claim."""
    code = (
        "import sys, pathlib; from deniable.runfolder import RunFolder;"
        "RunFolder(pathlib.Path(sys.argv[1])).hold(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for overwrite in (False, True):
            with pytest.raises(SettingsError, match="Another process is training"):
                RunFolder(tmp_path).create(overwrite=overwrite)
        other.stdin.close()
    folder = RunFolder(tmp_path)
    folder.create()
    folder.create()  # this very process may
    folder.let_go()


def test_a_record_that_lacks_what_is_needed_is_named_with_its_fields(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write({"run_id": "a", "plan": None, "status": "complete"})
    assert folder.read("run_id")["run_id"] == "a"
    for read in (folder.read, folder.read_complete):
        with pytest.raises(SettingsError, match=r"run\.json lacks settings, plan, or"):
            read("run_id", "settings", "plan")


def test_a_damaged_record_leaves_the_ledger_which_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.run_json.write_text("{broken")
    with pytest.raises(SettingsError, match=r"Bring the file back from a copy\.$"):
        folder.read()
    folder.ledger.touch()
    with pytest.raises(SettingsError, match=r"What was released is in .*ledger\.sqlite"):
        folder.read()
