"""What was found: one JSON file an experiment, one entry a point, saved as soon as it is there.

Importable without torch.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from deniable.errors import SettingsError
from deniable.papers.claims import Experiment, Paper
from deniable.papers.points import Point
from deniable.runfolder import write_json

Row = dict[str, Any]

_SAID = ("cpu", "threads", "torch", "deniable")
_TITLES = {
    "digits": "digits (a quick run)",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "ptb": "Penn Treebank",
    "sentences": "made-up sentences (a quick run)",
}


@dataclass
class Results:
    """The finished points of one experiment.

    Attributes:
        path: the JSON file.
        entries: by the point's name: `settings`, `result` and `made`.
        missing: the names of points that were asked for and are not there.
    """

    path: Path
    entries: dict[str, Row] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, paper: Paper, experiment: Experiment, folder: Path) -> Self:
        """What the folder of results holds; nothing, where the experiment was never run.

        Raises:
            SettingsError: the file is not what this program wrote.
        """
        path = folder / f"{paper.name}-{experiment.name}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, content["points"])
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise SettingsError(
                f"{path} must hold the results that `deniable reproduce` wrote: {problem!r}. "
                "Remove it, or give another folder with --out."
            ) from problem

    def has(self, name: str, point: Point) -> bool:
        """Whether the point was finished, under the settings that it has now."""
        entry = self.entries.get(name)
        return entry is not None and entry["settings"] == json.loads(json.dumps(point.to_json()))

    def of_points(self, points: Mapping[str, Point]) -> Self:
        """The entries of these points alone, without those that were run under other settings."""
        kept = {name: self.entries[name] for name in points if self.has(name, points[name])}
        return type(self)(self.path, kept, tuple(name for name in points if name not in kept))

    def add(self, name: str, point: Point, result: Row, command: str) -> None:
        """Keep a finished point: the file holds it when this returns."""
        self.keep(
            name,
            {
                "settings": point.to_json(),
                "result": result,
                "made": {"command": command} | machine(),
            },
        )

    def keep(self, name: str, entry: Row) -> None:
        """Put an entry into the file, which is replaced whole."""
        self.entries[name] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"points": self.entries})

    # -- reading, for checks and figures: a KeyError says that something was not run -------------

    def __getitem__(self, name: str) -> Row:
        result: Row = self.entries[name]["result"]
        return result

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    @property
    def data(self) -> str:
        """The data set, as a title; a quick run has another than the paper."""
        names = (str(entry["settings"].get("data")) for entry in self.entries.values())
        return _TITLES.get(next(names, ""), "")

    def numbered(self, prefix: str, least: int = 3) -> dict[float, str]:
        """The names that are a prefix and a number, by the number, from the smallest on.

        Raises:
            KeyError: there are fewer than `least`.
        """
        found = {float(name.removeprefix(prefix)): name for name in self if name.startswith(prefix)}
        if len(found) < least:
            raise KeyError(prefix)
        return dict(sorted(found.items()))

    def accuracy(self, *names: str) -> float:
        """The final accuracy, averaged over points that differ in their seed."""
        return fmean(self[name]["accuracy"] for name in names)

    def curve(self, name: str, x: str = "epoch", y: str = "accuracy") -> list[tuple[float, float]]:
        """One quantity over another, as the training went."""
        rows = self[name]["history"]
        return [(row[x], row[y]) for row in rows if row[x] is not None and row[y] is not None]

    def late(self, name: str, x: str = "epoch") -> list[float]:
        """The accuracies of the second half of a training."""
        rows = self.curve(name, x)
        return [accuracy for _, accuracy in rows[len(rows) // 2 :]]

    def made(self) -> list[Row]:
        """On what the points were made: each machine and version once."""
        found: list[Row] = []
        for entry in self.entries.values():
            kept = {name: entry["made"].get(name) for name in _SAID}
            if kept not in found:
                found.append(kept)
        return found

    def seconds(self) -> float:
        """How long the points took together."""
        return sum(float(self[name].get("seconds", 0.0)) for name in self)


def machine() -> Row:
    """What a result was made on, and when: nothing that names a person or a folder."""
    import torch

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "deniable": metadata.version("deniable"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """What the machine computes with, as its maker names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
