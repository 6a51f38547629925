"""The results files: one a command and kind of device, written anew after each row or point."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"

# What two rows of one table must have in common.
_SAME = ("device", "machine", "environment")


def load(path: Path) -> dict[str, Any] | None:
    """What a file holds, or None where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def named(name: str) -> dict[str, Any] | None:
    """The committed results of that name."""
    return load(FOLDER / f"{name}.json")


def save(path: Path, found: dict[str, Any]) -> None:
    """Write the file in one go: whoever is killed meanwhile leaves the file of before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def begin(path: Path | None, header: dict[str, Any], replace: bool) -> dict[str, Any]:
    """The rows measured before, under the header of this run.

    Args:
        path: the file to go on with; None: begin with nothing.
        header: device, machine, environment and whatever else describes a run.
        replace: begin with nothing although the file holds results.

    Raises:
        SystemExit: the file's rows were measured on another machine, or in another environment.
    """
    earlier = load(path) if path is not None and not replace else None
    if earlier is None:
        return {**header, "rows": []}
    for part in _SAME:
        if earlier[part] != header[part]:
            raise SystemExit(
                f"{path} was measured with another {part}:\n  {earlier[part]}\nnot with\n"
                f"  {header[part]}\nRows of the two do not belong in one table: give --out for "
                "another file, or --replace to begin this one anew."
            )
    return {**header, "rows": earlier["rows"]}


def put(found: dict[str, Any], row: dict[str, Any]) -> None:
    """The row in the place of the one of the same name, or else at the end."""
    for place, each in enumerate(found["rows"]):
        if each["name"] == row["name"]:
            found["rows"][place] = row
            return
    found["rows"].append(row)


def holds(found: dict[str, Any], name: str, code: str) -> bool:
    """Whether a row of that name was measured with this very code."""
    same = [each for each in found["rows"] if each["name"] == name and each["code"] == code]
    return bool(same) and not code.endswith("+")
