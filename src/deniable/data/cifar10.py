"""CIFAR-10, the binary version: six files, or the archive that they come in.

A file holds 10,000 records of 3,073 bytes: the label, then 1,024 red, green and blue values each,
row by row (Krizhevsky, 2009, the data set's page).
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from deniable.data.dataset import Arrays
from deniable.data.verify import BadFileError, check_content, read_content

ARCHIVE = "cifar-10-binary.tar.gz"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
_ROWS = 10_000
_RECORD = 1 + 3 * 32 * 32


def read(folder: Path) -> tuple[Arrays, Arrays]:
    """Train and test arrays: 50,000 and 10,000 images of shape (3, 32, 32) in [0, 1].

    The archive is read in place when the folder holds no `.bin` file.

    Raises:
        BadFileError: a file is missing, cut off, swapped with another or corrupted.
    """
    names = (*TRAIN_FILES, TEST_FILE)
    archive = folder / ARCHIVE
    unpacked = any((folder / name).exists() for name in names)
    contents = _from_folder(folder) if unpacked or not archive.exists() else _from_archive(archive)
    images = np.empty((len(names) * _ROWS, 3, 32, 32), np.float32)
    labels = np.empty(len(names) * _ROWS, np.int64)
    missing = set(names)
    for name, path, content in contents:
        missing.discard(name)
        records = parse(content, name, path)
        check_content(content, "cifar10", name, path)
        rows = slice(names.index(name) * _ROWS, (names.index(name) + 1) * _ROWS)
        labels[rows] = records[:, 0]
        pixels = records[:, 1:].reshape(-1, 3, 32, 32)
        np.divide(pixels, np.float32(255), out=images[rows], dtype=np.float32)
    if missing:
        raise BadFileError(archive, f"it lacks {', '.join(sorted(missing))}.")
    train = len(TRAIN_FILES) * _ROWS
    return Arrays(images[:train], labels[:train]), Arrays(images[train:], labels[train:])


def parse(content: bytes, name: str, path: Path) -> npt.NDArray[np.uint8]:
    """The records of one file, shape (10000, 3073).

    Raises:
        BadFileError: the length is another, or a label is above 9; in the test file, a class has
            not its 1,000 images.
    """
    expected = _ROWS * _RECORD
    if len(content) != expected:
        what = "it was cut off" if len(content) < expected else "something was added"
        raise BadFileError(
            path, f"{name} must have {expected:,} bytes, got {len(content):,}: {what}."
        )
    records = np.frombuffer(content, np.uint8).reshape(_ROWS, _RECORD)
    counts = np.bincount(records[:, 0])
    if len(counts) > 10:
        raise BadFileError(path, f"labels of {name} must lie in 0..9, got {len(counts) - 1}.")
    if name == TEST_FILE and counts.tolist() != [_ROWS // 10] * 10:
        raise BadFileError(
            path,
            f"{name} must hold 1,000 images of each class, got {counts.tolist()}: "
            "it is another file.",
        )
    return records


def _from_folder(folder: Path) -> Iterator[tuple[str, Path, bytes]]:
    for name in (*TRAIN_FILES, TEST_FILE):
        yield name, folder / name, read_content(folder / name)


def _from_archive(archive: Path) -> Iterator[tuple[str, Path, bytes]]:
    """Each of the six files in the archive, without unpacking anything to disk."""
    names = (*TRAIN_FILES, TEST_FILE)
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                name = PurePosixPath(member.name).name
                # A size is checked before reading: an archive may promise more than fits memory.
                if name in names and member.isfile() and member.size <= _ROWS * _RECORD:
                    file = members.extractfile(member)
                    if file is not None:
                        yield name, archive, file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as problem:
        raise BadFileError(
            archive, f"the archive is cut off or corrupted ({problem})."
        ) from problem
