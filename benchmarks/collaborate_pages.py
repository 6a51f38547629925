"""What was measured of collaborative training, in words: two tables of docs/collaborate.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.collaborate_faults import Outcome
from benchmarks.pages import between
from benchmarks.results import named


def with_collaboration(page: str) -> str:
    """The page with its tables, each between two marks, written again."""
    tables = (
        ("faults", faults_table, "collaborate_faults"),
        ("workers", speed_table, "collaborate_speed"),
    )
    for mark, table, name in tables:
        found = named(name)
        page = between(page, mark, "" if found is None else f"{table(found)}\n\n{_where(found)}")
    return page


def faults_table(found: dict[str, Any]) -> str:
    """How the runs of each fault ended, by mode."""
    lines = [
        "| mode | fault | ended | ledger covers all | within the plan | mean test accuracy |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for key, row in found.items():
        if not isinstance(row, dict) or "runs" not in row:
            continue
        mode = key.partition(" ")[0]
        runs = [Outcome(**each) for each in row["runs"]]
        of = len(runs)
        ended, covered, within = (
            f"{sum(each)} of {of}"
            for each in zip(*((run.ended, run.covered, run.once) for run in runs), strict=True)
        )
        accuracy = statistics.mean(run.accuracy for run in runs if run.accuracy is not None)
        lines.append(
            f"| {mode} | {row['name']} | {ended} | {covered} | {within} | {100 * accuracy:.2f}% |"
        )
    return "\n".join(lines)


def speed_table(found: dict[str, Any]) -> str:
    """Milliseconds a step, and how much sooner two workers are done."""
    lines = [
        "| batch | one process | one worker | two workers | two against one |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        took = [
            f"{1000 * statistics.median(row['seconds'][who]):.1f} ms"
            for who in ("alone", "one worker", "two workers")
        ]
        lines.append(f"| {row['batch_size']:,} | {' | '.join(took)} | {row['speedup']:.2f}× |")
    return "\n".join(lines)


def _where(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return f"Measured on {machine['cpu']}, {machine['cores']} cores, with torch {machine['torch']}."
