"""The charts in docs, drawn from the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.pages import memory_ratio, name_in, sweeps

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = {"plain": "#6b7280", "deniable": "#1f6feb", "vmap": "#d97706", "opacus": "#7c3aed"}
LABELS = {"plain": "plain PyTorch", "vmap": "torch.func vmap", "opacus": "Opacus, best mode"}
# The same results give the same file.
STYLE: Any = {"svg.hashsalt": "deniable", "font.size": 10}


def speed(found: dict[str, Any], name: str) -> Path:
    """Bars: time and memory as multiples of plain PyTorch's."""
    compared = ("deniable", "vmap", "opacus")
    rows = found["rows"]
    with matplotlib.rc_context(STYLE):
        height = 1.1 + 0.75 * len(rows)
        figure, axes = plt.subplots(1, 2, figsize=(10, height), sharey=True, layout="constrained")
        for axis, of in zip(axes, ("time", "memory"), strict=True):
            for place, candidate in enumerate(compared):
                values = [_ratio(row, candidate, of) for row in rows]
                _bars(axis, values, place, len(compared), candidate)
            _ratio_axis(axis, f"{of}, multiples of plain PyTorch's")
        axes[0].set_yticks(range(len(rows)), [f"{r['name']}\nbatch {r['batch']:,}" for r in rows])
        axes[0].invert_yaxis()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return _saved(figure, name)


def growth(found: dict[str, Any], name: str) -> Path:
    """Lines: time above, memory below, one column for each size that grows."""
    grown = sweeps(found)
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(grown), figsize=(3 * len(grown), 6), sharex="col", sharey="row",
            layout="constrained", squeeze=False,
        )  # fmt: skip
        for column, (of, points) in enumerate(grown.items()):
            for candidate in found["candidates"]:
                for axis, what in zip(axes[:, column], ("time", "memory"), strict=True):
                    _line(axis, points, candidate, what)
            sizes = [point["size"] for point in points]
            axes[1, column].set_xlabel(of)
            axes[1, column].set_xticks(sizes, [str(each) for each in sizes])
            axes[1, column].xaxis.set_minor_formatter(NullFormatter())
        axes[0, 0].set_ylabel("milliseconds a step")
        axes[1, 0].set_ylabel("peak memory, MB")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        return _saved(figure, name)


def _ratio(row: dict[str, Any], who: str, of: str) -> float | None:
    name = name_in(row, who)
    if name not in row["candidates"]:
        return None
    if of == "memory":
        return memory_ratio(row, name)
    return float(row["candidates"][name]["ratio"]["median"])


def _bars(axis: Axes, values: list[float | None], place: int, of: int, candidate: str) -> None:
    thickness = 0.8 / of
    places = [k + (place - (of - 1) / 2) * thickness for k in range(len(values))]
    # From 1, which is plain PyTorch, to the right.
    axis.barh(
        places, [(value or 1) - 1 for value in values], 0.9 * thickness, left=1,
        color=COLOURS[candidate], label=LABELS.get(candidate, candidate),
    )  # fmt: skip
    for where, value in zip(places, values, strict=True):
        text = "does not run" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
        axis.annotate(
            text, (max(value or 1, 1), where), (4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip


def _ratio_axis(axis: Axes, title: str) -> None:
    axis.set_xscale("log")
    axis.axvline(1, color=COLOURS["plain"], linewidth=1)
    axis.set_xlim(0.8, 2 * max(2.0, axis.get_xlim()[1]))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)


def _line(axis: Axes, points: list[dict[str, Any]], candidate: str, what: str) -> None:
    sizes, values = [], []
    for point in points:
        found = point["candidates"].get(candidate)
        if found is None:
            continue
        sizes.append(point["size"])
        values.append(
            found["milliseconds"]["median"] if what == "time" else found["memory"]["steady"] / 1e6
        )
    kind = candidate.split()[0]
    label = LABELS[kind] if kind in ("plain", "vmap") else candidate
    # What is compared with lies above, broken, so that a line that is the same shows.
    compared: Any = {"linestyle": "--", "zorder": 3} if kind == "plain" else {"marker": "o"}
    axis.plot(sizes, values, markersize=4, color=COLOURS[kind], label=label, **compared)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _saved(figure: Figure, name: str) -> Path:
    path = DOCS / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return path
