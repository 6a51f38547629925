"""Which folder a data set is read from: the one that was named, or the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from deniable.data import cifar10
from deniable.data.download import Progress, fetch
from deniable.data.sources import FILES, SourceFile
from deniable.errors import DataError

_MEMBERS = {"cifar10": (*cifar10.TRAIN_FILES, cifar10.TEST_FILE)}

# Where in a named folder the files may lie. The second form is that of torchvision.
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "."),
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw", "."),
    "cifar10": ("cifar10/cifar-10-batches-bin", "cifar10", "cifar-10-batches-bin", "."),
    "ptb": ("ptb", "."),
}


@dataclass(frozen=True)
class Place:
    """The folder that holds a data set's files.

    Attributes:
        dataset: its name.
        folder: where the files are.
        named: whether the user named the folder; otherwise it is in deniable's own cache.
    """

    dataset: str
    folder: Path
    named: bool

    def mend(self, path: Path) -> str:
        """What to do about a bad file, in one sentence."""
        if not self.named:
            return "Delete the file and run again: it will be downloaded anew."
        source = _source(self.dataset, path)
        return (
            f"Replace it with the original, {source.addresses[0]}, or name no folder "
            "(data_dir, DENIABLE_DATA) to download a verified copy."
        )


def locate(
    dataset: str, data_dir: Path | None, *, download: bool, progress: Progress | None
) -> Place:
    """The folder of a data set: in `data_dir`, else in DENIABLE_DATA, else in the cache.

    Nothing is ever downloaded into a folder that the user named.

    Raises:
        DataError: none of its files are there, or a download failed.
    """
    root = data_dir or _folder_from("DENIABLE_DATA")
    if root is not None:
        return Place(dataset, _find(dataset, root.expanduser()), named=True)
    folder = cache() / dataset
    missing = [file for file in FILES[dataset] if not (folder / file.name).exists()]
    if missing and not download:
        raise DataError(
            f"{dataset} is not in the cache ({folder} lacks {missing[0].name}) and downloading "
            "was not allowed. Allow it, or name the folder that holds the official files "
            "(data_dir, DENIABLE_DATA)."
        )
    for file in missing:
        try:
            fetch(file, folder, progress=progress)
        except DataError as problem:
            raise DataError(
                f"{dataset}: {problem} Or name a folder that holds the official files "
                "(data_dir, DENIABLE_DATA)."
            ) from problem
    return Place(dataset, folder, named=False)


def cache() -> Path:
    """The folder that downloads are kept in: `deniable` under XDG_CACHE_HOME or `~/.cache`."""
    return (_folder_from("XDG_CACHE_HOME") or Path.home() / ".cache") / "deniable"


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else None


def _find(dataset: str, root: Path) -> Path:
    names = [file.name for file in FILES[dataset]]
    names += [name.removesuffix(".gz") for name in names]
    names += _MEMBERS.get(dataset, ())
    for each in _FOLDERS[dataset]:
        folder = root / each
        if any((folder / name).is_file() for name in names):
            return folder
    sources = "\n".join(f"  {file.addresses[0]}" for file in FILES[dataset])
    pickled = any((root / each / "cifar-10-batches-py").is_dir() for each in _FOLDERS[dataset])
    raise DataError(
        f"{dataset} was expected in {root / dataset}, but "
        + ("none of its files are there" if root.is_dir() else f"there is no folder {root}")
        + (
            "; cifar-10-batches-py is the Python version, which is pickled and not read."
            if pickled
            else "."
        )
        + f" Put the official files there:\n{sources}\nor name no folder (data_dir, "
        "DENIABLE_DATA) to download them."
    )


def _source(dataset: str, path: Path) -> SourceFile:
    """The published file that replaces a bad one: its own, or the archive that it comes in."""
    files = FILES[dataset]
    name = path.name.removesuffix(".gz")
    return next((file for file in files if file.name.removesuffix(".gz") == name), files[0])
