"""The results in words: README's table and docs/speed.md, from the JSON and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.phases import ORDER

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ABSENT = "Nothing is measured yet."
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"

INTRODUCTION = """\
# What private training costs

Written by `make docs` from `benchmarks/results`; measured by `make bench` and `make growth`.

A step is forward, backward, bound, noise and SGD. Every candidate has the same weights and the same
batch, and its clipped sum was held against the definition, one row at a time in float64, before it
was timed. Candidates take turns in one process; a ratio is the median over rounds of the ratio to
plain PyTorch within the round. Memory is the highest total of tensors alive during a step, with
model, data and gradients, in a process of its own.

The peers are `torch.func` (`vmap` of `grad`, then clip, noise and SGD) and Opacus as its users call
it, in the quickest of its modes (hooks, functorch, ew, ghost) that gives the right sum. Both get
what help they need: position numbers for every row and an LSTM that unrolls for Opacus, one-hot
vectors by comparison for vmap.
"""


def results(name: str) -> dict[str, Any] | None:
    """The committed results of that name, or None where there are none yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def with_speed(page: str, found: dict[str, Any] | None) -> str:
    """The README with its table, between two marks, written again."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The README must hold {BEGIN} and {END}: the table goes between them.")
    body = ABSENT if found is None else f"{speed_table(found)}\n\n{measured_on(found)}"
    return f"{before}{BEGIN}\n{body}\n{END}{after}"


def speed_page() -> str:
    """All of docs/speed.md."""
    parts = [INTRODUCTION]
    for name, heading in (("speed", "On a CPU"), ("speed-gpu", "On a GPU")):
        found = results(name)
        if found is not None:
            parts.append(_section(heading, name, found))
    if len(parts) == 1:
        parts.append(f"{ABSENT}\n")
    for name, heading in (
        ("growth", "As it grows, on a CPU"),
        ("growth-gpu", "As it grows, on a GPU"),
    ):
        found = results(name)
        if found is not None:
            parts.append(_growth_section(heading, name, found))
    return "\n".join(parts)


def speed_table(found: dict[str, Any]) -> str:
    """One line a workload: plain PyTorch's time and memory, and the others' ratios to them."""
    compared = ("deniable", "vmap", "Opacus")
    head = ["workload", "batch", "plain PyTorch", *compared]
    head += ["peak memory: plain PyTorch", *compared]
    lines = []
    for row in found["rows"]:
        candidates = row["candidates"]
        plain = candidates["plain"]
        names = ["deniable", "vmap", opacus_mode(row)]
        line = [row["workload"], f"{row['batch']:,}", _ms(plain["milliseconds"]["median"])]
        line += [_time_ratio(candidates.get(name)) for name in names]
        line += [_megabytes(plain["memory"])]
        line += [_memory_ratio(candidates.get(name), plain) for name in names]
        lines.append(line)
    return _table(head, lines)


def measured_on(found: dict[str, Any]) -> str:
    """One sentence: the machine, the versions, the dates."""
    machine = found["machine"]
    dates = sorted({row["date"] for row in found["rows"]})
    where = f"{machine['cpu']}, {machine['threads']} threads"
    if "gpu" in machine:
        where = f"{machine['gpu']}, CUDA {machine['cuda']}"
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    versions = f"torch {machine['torch']} and Opacus {machine['opacus']}"
    return f"Measured on {where}, with {versions}, {when}."


def opacus_mode(row: dict[str, Any]) -> str:
    """The name of the Opacus candidate that took turns, or "opacus" where none could."""
    return next((name for name in row["candidates"] if name.startswith("opacus")), "opacus")


def _section(heading: str, name: str, found: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"## {heading}\n",
            f"{measured_on(found)} `make bench` measures it again.\n",
            f"{speed_table(found)}\n",
            f"![Time and peak memory as multiples of plain PyTorch's]({name}.svg)\n",
            "The middle half of the rounds, and what Opacus's other modes took:\n",
            f"{_spread_table(found)}\n",
            "### Where the remaining time goes\n",
            "Milliseconds of deniable's step by phase, less plain PyTorch's in the same phase, and "
            "what that makes of plain's step. The weight gradients, which plain computes in its "
            'backward, are in "norms and sums" here. The floor is the plain step and the drawing '
            "of the noise, which no private step can do without.\n",
            f"{_phase_table(found)}\n",
            *_failures(found),
            "### Which way each use took\n",
            *(
                f"{row['workload']}:\n\n```text\n{row['explain'] or 'nothing to choose'}\n```\n"
                for row in found["rows"]
            ),
        ]
    )


def _spread_table(found: dict[str, Any]) -> str:
    lines = []
    for row in found["rows"]:
        mode = opacus_mode(row)
        spread = [_quartiles(row["candidates"].get(name)) for name in ("deniable", "vmap", mode)]
        others = ", ".join(
            f"{name.removeprefix('opacus ')} {_ms(took)}"
            for name, took in row["opacus_milliseconds"].items()
            if name != mode
        )
        lines.append([row["workload"], *spread, mode.removeprefix("opacus").strip(), others])
    return _table(["workload", "deniable", "vmap", "Opacus", "its mode", "other modes"], lines)


def _phase_table(found: dict[str, Any]) -> str:
    lines = []
    for row in found["rows"]:
        plain, private = row["phases"]["plain"], row["phases"]["deniable"]
        step = sum(plain.values())
        cells = []
        for phase in ORDER:
            more = private.get(phase, 0.0) - plain.get(phase, 0.0)
            cells.append(f"{more:+.2f} ms ({more / step:+.0%})")
        ratio = sum(private.values()) / step
        lines.append([row["workload"], *cells, f"{ratio:.2f}×", f"{row['phases']['floor']:.2f}×"])
    return _table(["workload", *ORDER, "all", "floor"], lines)


def _failures(found: dict[str, Any]) -> list[str]:
    lines = [
        f"- {row['workload']}, {name}: {_escaped(why)}"
        for row in found["rows"]
        for name, why in row["failures"].items()
    ]
    return ["### What did not run\n", *lines, ""] if lines else []


def _growth_section(heading: str, name: str, found: dict[str, Any]) -> str:
    lines = []
    for sweep in found["sweeps"]:
        sizes = f"{sweep['sizes'][0]} to {sweep['sizes'][-1]}"
        largest = sweep["points"][-1]["candidates"]
        for each in found["candidates"]:
            powers = sweep["exponents"][each]
            line = [sweep["of"], sizes, each, _power(powers["time"]), _power(powers["memory"])]
            line += [_time_ratio(largest.get(each))]
            lines.append([*line, _memory_ratio(largest.get(each), largest["plain"])])
    head = ["size of", "range", "candidate", "time grows as", "memory grows as"]
    return "\n".join(
        [
            f"## {heading}\n",
            f"{found['model']} {measured_on({**found, 'rows': [found]})} `make growth` measures it "
            "again. The power is that of the last doubling; ratios to plain are those at the "
            "largest size.\n",
            f"![Time and memory against batch, width, length and depth]({name}.svg)\n",
            f"{_table([*head, 'time', 'memory'], lines)}\n",
        ]
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    numeric = [all(line[k][:1] in "0123456789+-—" for line in lines) for k in range(len(head))]
    rule = ["---:" if each else "---" for each in numeric]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:,.0f} ms"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def _time_ratio(candidate: dict[str, Any] | None) -> str:
    return "—" if candidate is None else _times(candidate["ratio"]["median"])


def _quartiles(candidate: dict[str, Any] | None) -> str:
    if candidate is None:
        return "—"
    ratio = candidate["ratio"]
    return f"{_times(ratio['q1'])} to {_times(ratio['q3'])}"


def _memory_ratio(candidate: dict[str, Any] | None, plain: dict[str, Any]) -> str:
    if candidate is None or not candidate["memory"] or not plain["memory"]:
        return "—"
    return _times(candidate["memory"]["peak"] / plain["memory"]["peak"])


def _megabytes(memory: dict[str, Any] | None) -> str:
    return "—" if not memory else f"{memory['peak'] / 1e6:,.1f} MB"


def _power(exponent: float | None) -> str:
    return "—" if exponent is None else f"size^{exponent:.2f}"


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;")
