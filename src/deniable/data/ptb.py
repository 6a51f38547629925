"""Penn Treebank text, as preprocessed by Mikolov, as sequences of characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deniable.data.dataset import Arrays
from deniable.data.sources import FILES
from deniable.data.verify import BadFileError, check_content, read_content

LENGTH = 80


def read(folder: Path) -> tuple[Arrays, Arrays]:
    """Train and test arrays of shape (N, 80): characters, and the character after each.

    The text is cut every 80 characters, across sentences, and the rest that fills no sequence is
    dropped. One example, and so what a guarantee covers by default, is one such sequence.

    Raises:
        BadFileError: a file is missing, cut off, swapped with another or corrupted.
    """
    return _file(folder, "ptb.train.txt"), _file(folder, "ptb.test.txt")


def _file(folder: Path, name: str) -> Arrays:
    path = folder / name
    content = read_content(path)
    size = next(file.size for file in FILES["ptb"] if file.name == name)
    if len(content) < size:
        raise BadFileError(
            path, f"expected {size:,} bytes of text, got {len(content):,}: it was cut off."
        )
    check_content(content, "ptb", name, path)
    return sequences(content, path)


def sequences(text: bytes, path: Path) -> Arrays:
    """The text cut into sequences of 80 bytes, with the next byte as each one's target.

    Raises:
        BadFileError: the text is shorter than one sequence and its last target.

    >>> arrays = sequences(bytes(range(170)), Path("text"))
    >>> arrays.inputs.shape, arrays.inputs[1, 0].item(), arrays.targets[1, 0].item()
    ((2, 80), 80, 81)
    """
    count = (len(text) - 1) // LENGTH
    if count < 1:
        raise BadFileError(
            path, f"a text must have at least {LENGTH + 1} characters, got {len(text)}."
        )
    characters = np.frombuffer(text, np.uint8).astype(np.int64)
    end = count * LENGTH
    return Arrays(
        characters[:end].reshape(count, LENGTH), characters[1 : end + 1].reshape(count, LENGTH)
    )
