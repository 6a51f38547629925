"""Loading by name: which folder is read, what is downloaded, what is said."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deniable.data import NAMES, fingerprint, load, locate, ptb, sources
from deniable.errors import DataError

TEXTS = {
    "ptb.train.txt": b"the cat sat on the mat \n" * 20,
    "ptb.test.txt": b"a dog ran \n" * 20,
    "ptb.valid.txt": b"a bird flew \n" * 20,
}


@pytest.fixture
def published(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small text, published by the local server as all three parts of ptb."""
    content = TEXTS["ptb.train.txt"]
    server.content = content
    files = tuple(replace(server.file(), name=name) for name in TEXTS)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(sources.FILES, "ptb", files)
    monkeypatch.setitem(sources.CONTENTS, "ptb", dict.fromkeys(TEXTS, digest))
    return server


def test_the_names_are_those_of_the_design() -> None:
    assert NAMES == ("digits", "mnist", "fashion-mnist", "cifar10", "ptb")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="digits, mnist, fashion-mnist, cifar10, ptb; got 'minst'"):
        load("minst")


def test_every_file_has_a_hash_and_two_kinds_never_meet() -> None:
    files = [file for each in sources.FILES.values() for file in each]
    hashes = [file.sha256 for file in files]
    assert len(set(hashes)) == len(hashes)
    assert all(len(bytes.fromhex(each)) == 32 for each in hashes)
    assert all(file.addresses and file.size > 0 for file in files)
    contents = [each for known in sources.CONTENTS.values() for each in known.values()]
    assert len(set(contents)) == len(contents)


def test_without_a_folder_the_files_are_downloaded_once_into_the_cache(
    published: Any, empty_cache: Path
) -> None:
    told: list[str] = []
    dataset = load("ptb", progress=lambda name, done, total: told.append(name))
    expected = ptb.sequences(TEXTS["ptb.train.txt"], Path("x"))
    assert dataset.fingerprint == fingerprint(expected.inputs, expected.targets)
    assert sorted(set(told)) == sorted(TEXTS)
    assert load("ptb", download=False).fingerprint == dataset.fingerprint
    assert len(published.ranges) == 3
    assert (empty_cache / "ptb" / "ptb.train.txt").exists()


def test_a_spoiled_file_in_the_cache_says_to_delete_it(published: Any, empty_cache: Path) -> None:
    load("ptb")
    path = empty_cache / "ptb" / "ptb.test.txt"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match=rf"{path}: .*Delete the file and run again"):
        load("ptb")
    path.unlink()
    load("ptb")


def test_without_download_an_empty_cache_is_an_error(published: Any, empty_cache: Path) -> None:
    with pytest.raises(DataError, match=r"lacks ptb\.train\.txt\) and downloading was not allowed"):
        load("ptb", download=False)
    assert published.ranges == []


def test_a_failed_download_names_the_data_set_and_the_way_out(
    published: Any, empty_cache: Path
) -> None:
    published.script = ["404"]
    with pytest.raises(DataError, match=r"(?s)ptb: ptb\.train\.txt.*404.*DENIABLE_DATA"):
        load("ptb")


def test_the_argument_goes_before_the_environment_and_both_before_the_cache(
    published: Any, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    for folder in (named / "ptb", other / "ptb"):
        folder.mkdir(parents=True)
        for name in TEXTS:
            (folder / name).write_bytes(TEXTS["ptb.train.txt"])
    monkeypatch.setenv("DENIABLE_DATA", str(other))

    def place(data_dir: Path | None) -> Path:
        return locate.locate("ptb", data_dir, download=True, progress=None).folder

    assert place(named) == named / "ptb"
    assert place(None) == other / "ptb"
    assert load("ptb").name == "ptb"
    assert published.ranges == []


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "ptb"])
def test_a_named_folder_is_never_downloaded_into(
    published: Any, empty_cache: Path, tmp_path: Path, name: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"none of its files are there.*\s+http") as error:
        load(name, empty)
    assert str(empty / name) in str(error.value)
    assert list(empty.iterdir()) == []
    assert published.ranges == []


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load("mnist", tmp_path / "absent")
