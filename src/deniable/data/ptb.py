"""Penn Treebank text, as preprocessed by Mikolov, as sequences of characters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deniable.data.dataset import Arrays
from deniable.data.sources import FILES
from deniable.data.verify import BadFileError, check_content, read_content

LENGTH = 80
START = 0  # stands before the first character of every sequence; no text holds it


def read(folder: Path) -> tuple[Arrays, Arrays, Arrays]:
    """Train, test and validation arrays: see `sequences`. One example is one sequence.

    Raises:
        BadFileError: a file is missing, cut off, swapped with another or corrupted.
    """
    train, test, validation = (
        _file(folder, f"ptb.{part}.txt") for part in ("train", "test", "valid")
    )
    return train, test, validation


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


def sequences(text: bytes, path: Path = Path("the text")) -> Arrays:
    """The text cut every 80 characters, across sentences, each to be predicted from those before.

    The inputs of a sequence are the character `START` and its first 79 characters, the targets are
    its 80 characters. So every character is predicted once, from the earlier ones of its own
    sequence alone, and no two sequences share one. The rest that fills no sequence is dropped.

    Returns:
        Inputs and targets of shape (N, 80), whole numbers below 256.

    Raises:
        BadFileError: the text is shorter than one sequence.

    >>> arrays = sequences(bytes(range(1, 171)))
    >>> arrays.inputs.shape, arrays.inputs[1, :3].tolist(), arrays.targets[1, :3].tolist()
    ((2, 80), [0, 81, 82], [81, 82, 83])
    """
    count = len(text) // LENGTH
    if count < 1:
        raise BadFileError(path, f"a text must have at least {LENGTH} characters, got {len(text)}.")
    characters = np.frombuffer(text, np.uint8)[: count * LENGTH]
    targets = characters.astype(np.int64).reshape(count, LENGTH)
    inputs = np.full_like(targets, START)
    inputs[:, 1:] = targets[:, :-1]
    return Arrays(inputs, targets)


def text_of(characters: Iterable[int]) -> str:
    """Characters as a person reads them: a line break is shown, and what cannot be printed too.

    >>> text_of([0, 97, 10, 98])
    '·a⏎b'
    """
    named = {START: "·", 10: "⏎"}
    return "".join(
        named.get(int(each), chr(each) if 32 <= each < 127 else "�") for each in characters
    )
