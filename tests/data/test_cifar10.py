"""CIFAR-10, unpacked or in its archive: read, or refused by name."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from deniable.data import cifar10, load, sources
from deniable.errors import DataError

NAMES = (*cifar10.TRAIN_FILES, cifar10.TEST_FILE)


def records(number: int) -> npt.NDArray[np.uint8]:
    """10,000 records, 1,000 of each class, different for each file."""
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = (np.arange(10_000) + number) % 10
    rows[:, 1] = 255  # red, first row, first column
    rows[:, 1 + 1024 + 32] = 10 + number  # green, second row, first column
    return rows


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(records(number).tobytes())
    (folder / "readme.html").write_text("about")
    return folder


@pytest.fixture(scope="module")
def archive(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / cifar10.ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=1) as members:
        members.add(original, "cifar-10-batches-bin")
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of links to the originals, taken as the published files."""
    hashes = {
        name: hashlib.sha256((original / name).read_bytes()).hexdigest()
        for name in cifar10.TRAIN_FILES
    }
    monkeypatch.setitem(sources.CONTENTS, "cifar10", hashes)
    inner = tmp_path / "cifar10" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for name in NAMES:
        (inner / name).symlink_to(original / name)
    return inner


def put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("form", ["unpacked", "archive"])
def test_the_images_and_labels_are_what_the_files_hold(
    folder: Path, archive: Path, tmp_path: Path, form: str
) -> None:
    root = tmp_path
    if form == "archive":
        root = tmp_path / "packed"
        (root / "cifar10").mkdir(parents=True)
        (root / "cifar10" / cifar10.ARCHIVE).symlink_to(archive)
    dataset = load("cifar10", root)
    assert dataset.train.inputs.shape == (50_000, 3, 32, 32)
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.train.targets.dtype == np.int64
    assert dataset.test.inputs.shape == (10_000, 3, 32, 32)
    assert np.all(dataset.train.inputs[:, 0, 0, 0] == 1)
    green = np.arange(10, 15, dtype=np.float32) / np.float32(255)
    np.testing.assert_array_equal(dataset.train.inputs[::10_000, 1, 1, 0], green)
    assert dataset.train.targets[[0, 1, 10_000, 49_999]].tolist() == [0, 1, 1, 3]
    assert dataset.test.targets[0] == 5
    if form == "archive":  # read in place: nothing is unpacked beside it
        assert [path.name for path in (root / "cifar10").iterdir()] == [cifar10.ARCHIVE]


@pytest.mark.parametrize("kept", [0.1, 0.999])
def test_an_archive_that_was_cut_off_is_refused_by_name(
    archive: Path, tmp_path: Path, folder: Path, kept: float
) -> None:
    raw = archive.read_bytes()
    for path in folder.iterdir():
        path.unlink()
    (tmp_path / cifar10.ARCHIVE).write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(DataError, match=r"binary\.tar\.gz: .*(cut off|lacks).*Replace it"):
        load("cifar10", tmp_path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("nothing")
    with tarfile.open(tmp_path / cifar10.ARCHIVE, "w:gz") as members:
        members.add(tmp_path / "note.txt", "note.txt")
    with pytest.raises(DataError, match=r"it lacks data_batch_1\.bin, .*test_batch\.bin"):
        load("cifar10", tmp_path)


def test_a_truncated_file_is_refused_by_name(folder: Path) -> None:
    put(folder / "data_batch_3.bin", records(2).tobytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin.*30,729,999: it was cut off.*https:"):
        load("cifar10", folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "data_batch_5.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_5\.bin: cannot be read"):
        load("cifar10", folder)


def test_two_swapped_batches_are_recognised(folder: Path) -> None:
    put(folder / "data_batch_2.bin", records(2).tobytes())
    with pytest.raises(DataError, match=r"expected data_batch_2.*holds data_batch_3.*swapped"):
        load("cifar10", folder)


def test_a_training_batch_in_place_of_the_test_batch_is_recognised(folder: Path) -> None:
    put(folder / "test_batch.bin", records(0).tobytes())
    with pytest.raises(DataError, match=r"expected test_batch.*holds data_batch_1.*swapped"):
        load("cifar10", folder)


def test_a_changed_training_byte_is_noticed(folder: Path) -> None:
    changed = records(0)
    changed[-1, -1] = 1
    put(folder / "data_batch_1.bin", changed.tobytes())
    with pytest.raises(DataError, match=r"data_batch_1\.bin: .*SHA-256.*corrupted"):
        load("cifar10", folder)


def test_a_label_above_9_is_refused() -> None:
    rows = records(0)
    rows[5, 0] = 77
    with pytest.raises(DataError, match=r"0\.\.9, got 77"):
        cifar10.parse(rows.tobytes(), "data_batch_1.bin", Path("x"))


def test_a_test_batch_without_1000_images_of_each_class_is_refused() -> None:
    rows = records(5)
    assert cifar10.parse(rows.tobytes(), "test_batch.bin", Path("x")).shape == (10_000, 3073)
    rows[0, 0] = 9
    with pytest.raises(DataError, match="1,000 images of each class"):
        cifar10.parse(rows.tobytes(), "test_batch.bin", Path("x"))


def test_the_pickled_python_version_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(DataError, match=r"pickled and not read.*\s.*cifar-10-binary"):
        load("cifar10", tmp_path)


def test_the_real_files_are_read(real_data: Path) -> None:
    dataset = load("cifar10", real_data)
    assert dataset.train.targets[:5].tolist() == [6, 9, 9, 4, 1]
    assert np.bincount(dataset.train.targets).tolist() == [5_000] * 10
    assert dataset.test.targets[:5].tolist() == [3, 8, 8, 0, 6]
