"""Charts as inline SVG whose colours are the page's own variables, so that they follow its theme.

matplotlib draws with stand-in colours; each is then replaced by `var(--name)`. The same data give
the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from deniable import words
from deniable.units import PrivacyCurve, Spent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
Size = tuple[float, float]  # inches of 72 units; the page scales a chart to its column
WIDE: Size = (5.0, 2.9)
TALL: Size = (5.0, 3.9)
NARROW: Size = (3.5, 2.5)

_INK, _MUTED, _RULE, _SERIES, _SOFT, _PAPER = (f"#0a0b{n:02x}" for n in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _SERIES: "var(--series)",
    _SOFT: "var(--soft)",
    _PAPER: "var(--surface)",
}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "deniable",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": _INK,
    "axes.facecolor": "none",
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "xtick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "xtick.major.size": 3,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
_DENSE = 100  # more points than this and the line is thinner
_MARKED = 24  # more points than this and only the last is marked


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line with its name: a target, a clipping norm."""

    value: float
    label: str


def history(
    name: str,
    points: Points,
    *,
    label: str,
    as_percent: bool = False,
    from_zero: bool = False,
    level: Level | None = None,
    size: Size = WIDE,
) -> Markup:
    """One quantity over steps.

    Args:
        name: a word that no other chart of the page has; its ids begin with it.
        points: (step, value) pairs, at least one, all finite.
        label: what the chart shows, for who cannot see it.
        as_percent: the values are fractions.
        from_zero: the axis begins at 0, unless a value lies below.
        level: a line to compare with.
        size: the shape; text has the same size in all of them.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError(f"A chart needs at least one point, got none for {name!r}.")
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    steps, values = zip(*points, strict=True)
    with _style():
        figure, axes = _canvas(size)
        _line(axes, steps, values)
        if level is not None:
            _level(axes, level)
        axes.set_xlim(0, max(steps) * 1.03 or 1)
        _limit(axes, [*values, *([level.value] if level else [])], from_zero, as_percent)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * value:.4g}%" if as_percent else f"{value:,.6g}")
        )
        return _svg(figure, name, label)


def brackets(
    name: str, measured: Sequence[tuple[str, float]], claim: float, *, label: str
) -> Markup:
    """Lower bounds and the claim on one axis of epsilon: between them lies the truth.

    Args:
        name: a word that no other chart of the page has; its ids begin with it.
        measured: what each measurement is called, and its lower bound.
        claim: the upper bound.
        label: what the chart shows, for who cannot see it.
    """
    from matplotlib.ticker import MaxNLocator

    most = max(claim, *(value for _, value in measured))
    size = (WIDE[0], 1.25 + 0.55 * len(measured))
    with _style({"axes.grid.axis": "x", "ytick.major.size": 0}):
        figure, axes = _canvas(size)
        for row, (title, value) in enumerate(measured):
            axes.plot([value, claim], [row, row], color=_SOFT, linewidth=7)
            axes.plot([value], [row], color=_SERIES, marker="o", markersize=8, clip_on=False)
            axes.annotate(
                title,
                (0, row),
                xytext=(2, 9),
                textcoords="offset points",
                color=_MUTED,
            )
            axes.annotate(
                words.rounded_down(value, 3),
                (value, row),
                xytext=(9, -4),
                textcoords="offset points",
                color=_INK,
            )
        axes.axvline(claim, color=_SERIES)
        axes.annotate(
            f"claimed {words.rounded_up(claim)}",
            (claim, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if claim > 0.3 * most else 5, 2),
            textcoords="offset points",
            ha="right" if claim > 0.3 * most else "left",
            color=_INK,
        )
        axes.set(xlim=(0, 1.06 * most or 1), ylim=(len(measured) - 0.6, -0.8), xlabel="epsilon")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.set_yticks([])
        return _svg(figure, name, label)


def attacker(name: str, limit: Spent | PrivacyCurve, *, label: str, found: Points = ()) -> Markup:
    """The most true positives of any membership test, over its false positives; guessing below.

    Args:
        name: a word that no other chart of the page has; its ids begin with it.
        limit: what its `attacker_true_positive_rate` says is drawn.
        label: what the chart shows, for who cannot see it.
        found: false- and true-positive rates that an attack was measured to have.
    """
    from matplotlib.ticker import FuncFormatter

    # Denser near 0, where the curve of a large epsilon bends.
    rates = [(n / 200) ** 3 for n in range(201)]
    best = [limit.attacker_true_positive_rate(rate) for rate in rates]
    with _style({"axes.grid.axis": "both"}):
        figure, axes = _canvas(TALL)
        axes.fill_between(rates, best, rates, color=_SOFT, linewidth=0)
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1.2, dashes=(4, 3), clip_on=False)
        axes.plot(rates, best, color=_SERIES, clip_on=False)
        if found:
            axes.plot(*zip(*found, strict=True), color=_INK, linewidth=1.4, dashes=(1.2, 1.2))
            below = max((y for x, y in found if x <= 0.4), default=0.0)
            axes.text(0.43, below - 0.02, "measured", color=_INK, va="top")
        axes.text(0.52, 0.465, "guessing", color=_MUTED, va="top")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="wrongly named, of those not in the data")
        axes.set_title("found, of those in the data", loc="left", color=_MUTED, fontsize=11)
        ticks = FuncFormatter(lambda value, _: f"{100 * value:.0f}%")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
            axis.set_major_formatter(ticks)
        return _svg(figure, name, label)


@contextmanager
def _style(more: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """The page's own style, whatever the user's matplotlibrc says."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()
        rcParams.update({**_STYLE, **(more or {})})
        yield


def _canvas(size: Size) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_visible(False)
    return figure, figure.add_subplot()


def _line(axes: Axes, steps: Sequence[float], values: Sequence[float]) -> None:
    every = range(len(steps)) if len(steps) <= _MARKED else [len(steps) - 1]
    axes.plot(
        steps,
        values,
        color=_SERIES,
        linewidth=2 if len(steps) <= _DENSE else 1.2,
        marker="o",
        markersize=5,
        markeredgecolor=_PAPER,
        markeredgewidth=1.2,
        markevery=list(every),
        clip_on=False,
    )


def _level(axes: Axes, level: Level) -> None:
    axes.axhline(level.value, color=_MUTED, linewidth=1.2, dashes=(4, 3))
    axes.annotate(
        level.label,
        (0, level.value),
        xycoords=("axes fraction", "data"),
        xytext=(2, 4),
        textcoords="offset points",
        color=_MUTED,
    )


def _limit(axes: Axes, values: Iterable[float], from_zero: bool, as_percent: bool) -> None:
    """Round limits that leave air above, and never leave the range of a fraction."""
    low, high = min(values := list(values)), max(values)
    starts_at_zero = from_zero and low >= 0
    air = 0.12 * (high - (0 if starts_at_zero else low)) or 0.1 * abs(high) or 0.1
    bottom = 0.0 if starts_at_zero else low - air
    top = high + air
    if as_percent and low >= 0 and high <= 1:
        bottom, top = max(0.0, bottom), min(1.0, top)
    axes.set_ylim(bottom, top)


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an element that can stand inside a page beside others."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, name)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": label,
        "class": "chart",
    }
    text = ElementTree.tostring(root, encoding="unicode")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return Markup(text)  # ElementTree escaped the label


def _clean(root: ElementTree.Element, name: str) -> None:
    """Keeps what is drawn, without metadata and page-wide style, under ids of the chart's own."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib = {key: _own(key, value, name) for key, value in attributes.items()}
        if element.tag == "text":
            element.attrib["style"] = _without_family(element.attrib.get("style", ""))
        if element.tag == "g":  # groups carry ids that nothing refers to
            element.attrib.pop("id", None)


def _local(tag: Any) -> str:
    return str(tag).rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    return value.replace("url(#", f"url(#{name}-") if key == "clip-path" else value


def _without_family(style: str) -> str:
    kept = (part.strip() for part in style.split(";"))
    parts = [part for part in kept if part and not part.startswith("font")]
    return "; ".join(parts)
