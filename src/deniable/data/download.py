"""A download that ends with the published bytes or with an error in words, and can be continued.

What has arrived is kept in `NAME.part` beside the target; the next attempt, or the next run, asks
for the rest only. The target appears under its own name once its SHA-256 is right, in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from deniable.data.sources import SourceFile
from deniable.errors import DataError

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes so far, and its bytes in all where known."""

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Patience:
    """How long a download waits, and how often it tries again.

    Attributes:
        timeout: seconds without a single byte before a connection is given up.
        slowest: bytes per second, averaged over `window` seconds, below which it is given up.
        window: seconds.
        attempts: connections to one address, each continuing the one before.
        pause: seconds before the second attempt; doubled before each further one.
    """

    timeout: float = 30.0
    slowest: float = 2_000.0
    window: float = 30.0
    attempts: int = 5
    pause: float = 1.0


class _AttemptError(Exception):
    """Another attempt at the same address may succeed."""


class _AddressError(Exception):
    """Another attempt at the same address would fare no better."""


def fetch(
    file: SourceFile,
    folder: Path,
    *,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download a published file into a folder, unless it is there, and return its path.

    The addresses are tried in order. Several processes may ask for the same file: one downloads,
    the others wait for it.

    Raises:
        DataError: no address delivered the published bytes; what each one answered is listed. Or
            the folder cannot be written.
    """
    target = folder / file.name
    part = folder / f"{file.name}.part"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("ab")
    with lock, _locked(lock):
        if target.exists():
            return target
        problems: list[str] = []
        for address in file.addresses:
            with _writing(folder), part.open("ab+") as stream:
                try:
                    _fetch_from(address, file, stream, progress, patience or Patience())
                except _AddressError as problem:
                    problems.append(f"  {address}: {problem}")
                    continue
                stream.flush()
                os.fsync(stream.fileno())
            with _writing(folder):
                part.replace(target)
            return target
        kept = part.stat().st_size
    raise DataError(
        "\n".join([f"{file.name} could not be downloaded.", *problems])
        + (f"\nThe first {kept:,} bytes are kept; running again continues there." if kept else "")
        + f"\nTry again later, or get the file by other means and put it into {folder}."
    )


def _fetch_from(
    address: str,
    file: SourceFile,
    stream: BufferedRandom,
    progress: Progress | None,
    patience: Patience,
) -> None:
    """Complete `stream` from one address and check it."""
    last = ""
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        start = stream.seek(0, os.SEEK_END)
        try:
            fresh = _receive(address, file, stream, progress, patience)
        except _AttemptError as problem:
            last = str(problem)
            continue
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest == file.sha256:
            return
        stream.truncate(0)
        last = f"its SHA-256 is {digest}, expected {file.sha256}: these are other bytes"
        # The fault may lie in what an earlier attempt had left, unless this one began anew.
        if fresh or not start:
            raise _AddressError(last)
    raise _AddressError(f"given up after {patience.attempts} attempts; at the last, {last}")


def _receive(
    address: str,
    file: SourceFile,
    stream: BufferedRandom,
    progress: Progress | None,
    patience: Patience,
) -> bool:
    """Append what is missing to `stream`; whether it had to begin anew."""
    start = stream.seek(0, os.SEEK_END)
    if start == file.size:
        return False
    if start > file.size:
        start = stream.truncate(0)
    headers = {"User-Agent": "deniable", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=patience.timeout) as response:
            continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
            if continued and not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            ):
                raise _AddressError("the server sent another part of the file than was asked for")
            if not continued:
                start = stream.truncate(0)
            announced = response.headers.get("Content-Length")
            if announced is not None and announced != str(file.size - start):
                raise _AddressError(
                    f"the server announces {announced} bytes, expected {file.size - start}: "
                    "it is another file, or a page in its place"
                )
            for done in _append(response, file, stream, start, patience):
                if progress is not None:
                    progress(file.name, done, file.size)
            return not continued
    except urllib.error.HTTPError as problem:
        answer = f"the server answered {problem.code} {problem.reason}"
        if problem.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            stream.truncate(0)
        elif not (problem.code in (408, 425, 429) or problem.code >= 500):
            raise _AddressError(answer) from problem
        raise _AttemptError(answer) from problem
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, TimeoutError | ConnectionResetError):
            raise _AttemptError(f"no connection ({problem.reason})") from problem
        raise _AddressError(f"no connection ({problem.reason})") from problem
    except TimeoutError as problem:
        raise _AttemptError(f"nothing came for {patience.timeout:g} seconds") from problem
    except (OSError, http.client.HTTPException) as problem:
        raise _AttemptError(f"the connection broke ({problem!r})") from problem


def _append(
    response: http.client.HTTPResponse,
    file: SourceFile,
    stream: BufferedRandom,
    done: int,
    patience: Patience,
) -> Iterator[int]:
    """Copy to the end of `stream`, stating after each block how many bytes are there."""
    since, before = time.monotonic(), done
    # read1 returns what has come, so that a trickle is seen as one. No more than the published
    # size is ever taken, whatever the server goes on sending.
    while done < file.size and (block := response.read1(min(_BLOCK, file.size - done))):
        with _writing(Path(stream.name)):
            stream.write(block)
        done += len(block)
        yield done
        elapsed = time.monotonic() - since
        if elapsed >= patience.window:
            rate = (done - before) / elapsed
            if not rate >= patience.slowest:
                raise _AttemptError(
                    f"the server is too slow: {rate:.0f} bytes per second, {done:,} of "
                    f"{file.size:,} bytes so far"
                )
            since, before = time.monotonic(), done
    if done < file.size:
        raise _AttemptError(f"the connection was cut off at {done:,} of {file.size:,} bytes")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failed write (no space, no permission) into an error in words."""
    try:
        yield
    except OSError as problem:
        raise DataError(
            f"{path} cannot be written ({problem.strerror or problem}). Free or permit it, or set "
            "XDG_CACHE_HOME to a folder with room."
        ) from problem


@contextlib.contextmanager
def _locked(lock: BinaryIO) -> Iterator[None]:
    """Let one process at a time through, where the system has advisory locks."""
    try:
        import fcntl
    except ImportError:  # Windows: two first runs at once may then spoil each other's download
        yield
        return
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
