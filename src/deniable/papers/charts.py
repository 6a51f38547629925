"""Figures of lines and of bars, a panel beside the other, as PNG.

Importable without torch, and without matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deniable.canvas import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The first one is for what is compared with.
COLOURS = ("#000000", BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#7a4f01")
MARKS = "os^DvPX*"


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: what the legend calls it.
        points: pairs of x and y.
        dashed: whether it is what the others are compared with.
        errors: how far each y may be off, drawn as a bar to either side; empty: nothing is said.
        marked: whether each point has a mark.
    """

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    errors: Sequence[float] = ()
    marked: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes with curves.

    Attributes:
        x: what runs to the right.
        y: what runs upwards.
        lines: the curves.
        title: what stands above.
        logarithmic: which axes are, "x", "y" or "xy".
        percent: whether y is a share, shown in percent.
        x_at: where the x axis has its ticks; empty: wherever it likes.
        y_limits: where the y axis ends; None: wherever it likes.
    """

    x: str
    y: str
    lines: Sequence[Line]
    title: str = ""
    logarithmic: str = ""
    percent: bool = True
    x_at: Sequence[float] = field(default_factory=tuple)
    y_limits: tuple[float, float] | None = None

    def draw(self, axes: Axes) -> None:
        """Curves with marks where they are few points long, and a legend where there are two."""
        for position, line in enumerate(self.lines):
            across, upwards = zip(*line.points, strict=True)
            axes.errorbar(
                across,
                upwards,
                yerr=line.errors or None,
                color=COLOURS[position % len(COLOURS)],
                linestyle="--" if line.dashed else "-",
                marker=MARKS[position % len(MARKS)] if line.marked else "",
                markersize=4,
                linewidth=1.4,
                capsize=2,
                label=line.label,
            )
        axes.set(xlabel=self.x, ylabel=self.y, title=self.title)
        if "x" in self.logarithmic:
            axes.set_xscale("log")
        if "y" in self.logarithmic:
            axes.set_yscale("log")
        if self.x_at:
            axes.set_xticks(self.x_at, [f"{each:g}" for each in self.x_at])
            axes.minorticks_off()
        if self.y_limits:
            axes.set_ylim(*self.y_limits)
        if self.percent:
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        if len(self.lines) > 1:
            axes.legend(fontsize="small", frameon=False)


@dataclass(frozen=True)
class Bars:
    """One pair of axes with groups of bars: shares, each written above its bar.

    Attributes:
        groups: what stands below each group.
        series: by what the legend calls it, one share a group; None where there is none.
        y: what runs upwards.
        title: what stands above.
        start: where the bars begin.
    """

    groups: Sequence[str]
    series: dict[str, Sequence[float | None]]
    y: str
    title: str = ""
    start: float = 0.0

    def draw(self, axes: Axes) -> None:
        """Bars side by side."""
        width = 0.8 / len(self.series)
        for position, (label, shares) in enumerate(self.series.items()):
            at = [
                group + (position - (len(self.series) - 1) / 2) * width
                for group in range(len(shares))
            ]
            heights = [0.0 if share is None else share for share in shares]
            bars = axes.bar(at, heights, width * 0.94, color=_BARS[position % 4], label=label)
            said = ["" if share is None else f"{100 * share:.1f}%" for share in shares]
            axes.bar_label(bars, said, padding=2, fontsize="x-small")
        axes.grid(visible=False, axis="x")
        axes.set_xticks(range(len(self.groups)), self.groups)
        axes.set(ylabel=self.y, title=self.title, ylim=(self.start, 1.0 + 0.2 * (1 - self.start)))
        axes.set_yticks([each for each in axes.get_yticks() if self.start <= each <= 1])
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.legend(fontsize="small", frameon=False, ncols=len(self.series), loc="upper center")


_BARS = ("#999999", BLUE, VERMILION, GREEN)


def draw(path: Path, *panels: Panel | Bars) -> None:
    """Write a figure; a panel without curves is left out, and nothing is written without panels.

    Args:
        path: the file, which is replaced whole.
        panels: from left to right, three in a row, then downwards.
    """
    kept = [each for each in panels if isinstance(each, Bars) or each.lines]
    if not kept:
        return
    across = min(3, len(kept))
    down = -(-len(kept) // across)
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_file(path, (max(6.0, 4.6 * across), 3.9 * down)) as figure:
        for position, panel in enumerate(kept):
            panel.draw(figure.add_subplot(down, across, position + 1))
