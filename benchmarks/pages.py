"""The results in words: README's table and docs/speed.md, from the JSON and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.phases import NOISE, ORDER
from benchmarks.results import named

ABSENT = "Nothing is measured yet."
# What `make growth` lets grow.
GROWING = ("batch", "width", "length", "depth")
# How a failure begins where a candidate ran and computed something else.
WRONG = "wrong"

INTRODUCTION = """\
# What private training costs

Written by `make docs` from `benchmarks/results`; measured by `make bench` and `make growth`.

A step is forward, backward, bound, noise and SGD. Every candidate has the same weights, the same
batch, and the same process: threads and allocator are alike. Its clipped sum on a few rows was held
against the definition, one row at a time in float64, before it was timed. A candidate's turns lie
between plain PyTorch's, and a ratio is the median over turns of the ratio to plain's turns beside
it. Memory is the highest total of tensors alive during a step, with model, data and gradients: of
the workloads in a process of its own for each candidate, where sizes grow in one for all.

Part of what is compared are libraries. On a CPU with AVX-512 that is not Intel's, deniable has
oneDNN multiply large matrices, in linear layers and sums of gradients. That takes about half as
long there as with MKL, which torch uses for linear layers, and which has no AVX-512 code for such
processors.

The peers are `torch.func` (`vmap` of `grad`, then clip, noise and SGD) and Opacus as its users call
it, in the quickest of its modes that gives the right sum. Both get what help they need, as listed
below.
"""

FIRST_STEP = """\
A first step of deniable also tries the ways to the norms and keeps the quickest, which is paid once
a training. Its time, with the multiple of plain PyTorch's ordinary step; the highest memory up to
the end of the second step, which may still hold what the first has left, as a multiple of plain
PyTorch's; and resident memory at the peak of a later step beyond what the process held before,
kernels' own buffers included, as a multiple of plain PyTorch's.
"""

INSIDE = """\
Milliseconds a step. Plain PyTorch's backward is divided by freezing its weights: what it takes then
are the input gradients. deniable forms weight gradients from the factors of the bound; where it
holds one gradient for each unit, these are formed under "per-unit norms". The floor is what a step
costs that does what plain's does, draws the noise, and reads every layer's input and output once
for the norms. Python is time of the host outside of torch's operators and of the noise generator,
and is part of the phases. A host wait is a value that the host asks of the device; on a CPU it
costs nothing, on a GPU the host waits until the device is done.
"""


def with_speed(page: str, found: dict[str, Any] | None) -> str:
    """The README with its table, between two marks, written again."""
    body = ABSENT if found is None else f"{speed_table(found)}\n\n{measured_on(found)}"
    return between(page, "speed", body)


def between(page: str, mark: str, body: str) -> str:
    """The page with what stands between the two marks of a name written again."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"The page must hold {begin} and {end}: the table goes between them.")
    return f"{before}{begin}\n{body}\n{end}{after}"


def speed_page() -> str:
    """All of docs/speed.md."""
    parts = [INTRODUCTION]
    for name, heading in (("speed", "On a CPU"), ("speed-gpu", "On a GPU")):
        found = named(name)
        if found is not None:
            parts.append(_section(heading, name, found))
    if len(parts) == 1:
        parts.append(f"{ABSENT}\n")
    for name, heading in (
        ("growth", "As it grows, on a CPU"),
        ("growth-gpu", "As it grows, on a GPU"),
    ):
        found = named(name)
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
        plain = row["candidates"]["plain"]
        names = [name_in(row, who) for who in ("deniable", "vmap", "opacus")]
        line = [row["name"], f"{row['batch']:,}", _ms(plain["milliseconds"]["median"])]
        line += [_time(row, name) for name in names]
        line += [_megabytes(plain.get("memory"))]
        line += [_memory(row, name) for name in names]
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


def name_in(row: dict[str, Any], who: str) -> str:
    """The candidate that took turns for deniable, vmap or Opacus; `who` itself where none did."""
    return next((name for name in row["candidates"] if name.startswith(who)), who)


def memory_ratio(row: dict[str, Any], name: str, of: str = "steady") -> float | None:
    """Peak memory as a multiple of plain PyTorch's of the same kind; None if not measured."""
    one, plain = (
        (row["candidates"].get(each, {}).get("memory") or {}).get(of) for each in (name, "plain")
    )
    return one / plain if one and plain else None


def sweeps(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The points by what grows in them, in the order of size."""
    by = {of: [p for p in found["rows"] if p["of"] == of] for of in GROWING}
    return {of: sorted(points, key=lambda p: p["size"]) for of, points in by.items() if points}


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The power of the size with which a value grew at last, from (size, value) pairs."""
    if len(points) < 2:
        return None
    (size, value), (larger, more) = points[-2:]
    return math.log(more / value) / math.log(larger / size)


def _section(heading: str, name: str, found: dict[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    return "\n".join(
        [
            f"## {heading}\n",
            f"{measured_on(found)} Environment of every candidate: {settings}. `make bench` "
            "measures it again.\n",
            f"{speed_table(found)}\n",
            f"![Time and peak memory as multiples of plain PyTorch's]({name}.svg)\n",
            "The middle half of the turns, and how many there were:\n",
            f"{_spread_table(found)}\n",
            "### The first step\n",
            f"{FIRST_STEP}\n{_first_table(found)}\n",
            "### Where the remaining time goes\n",
            INSIDE,
            *(_inside(row) for row in found["rows"] if "inside" in row),
            "### Opacus, mode by mode\n",
            "The quickest step of each mode that gives the right sum, by itself; the quickest mode "
            "then took turns.\n",
            f"{_modes_table(found)}\n",
            *_notes(found),
        ]
    )


def _spread_table(found: dict[str, Any]) -> str:
    lines = []
    for row in found["rows"]:
        spread = [_spread(row, name_in(row, who)) for who in ("deniable", "vmap", "opacus")]
        mode = name_in(row, "opacus").removeprefix("opacus").strip()
        lines.append([row["name"], *spread, mode or "—"])
    return _table(["workload", "deniable", "vmap", "Opacus", "its mode"], lines)


def _spread(row: dict[str, Any], name: str) -> str:
    candidate = row["candidates"].get(name)
    if candidate is None:
        return _absence(row, name)
    ratio = candidate["ratio"]
    return f"{_times(ratio['q1'])} to {_times(ratio['q3'])} ({candidate['turns']})"


def _first_table(found: dict[str, Any]) -> str:
    lines = []
    for row in found["rows"]:
        names = [name_in(row, who) for who in ("deniable", "vmap", "opacus")]
        line = [row["name"]]
        line += [_first(row, name) for name in names]
        line += [_memory(row, name, "first") for name in names]
        lines.append([*line, _memory(row, "deniable", "resident")])
    compared = ("vmap", "Opacus")
    head = ["workload", "first step: deniable", *compared, "memory: deniable", *compared]
    return _table([*head, "resident memory: deniable"], lines)


def _first(row: dict[str, Any], name: str) -> str:
    candidate = row["candidates"].get(name)
    if candidate is None:
        return _absence(row, name)
    took = candidate["first_milliseconds"]
    plain = row["candidates"]["plain"]["milliseconds"]["median"]
    return f"{_ms(took)} ({_times(took / plain)})"


def _inside(row: dict[str, Any]) -> str:
    """One row's step in words and as a table."""
    phases, profile = row["inside"]["phases"], row["inside"]["profile"]
    plain, private = phases["plain"], phases["deniable"]
    step, own = sum(plain.values()), sum(private.values())
    more = {phase: private.get(phase, 0.0) - plain.get(phase, 0.0) for phase in ORDER}
    most = sorted((phase for phase in ORDER if more[phase] > 0.01 * step), key=lambda p: -more[p])
    spent = ", ".join(f"{phase} {_more(more[phase], step)}" for phase in most[:4])
    python = profile["deniable"]["python"] - profile["plain"]["python"]
    waits = {who: sum(each["waits"].values()) for who, each in profile.items()}
    lines = [
        [phase, *(f"{times.get(phase, 0.0):.2f}" for times in (plain, private)),
         _more(more[phase], step)]
        for phase in ORDER
        if phase in plain or phase in private
    ]  # fmt: skip
    lines.append(["step", f"{step:.2f}", f"{own:.2f}", _more(own - step, step)])
    lines.append(
        ["of it Python", *(f"{profile[who]['python']:.2f}" for who in ("plain", "deniable")),
         _more(python, step)]
    )  # fmt: skip
    return "\n".join(
        [
            f"**{row['name']}**: {own / step:.2f} times plain PyTorch, "
            f"{_more(own - step, step)}; the floor is {phases['floor']:.2f}, of which "
            f"{private.get(NOISE, 0.0):.2f} ms are noise and {phases['reading']:.2f} ms reading. "
            f"What costs more than in plain's step: {spent or 'nothing'}. "
            f"{profile['deniable']['operators']:.0f} operators instead of "
            f"{profile['plain']['operators']:.0f}; host waits: {waits['deniable']:g} instead of "
            f"{waits['plain']:g}.\n",
            f"{_table(['phase', 'plain', 'deniable', 'more'], lines)}\n",
            f"Ways to the norms, and what each took when tried:\n\n```text\n"
            f"{row['inside']['explain'] or 'nothing to choose'}\n```\n",
        ]
    )


def _more(milliseconds: float, step: float) -> str:
    return f"{milliseconds:+.2f} ms ({milliseconds / step:+.0%})"


def _modes_table(found: dict[str, Any]) -> str:
    modes = sorted({name for row in found["rows"] for name in _opacus_names(row)})
    lines = [
        [row["name"], *(_mode(row, name) for name in modes)]
        for row in found["rows"]
    ]  # fmt: skip
    return _table(["workload", *(name.removeprefix("opacus ") for name in modes)], lines)


def _opacus_names(row: dict[str, Any]) -> list[str]:
    return [
        name for name in [*row["modes"], *row["failures"]]
        if name.startswith("opacus ") and not name.endswith(", memory")
    ]  # fmt: skip


def _mode(row: dict[str, Any], name: str) -> str:
    mode = row["modes"].get(name)
    return _absence(row, name) if mode is None else _ms(mode["milliseconds"])


def _notes(found: dict[str, Any]) -> list[str]:
    """What the peers need before they run, and what did not run or was wrong."""
    needs: dict[str, list[str]] = {}
    for row in found["rows"]:
        for name, each in {**row["candidates"], **row["modes"]}.items():
            if each.get("needs"):
                words = f"{row['name']}: {each['needs']}"
                needs.setdefault(words, []).append(name)
    problems: dict[str, list[str]] = {}
    for row in found["rows"]:
        for name, why in row["failures"].items():
            problems.setdefault(f"{name}: {_escaped(why)}", []).append(row["name"])
    lines = []
    if needs:
        lines += ["### What the peers need\n"]
        lines += [f"- {words} ({', '.join(names)})" for words, names in needs.items()]
        lines += [""]
    if problems:
        lines += ["### What did not run, or was wrong\n"]
        lines += [f"- {words} ({', '.join(rows)})" for words, rows in problems.items()]
        lines += [""]
    return lines


def _growth_section(heading: str, name: str, found: dict[str, Any]) -> str:
    lines = []
    for of, points in sweeps(found).items():
        sizes = f"{points[0]['size']} to {points[-1]['size']}"
        for who in found["candidates"]:
            times = [
                (p["size"], p["candidates"][who]["milliseconds"]["median"])
                for p in points if who in p["candidates"]
            ]  # fmt: skip
            bytes_ = [
                (p["size"], p["candidates"][who]["memory"]["steady"])
                for p in points if who in p["candidates"]
            ]  # fmt: skip
            powers = [_power(exponent(times)), _power(exponent(bytes_))]
            ratios = [_time(points[-1], who), _memory(points[-1], who)]
            lines.append([of, sizes, who, *powers, *ratios])
    head = ["size of", "range", "candidate", "time grows as", "memory grows as"]
    return "\n".join(
        [
            f"## {heading}\n",
            f"{found['model']} {measured_on(found)} `make growth` measures it again. The power is "
            "that of the last doubling; ratios to plain are those at the largest size.\n",
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


def _time(row: dict[str, Any], name: str) -> str:
    candidate = row["candidates"].get(name)
    if candidate is None:
        return _absence(row, name)
    return _times(candidate["ratio"]["median"]) if "ratio" in candidate else "1"


def _memory(row: dict[str, Any], name: str, of: str = "steady") -> str:
    ratio = memory_ratio(row, name, of)
    return "—" if ratio is None else _times(ratio)


def _absence(row: dict[str, Any], name: str) -> str:
    """What stands where a candidate took no turns."""
    return WRONG if row["failures"].get(name, "").startswith(WRONG) else "—"


def _megabytes(memory: dict[str, Any] | None) -> str:
    return "—" if not memory else f"{memory['steady'] / 1e6:,.1f} MB"


def _power(exponent: float | None) -> str:
    return "—" if exponent is None else f"size^{exponent:.2f}"


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("<", "&lt;")
