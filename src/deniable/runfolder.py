"""The folder of one run: what it holds, and files that are whole whenever they can be read.

```
OUT/
  run.json             settings, environment, data fingerprint, plan, history, results
  ledger.sqlite        what was released, unless run.json names a ledger of the data set elsewhere
  claim.json           what the ledger proves of the run, once it is complete; may be published
  model.safetensors    the trained model, once the run is complete
  canaries.safetensors coins and scores of an audited run, once it is complete
  audit.json           what audits found
  checkpoint/          generator states and un-noised sums: private, removed when the run completes
  report.html          the page that a person reads
  worker-0/ ...        of workers that add noise themselves: their own ledgers and claims
```

Importable without torch.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from deniable.errors import SettingsError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FIELDS = {"run_id": str, "settings": dict, "plan": dict, "data": dict, "environment": dict}
"""What who goes on from a run.json needs of it, and of which type."""

_HELD: dict[Path, int] = {}
"""The folders that this process trains in, and the handles that say so."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run.

    >>> RunFolder(Path("runs/digits")).ledger.as_posix()
    'runs/digits/ledger.sqlite'
    """

    path: Path

    @property
    def run_json(self) -> Path:
        """Settings, environment, history and results."""
        return self.path / "run.json"

    @property
    def ledger(self) -> Path:
        """What was released, before it took effect."""
        return self.path / "ledger.sqlite"

    @property
    def claim(self) -> Path:
        """What the ledger proves of a complete run."""
        return self.path / "claim.json"

    def ledger_of(self, run: Mapping[str, Any]) -> Path:
        """Where the releases of a run are recorded, by its run.json.

        >>> RunFolder(Path("runs/a")).ledger_of({"ledger": "/data/people.ledger"}).as_posix()
        '/data/people.ledger'
        """
        named = run.get("ledger")
        return Path(named) if isinstance(named, str) else self.ledger

    @property
    def model(self) -> Path:
        """The weights of a complete run."""
        return self.path / "model.safetensors"

    @property
    def canaries(self) -> Path:
        """Coins and scores of an audited run, once it is complete."""
        return self.path / "canaries.safetensors"

    @property
    def audit(self) -> Path:
        """What audits found."""
        return self.path / "audit.json"

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished run keeps what it needs to go on; readable by its owner alone."""
        return self.path / "checkpoint"

    def worker(self, number: int) -> Path:
        """Where a worker, counted from 0, keeps what is its own."""
        return self.path / f"worker-{number}"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.path / "report.html"

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder for a new run.

        Args:
            overwrite: a run that lives there is removed first, and nothing else in the folder.

        Raises:
            SettingsError: a run lives there already, another process trains there, or the path
                cannot be a folder.
        """
        if self.path.is_dir():
            self.hold()
        if overwrite:
            self.clear()
        if self.run_json.exists():
            raise SettingsError(
                f"{self.path} holds a run already. Go on with it by `deniable train --resume "
                f"{self.path}`, give another folder with --out, or replace it, its ledger "
                "included, with --overwrite."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise SettingsError(
                f"A run folder cannot be made at {self.path}: {problem}. Give another with --out."
            ) from problem
        self.hold()

    def hold(self) -> None:
        """Keep every other process from training here, as long as this one lives or `let_go`.

        Raises:
            SettingsError: another process does.
        """
        path = self.path.resolve()
        if fcntl is None or path in _HELD:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise SettingsError(
                f"Another process is training in {self.path}. Wait until it has ended, or stop it; "
                "or give another folder with --out."
            ) from None
        except OSError:  # a file system without locks
            os.close(handle)
            return
        _HELD[path] = handle

    def let_go(self) -> None:
        """Let others train here."""
        handle = _HELD.pop(self.path.resolve(), None)
        if handle is not None:
            os.close(handle)

    def clear(self) -> None:
        """Delete what a run wrote here, and nothing else.

        Unless a ledger elsewhere has them, its releases are then on record nowhere.
        """
        self.remove_checkpoint()
        written = (self.run_json, self.ledger, self.claim, self.model, self.canaries, self.audit)
        for path in (*written, self.report):
            path.unlink(missing_ok=True)
        for pattern in ("ledger.sqlite-*", "worker-*/ledger.sqlite*", "worker-*/claim.json"):
            for left in self.path.glob(pattern):
                left.unlink()
        for folder in self.path.glob("worker-*"):
            RunFolder(folder).remove_empty()

    def remove_empty(self) -> None:
        """Take the folder away again if nothing was written to it."""
        self.let_go()
        with suppress(OSError):
            self.path.rmdir()

    def remove_checkpoint(self) -> None:
        """Delete the checkpoint with its secrets; nothing happens where there is none."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def write(self, run: dict[str, Any]) -> None:
        """Replace run.json, whole."""
        write_json(self.run_json, run)

    def read(self, *needed: str) -> dict[str, Any]:
        """What run.json holds.

        Args:
            needed: the fields that must be there, of `run_id`, `settings`, `plan`, `data` and
                `environment`.

        Raises:
            SettingsError: there is no run here, or run.json is not what this program wrote.
        """
        try:
            run = json.loads(self.run_json.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise SettingsError(
                f"{self.path} holds no run: {self.run_json.name} is missing. Give the folder that "
                "`deniable train` named with --out."
            ) from None
        except (OSError, ValueError) as problem:
            mend = "Bring the file back from a copy."
            if self.ledger.exists():
                mend += f" What was released is in {self.ledger}: `deniable spend` reads that, too."
            raise SettingsError(f"{self.run_json} cannot be read: {problem}. {mend}") from problem
        if not isinstance(run, dict):
            raise SettingsError(
                f"{self.run_json} must hold a JSON object, got {type(run).__name__}."
            )
        lacking = [name for name in needed if not isinstance(run.get(name), _FIELDS[name])]
        if lacking:
            raise SettingsError(
                f"{self.run_json} lacks {', '.join(lacking)}, or has it otherwise than `deniable "
                "train` writes it. Bring the file back from a copy, or train again; what the run "
                "released stays in its ledger."
            )
        return run

    def read_complete(self, *needed: str) -> dict[str, Any]:
        """The same, of a run that is complete and has its model.

        Raises:
            SettingsError: as in `read`, or the run is not complete.
        """
        run = self.read(*needed)
        if run.get("status") != "complete" or not self.model.exists():
            raise SettingsError(
                f"The run in {self.path} must be complete, with its {self.model.name}. Go on with "
                f"it by `deniable train --resume {self.path}`."
            )
        return run


def ledger_at(path: Path) -> Path:
    """The ledger that a path stands for: itself, or that of the run whose folder it is.

    >>> ledger_at(Path("data/people.ledger")).as_posix()
    'data/people.ledger'
    """
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    return folder.ledger_of(folder.read()) if folder.run_json.exists() else folder.ledger


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file so that a reader, or a crash, meets the whole old or the whole new one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(Path(folder) / "run.json", {"status": "running"})
    ...     (Path(folder) / "run.json").read_text().split()
    ['{', '"status":', '"running"', '}']
    """
    with replaced(path) as file:
        file.write((json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def replaced(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at once, when whole and on disk.

    Args:
        path: the file to replace or create.
        mode: the permissions that the file has from its first byte on (less the umask).

    Raises:
        SettingsError: `path` is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder: nothing was written. Name a file in it.")
    if not path.parent.is_dir():
        raise SettingsError(
            f"{path} was not written: there is no folder {path.parent}. Make it, or name another."
        )
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable; not every system can open one."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
