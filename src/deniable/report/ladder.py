"""Epsilon against steps under every accountant, as a picture in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from deniable import words
from deniable.accounting.ladder import ladder
from deniable.accounting.slides import SLIDES
from deniable.canvas import MUTED, figure_file
from deniable.errors import SettingsError
from deniable.events import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Curves = Mapping[str, Sequence[float]]

POINTS = 25
_COLOURS = {
    "basic": "#9a3412",
    "strong": "#d97706",
    "amplified": "#a16fd0",
    "moments": "#5b7fd4",
    "rdp": "#1d4ed8",
    "pld": "#0c6b64",
}


def draw_ladder(
    event_at: Callable[[int], Event],
    steps: int,
    delta: float,
    path: Path,
    *,
    period: int = 1,
    with_slides: bool = False,
) -> None:
    """Draws epsilon after 1 to `steps` steps, under every accountant that holds for them.

    Args:
        event_at: what so many steps release.
        steps: where the curves end.
        delta: of the guarantee.
        path: the file to write; its ending says the form (.svg, .png, .pdf).
        period: how many successive steps cost what one of them costs; the curves are then stairs.
        with_slides: whether to mark what the slides print, at their own deltas.

    Raises:
        SettingsError: the folder does not exist, the ending is unknown, or no epsilon is finite.
    """
    ends = np.ceil(np.geomspace(1, steps, POINTS).round() / period) * period
    counts = [1, *sorted({min(int(each), steps) for each in ends} - {1})]
    with figure_file(path, (7.5, 4.8)) as figure:
        curves = _curves(event_at, counts, delta)
        axes = figure.add_subplot(xscale="log", yscale="log")
        _draw(axes, counts, curves, "default" if period == 1 else "steps-pre")
        if with_slides:
            _mark_slides(axes, steps)
        axes.set_xlabel("steps")
        axes.tick_params(which="minor", length=0)
        axes.set_title(_title(delta, with_slides), loc="left", color=MUTED, fontsize=10)


def _title(delta: float, with_slides: bool) -> str:
    title = f"epsilon at delta {words.scientific(delta)}"
    if not with_slides:
        return title
    deltas = ", ".join(f"{slide.given.delta:g}" for slide in SLIDES)
    return f"{title}; what the slides print is for deltas of {deltas}"


def _curves(event_at: Callable[[int], Event], counts: Sequence[int], delta: float) -> Curves:
    """Epsilon at each count, by accountant; those that refuse or answer infinity are left out."""
    found: dict[str, list[float]] = {}
    for count in counts:
        for rung in ladder(event_at(count), delta):
            if rung.epsilon is not None and np.isfinite(rung.epsilon):
                found.setdefault(rung.accountant.name, []).append(rung.epsilon)
    if not found:
        raise SettingsError("No accountant states a finite epsilon here: there is nothing to draw.")
    return found


def _draw(
    axes: Axes, counts: Sequence[int], curves: Curves, style: Literal["default", "steps-pre"]
) -> None:
    from matplotlib.ticker import FuncFormatter

    for name, epsilons in curves.items():
        width = 2.6 if name == "pld" else 1.7
        # What is 0 has no place on a logarithmic axis.
        axes.plot(counts, np.where(np.array(epsilons) > 0, epsilons, np.nan),
                  color=_COLOURS[name], linewidth=width, drawstyle=style)  # fmt: skip
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.set_xlim(counts[0], counts[-1])
    low, high = axes.get_ylim()
    ends = {name: epsilons[-1] for name, epsilons in curves.items()}
    for name, place in _apart(ends, gap=np.log(high / low) / 19).items():
        axes.annotate(
            f"{name}  {words.rounded_up(ends[name])}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=_COLOURS[name],
            annotation_clip=False,
        )


def _apart(ends: Mapping[str, float], gap: float) -> dict[str, float]:
    """Places for labels at the ends of curves, in the same order, at least a gap apart."""
    names = sorted(ends, key=ends.__getitem__, reverse=True)
    places: list[float] = []
    for name in names:
        wanted = float(np.log(max(ends[name], 1e-12)))
        places.append(min(wanted, places[-1] - gap) if places else wanted)
    return dict(zip(names, np.exp(places).tolist(), strict=True))


def _mark_slides(axes: Axes, steps: int) -> None:
    """What the slides print at the last step, each at its own delta."""
    for slide in SLIDES:
        value = float(slide.printed.replace(",", ""))
        axes.plot([steps], [value], marker="o", markersize=6, markerfacecolor="white",
                  markeredgecolor=_COLOURS[slide.accountant], clip_on=False, zorder=5)  # fmt: skip
        axes.annotate(
            f"slides: {slide.printed}",
            (steps, value),
            xytext=(-9, 5),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=MUTED,
            fontsize=9,
        )
