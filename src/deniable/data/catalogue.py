"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from deniable.data import cifar10, digits, idx, ptb
from deniable.data.dataset import Arrays, Dataset
from deniable.data.download import Progress
from deniable.data.fingerprint import fingerprint
from deniable.data.locate import locate
from deniable.data.verify import BadFileError
from deniable.errors import DataError

# Each returns training and test part, and the part for validation where there is one.
_READERS: dict[str, Callable[[Path], tuple[Arrays, ...]]] = {
    "mnist": partial(idx.read, "mnist"),
    "fashion-mnist": partial(idx.read, "fashion-mnist"),
    "cifar10": cifar10.read,
    "ptb": ptb.read,
}
_CLASSES = {"digits": 10, "mnist": 10, "fashion-mnist": 10, "cifar10": 10, "ptb": 256}
NAMES: tuple[str, ...] = tuple(_CLASSES)
_CLASS_NAMES = {
    "fashion-mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


def class_names(name: str) -> tuple[str, ...]:
    """What the classes of a data set are called, in order; a digit is called what it is.

    >>> class_names("fashion-mnist")[9], class_names("mnist")[9]
    ('ankle boot', '9')
    """
    return _CLASS_NAMES.get(name) or tuple(str(each) for each in range(_CLASSES[name]))


def load(
    name: str,
    data_dir: Path | None = None,
    *,
    download: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """The data set of that name, with its official split.

    | name | train | test | one input |
    | --- | --- | --- | --- |
    | `digits` | 1,437 | 360 | (1, 8, 8), comes with scikit-learn; a fixed split of 80% to 20% |
    | `mnist`, `fashion-mnist` | 60,000 | 10,000 | (1, 28, 28) |
    | `cifar10` | 50,000 | 10,000 | (3, 32, 32) |
    | `ptb` | 63,770 | 5,624 | 80 characters, one place later the targets; 4,997 for validation |

    Every file that is read is checked: its structure, and the SHA-256 of its content where one is
    published.

    Args:
        name: one of `NAMES`.
        data_dir: a folder with the official files, as `data_dir/NAME/...`. Without it, the folder
            that the environment variable DENIABLE_DATA names; without that, a cache
            (`~/.cache/deniable`).
        download: whether files that the cache lacks may be downloaded.
        progress: called during a download with a file's name, its bytes so far and in all.

    Raises:
        DataError: the name is not known; or a file is absent, cut off, swapped with another or
            corrupted, or could not be downloaded. The message names the file and the mend.

    >>> digits = load("digits")
    >>> digits.train.inputs.shape, digits.test.targets.shape, digits.classes
    ((1437, 1, 8, 8), (360,), 10)
    """
    if name not in NAMES:
        raise DataError(f"A data set must be one of {', '.join(NAMES)}; got {name!r}.")
    if name == "digits":
        parts: tuple[Arrays, ...] = digits.read()
    else:
        place = locate(name, data_dir, download=download, progress=progress)
        try:
            parts = _READERS[name](place.folder)
        except BadFileError as problem:
            raise DataError(f"{problem} {place.mend(problem.path)}") from problem
    train, test, *validation = parts
    identity = fingerprint(train.inputs, train.targets)
    return Dataset(name, train, test, _CLASSES[name], identity, *validation)
