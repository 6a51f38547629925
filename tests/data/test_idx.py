"""MNIST and Fashion-MNIST files: read, or refused by name."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from deniable.data import idx, load, sources, verify
from deniable.errors import DataError

SHAPES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def encode(values: npt.NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.tobytes()


def values(name: str, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Few bright pixels, so that compressing is quick."""
    shape = SHAPES[name]
    if len(shape) == 1:
        return (np.arange(shape[0]) * 7 + seed).astype(np.uint8) % 10
    pixels = np.zeros(shape, np.uint8)
    pixels[:, 3, 5] = np.arange(shape[0]) % 256
    pixels[seed, 0, 0] = 255
    return pixels


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {name: encode(values(name)) for name in SHAPES}


@pytest.fixture
def folder(contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with four files whose content is taken as the published one."""
    hashes = {name: hashlib.sha256(each).hexdigest() for name, each in contents.items()}
    monkeypatch.setitem(sources.CONTENTS, "mnist", hashes)
    (tmp_path / "mnist").mkdir()
    for name, content in contents.items():
        path = tmp_path / "mnist" / f"{name}.gz"
        path.write_bytes(gzip.compress(content, 1))
    return tmp_path


def test_the_images_and_labels_are_what_the_files_hold(folder: Path) -> None:
    mnist = load("mnist", folder)
    assert mnist.name == "mnist"
    assert mnist.classes == 10
    for arrays, prefix in ((mnist.train, "train"), (mnist.test, "t10k")):
        pixels = values(f"{prefix}-images-idx3-ubyte")
        assert arrays.inputs.dtype == np.float32
        assert arrays.inputs.shape == (len(pixels), 1, 28, 28)
        np.testing.assert_array_equal(arrays.inputs[:, 0], pixels / np.float32(255))
        assert arrays.inputs.max() == 1
        assert arrays.targets.dtype == np.int64
        np.testing.assert_array_equal(arrays.targets, values(f"{prefix}-labels-idx1-ubyte"))


def test_uncompressed_files_and_the_folder_itself_are_read_too(
    folder: Path, contents: dict[str, bytes]
) -> None:
    for name, content in contents.items():
        (folder / "mnist" / f"{name}.gz").unlink()
        (folder / "mnist" / name).write_bytes(content)
    assert load("mnist", folder).fingerprint == load("mnist", folder / "mnist").fingerprint


def test_a_missing_file_is_named_with_its_address(folder: Path) -> None:
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read.*https://"):
        load("mnist", folder)


@pytest.mark.parametrize("kept", [0.5, 0.9999])
def test_a_truncated_file_is_refused_by_name(folder: Path, kept: float) -> None:
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: .*cut off.*Replace it"):
        load("mnist", folder)


def test_an_uncompressed_truncated_file_is_refused_by_name(
    folder: Path, contents: dict[str, bytes]
) -> None:
    path = folder / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(contents[path.stem][:-1])
    with pytest.raises(DataError, match=r"t10k.*7,840,016 bytes.*7,840,015: it was cut off"):
        load("mnist", folder)


def test_a_corrupted_compressed_file_is_refused_by_name(folder: Path) -> None:
    path = folder / "mnist" / "train-labels-idx1-ubyte.gz"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: .*corrupted"):
        load("mnist", folder)


def test_one_changed_pixel_is_noticed(folder: Path, contents: dict[str, bytes]) -> None:
    path = folder / "mnist" / "t10k-images-idx3-ubyte.gz"
    changed = bytearray(contents[path.stem])
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: .*SHA-256.*corrupted"):
        load("mnist", folder)


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "images.*got training labels"),
        ("train-labels-idx1-ubyte", "train-images-idx3-ubyte", "labels.*got training images"),
        ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "training images.*got test images"),
        ("t10k-labels-idx1-ubyte", "train-labels-idx1-ubyte", "test labels.*got training labels"),
    ],
)
def test_a_file_under_another_ones_name_is_refused(
    folder: Path, name: str, other: str, said: str
) -> None:
    source, target = folder / "mnist" / f"{other}.gz", folder / "mnist" / f"{name}.gz"
    target.write_bytes(source.read_bytes())
    with pytest.raises(DataError, match=rf"{name}\.gz: .*{said}"):
        load("mnist", folder)


def test_a_file_of_the_other_data_set_is_recognised(
    contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST and Fashion-MNIST have the same file names and shapes: only the content tells."""
    name = "t10k-labels-idx1-ubyte"
    fashion = {name: hashlib.sha256(contents[name]).hexdigest()}
    monkeypatch.setitem(sources.CONTENTS, "fashion-mnist", fashion)
    with pytest.raises(DataError, match=rf"{name} of mnist, but it holds {name} of fashion-mnist"):
        verify.check_content(contents[name], "mnist", name, Path("labels.gz"))


def test_a_page_saved_in_place_of_the_file_is_refused(folder: Path) -> None:
    (folder / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(DataError, match=r"<!DOCTYPE.*no IDX file"):
        load("mnist", folder)


def test_labels_above_9_are_refused(folder: Path) -> None:
    labels = values("t10k-labels-idx1-ubyte")
    labels[17] = 10
    path = folder / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(encode(labels)))
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.9, got 10"):
        load("mnist", folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0", b"\0\0\x08\x01", b"\0\0\x08\x09" + bytes(64), b"\0\0\x0d\x01\0\0\0\x02ab"],
)
def test_no_header_crashes_the_parser(content: bytes) -> None:
    with pytest.raises(DataError, match="no IDX file"):
        idx.parse(content, Path("x"), (2,))


def test_something_added_at_the_end_is_refused() -> None:
    content = encode(np.zeros(2, np.uint8))
    assert idx.parse(content, Path("x"), (2,)).tolist() == [0, 0]
    with pytest.raises(DataError, match="something was added"):
        idx.parse(content + b"\0", Path("x"), (2,))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files_are_read(real_data: Path, name: str) -> None:
    dataset = load(name, real_data)
    assert dataset.train.inputs.shape == (60_000, 1, 28, 28)
    assert dataset.test.inputs.shape == (10_000, 1, 28, 28)
    assert set(np.unique(dataset.train.targets)) == set(range(10))
    first = {"mnist": [5, 0, 4, 1, 9], "fashion-mnist": [9, 0, 0, 3, 0]}
    assert dataset.train.targets[:5].tolist() == first[name]
