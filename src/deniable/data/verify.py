"""Reading a file and refusing it, by name, when it is not the one that was asked for."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from deniable.data.sources import CONTENTS
from deniable.errors import DataError


class BadFileError(DataError):
    """A file that is not what its name says; the loader adds how to mend it."""

    def __init__(self, path: Path, problem: str) -> None:
        """The file, and what was expected of it and what came, as one sentence."""
        super().__init__(f"{path}: {problem}")
        self.path = path


def read_content(path: Path) -> bytes:
    """The bytes of a file, decompressed if they are gzip, whatever the file is called.

    Raises:
        BadFileError: the file cannot be read, is cut off, or is corrupted.
    """
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise BadFileError(path, f"cannot be read ({problem.strerror}).") from problem
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError as problem:
        raise BadFileError(
            path, f"the compressed data end too early, after {len(raw):,} bytes: it was cut off."
        ) from problem
    except (gzip.BadGzipFile, zlib.error) as problem:
        raise BadFileError(path, f"the compressed data are corrupted ({problem}).") from problem


def check_content(content: bytes, dataset: str, name: str, path: Path) -> None:
    """Refuse content that is not the published one.

    Args:
        content: the decompressed bytes.
        dataset: the data set that is being read.
        name: the published, decompressed file that is expected, a key of `CONTENTS[dataset]`.
        path: the file that the content came from.

    Raises:
        BadFileError: the content is another known file's (two were swapped), or its SHA-256 is
            not the published one (it was corrupted). Where no SHA-256 is published, only the
            first is checked.
    """
    found = hashlib.sha256(content).hexdigest()
    expected = CONTENTS[dataset].get(name)
    if found == expected:
        return
    for other, files in CONTENTS.items():
        for other_name, known in files.items():
            if found == known:
                raise BadFileError(
                    path,
                    f"expected {name} of {dataset}, but it holds {other_name} of {other}: "
                    "files were swapped.",
                )
    if expected is not None:
        raise BadFileError(
            path,
            f"its content has SHA-256 {found}, expected {expected}: "
            f"it was corrupted, or is not {name} of {dataset}.",
        )
