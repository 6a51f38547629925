"""What `run.json` says, safe to show: what is absent, not finite or of a wrong type is None."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def number(values: Mapping[str, Any], key: str) -> float | None:
    """The finite number at `key`, or None.

    >>> number({"epsilon": 3}, "epsilon"), number({"epsilon": float("nan")}, "epsilon")
    (3.0, None)
    """
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at `key`, or an empty one."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _between(value: float | None, low: float, high: float) -> float | None:
    return value if value is not None and low <= value <= high else None


@dataclass(frozen=True)
class Record:
    """A run as its `run.json` tells it.

    Attributes:
        values: the whole of `run.json`.
    """

    values: Mapping[str, Any]

    def section(self, key: str) -> Mapping[str, Any]:
        """One object of `run.json`, empty where it is absent or null."""
        return mapping(self.values, key)

    def text(self, section: str, key: str, default: str) -> str:
        """A name in one of the objects of `run.json`."""
        return str(self.section(section).get(key) or default)

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """The rows of the history that name their step."""
        rows = self.values.get("history")
        if not isinstance(rows, list):
            return []
        return [row for row in rows if isinstance(row, Mapping) and number(row, "step") is not None]

    def series(self, key: str) -> list[tuple[float, float]]:
        """The (step, value) pairs of one quantity, without its gaps."""
        pairs = ((number(row, "step"), number(row, key)) for row in self.history)
        return [(step, value) for step, value in pairs if step is not None and value is not None]

    def latest(self, key: str) -> float | None:
        """The result under `key`, else its last value in the history."""
        found = number(self.section("results"), key)
        if found is not None:
            return found
        series = self.series(key)
        return series[-1][1] if series else None

    @property
    def is_text(self) -> bool:
        """Whether a model of text was measured, by its perplexity."""
        return bool(self.series("validation_perplexity"))

    @property
    def shared_run(self) -> str | None:
        """The run's name in the ledger that it shares with others; None if it has its own."""
        shared = isinstance(self.values.get("ledger"), str)
        return str(self.values.get("run_id")) if shared else None

    @property
    def ledger_name(self) -> str:
        """What the file is called in which the run's releases are recorded."""
        named = self.values.get("ledger")
        return Path(named).name if isinstance(named, str) else "ledger.sqlite"

    @property
    def status(self) -> str:
        """How the run stands: "complete", "interrupted" or "running"."""
        return str(self.values.get("status") or "running")

    @property
    def seeded(self) -> bool:
        """Whether the noise can be drawn again by who knows the seed."""
        return self.values.get("seeded") is True or self.section("settings").get("seed") is not None

    @property
    def non_private(self) -> bool:
        """Whether anything in the record says that the run had no noise."""
        results, plan = self.section("results"), self.section("plan")
        epsilons = [results.get("epsilon"), *(row.get("epsilon") for row in self.history)]
        return (
            results.get("non_private") is True
            or number(plan, "noise_multiplier") == 0
            or any(isinstance(each, float) and math.isinf(each) for each in epsilons)
        )

    @property
    def epsilon(self) -> float | None:
        """The recorded epsilon: infinite without noise, None where none was recorded."""
        return math.inf if self.non_private else _between(self.latest("epsilon"), 0, math.inf)

    @property
    def delta(self) -> float | None:
        """The delta of the claim."""
        found = number(self.section("results"), "delta")
        return _between(number(self.section("plan"), "delta") if found is None else found, 0, 1)

    @property
    def steps(self) -> int:
        """How many steps the record says were released."""
        recorded = number(self.section("results"), "steps")
        if recorded is None:
            recorded = max((number(row, "step") or 0.0 for row in self.history), default=0.0)
        return int(recorded)

    @property
    def planned_steps(self) -> int | None:
        """How many steps the plan has."""
        planned = number(self.section("plan"), "steps")
        return None if planned is None else int(planned)
