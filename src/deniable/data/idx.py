"""MNIST and Fashion-MNIST: images and labels in IDX files.

An IDX file is a four-byte magic number (0, 0, 8 for unsigned bytes, the number of dimensions),
each dimension as a big-endian 32-bit integer, then the values (LeCun, Cortes & Burges, "The MNIST
database of handwritten digits", file formats).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deniable.data.dataset import Arrays
from deniable.data.verify import BadFileError, check_content, read_content

_KINDS: dict[tuple[int, ...], str] = {
    (60_000, 28, 28): "training images",
    (60_000,): "training labels",
    (10_000, 28, 28): "test images",
    (10_000,): "test labels",
}


def read(dataset: str, folder: Path) -> tuple[Arrays, Arrays]:
    """Train and test arrays of `mnist` or `fashion-mnist`: images of shape (1, 28, 28) in [0, 1].

    The four files may be compressed (`.gz`) or not.

    Raises:
        BadFileError: a file is missing, cut off, swapped with another or corrupted.
    """
    return _split(dataset, folder, "train", 60_000), _split(dataset, folder, "t10k", 10_000)


def _split(dataset: str, folder: Path, prefix: str, count: int) -> Arrays:
    pixels = _file(dataset, folder, f"{prefix}-images-idx3-ubyte", (count, 28, 28))
    labels = _file(dataset, folder, f"{prefix}-labels-idx1-ubyte", (count,))
    images = np.divide(pixels[:, None], np.float32(255), dtype=np.float32)
    return Arrays(images, labels.astype(np.int64))


def _file(dataset: str, folder: Path, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    compressed = folder / f"{name}.gz"
    path = compressed if compressed.exists() or not (folder / name).exists() else folder / name
    content = read_content(path)
    values = parse(content, path, shape)
    if len(shape) == 1 and not values.max() <= 9:
        raise BadFileError(path, f"labels must lie in 0..9, got {values.max()}.")
    check_content(content, dataset, name, path)
    return values


def parse(content: bytes, path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The values of one IDX file, of the shape that is expected.

    Args:
        content: the decompressed bytes.
        path: where they came from, for the error.
        shape: the dimensions that the file must state and hold.

    Raises:
        BadFileError: the magic number, the dimensions or the length is another.
    """
    expected = f"{_KINDS.get(shape, 'values')} of shape {shape}"
    magic = content[:4]
    dimensions = magic[3] if len(magic) == 4 and magic[:3] == b"\0\0\x08" else 0
    header = 4 + 4 * dimensions
    if not 1 <= dimensions <= 3 or len(content) < header:
        raise BadFileError(
            path,
            f"expected {expected}, got {len(content):,} bytes that begin {content[:16]!r}: "
            "no IDX file of bytes.",
        )
    found = tuple(int(each) for each in np.frombuffer(content[4:header], ">u4"))
    if found != shape:
        kind = f"{_KINDS[found]} of shape {found}" if found in _KINDS else f"shape {found}"
        raise BadFileError(path, f"expected {expected}, got {kind}: it is another file.")
    size = header + int(np.prod(shape))
    if len(content) != size:
        what = "it was cut off" if len(content) < size else "something was added"
        raise BadFileError(
            path, f"expected {size:,} bytes once decompressed, got {len(content):,}: {what}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
