"""Which charts the page shows, and the table of the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from deniable import words
from deniable.report import charts
from deniable.report.record import Record, number
from deniable.units import PrivacyCurve, Spent

_MOST_ROWS = 100  # a longer history is thinned in the table, never in the charts


@dataclass(frozen=True)
class Figure:
    """A chart with its title and what it says in words; no chart where nothing was recorded."""

    title: str
    caption: str
    chart: Markup | None


@dataclass(frozen=True)
class Numbers:
    """The history as text.

    Attributes:
        rows: step, epoch, what was measured, epsilon.
        measured: what that is.
        exact: step, training loss, mean norm, share clipped, examples drawn: not private.
        left_out: how many rows of the history are not in them.
    """

    measured: str
    rows: list[list[str]]
    exact: list[list[str]]
    left_out: int


def figures(
    record: Record, spent: Spent | None, limit: Spent | PrivacyCurve | None
) -> dict[str, Figure]:
    """The charts of a run, by name."""
    target = number(record.section("settings"), "epsilon")
    norm = number(record.section("bound"), "norm")
    return {
        "accuracy": _over_steps(
            record, "validation_perplexity", "Perplexity per character of the validation text"
        )
        if record.is_text
        else _over_steps(record, "test_accuracy", "Test accuracy", as_percent=True),
        "epsilon": _over_steps(
            record,
            "epsilon",
            "Epsilon spent",
            show=words.rounded_up,
            from_zero=True,
            level=None if target is None else charts.Level(target, f"budget {target:g}"),
            nothing="Without noise it is infinite from the first step."
            if record.non_private
            else "Nothing was recorded.",
        ),
        "loss": _over_steps(
            record, "train_loss", "Training loss", from_zero=True, size=charts.NARROW
        ),
        "norm": _over_steps(
            record,
            "mean_norm",
            "Mean gradient norm",
            from_zero=True,
            level=None if norm is None else charts.Level(norm, f"bound {norm:g}"),
            size=charts.NARROW,
        ),
        "clipped": _over_steps(
            record,
            "clip_fraction",
            "Share clipped",
            from_zero=True,
            as_percent=True,
            size=charts.NARROW,
        ),
        **({"attacker": _attacker(limit)} if limit and limit.is_private else {}),
    }


def numbers(record: Record) -> Numbers:
    """The history as tables, evenly thinned where it is long; the last row always stays."""
    history = record.history
    stride = -(-len(history) // _MOST_ROWS) or 1
    kept = history[::-1][::stride][::-1]
    return Numbers(
        measured="validation perplexity" if record.is_text else "test accuracy",
        rows=[
            [
                words.significant(number(row, "step")),
                words.significant(number(row, "epoch"), 3),
                words.significant(number(row, "validation_perplexity"))
                if record.is_text
                else words.percent(number(row, "test_accuracy"), 2),
                words.rounded_up(number(row, "epsilon")),
            ]
            for row in kept
        ],
        exact=[
            [
                words.significant(number(row, "step")),
                words.significant(number(row, "train_loss")),
                words.significant(number(row, "mean_norm")),
                words.percent(number(row, "clip_fraction")),
                words.significant(number(row, "rows")),
            ]
            for row in kept
        ],
        left_out=len(history) - len(kept),
    )


def _over_steps(
    record: Record,
    key: str,
    title: str,
    *,
    show: Callable[[float], str] | None = None,
    as_percent: bool = False,
    from_zero: bool = False,
    level: charts.Level | None = None,
    size: charts.Size = charts.WIDE,
    nothing: str = "Nothing was recorded.",
) -> Figure:
    points = record.series(key)
    if not points:
        return Figure(title, nothing, None)
    show = show or (words.percent if as_percent else words.significant)
    first, last = points[0], points[-1]
    caption = f"{show(last[1])} at step {last[0]:,.0f}"
    if len(points) > 1:
        caption = f"From {show(first[1])} at step {first[0]:,.0f} to {caption}"
    chart = charts.history(
        key.replace("_", "-"),
        points,
        label=f"{title} over steps. {caption}.",
        as_percent=as_percent,
        from_zero=from_zero,
        level=level,
        size=size,
    )
    return Figure(title, f"{caption}.", chart)


def _attacker(limit: Spent | PrivacyCurve) -> Figure:
    found = words.out_of_hundred(limit.attacker_true_positive_rate(0.01))
    caption = (
        "No test can be above the line. The dashed diagonal is guessing; the shaded part between "
        "them is all that an attacker can gain."
    )
    label = f"The best any attacker can do: at 1% wrongly named, at most {found}% found. {caption}"
    return Figure(
        "The best any attacker can do", caption, charts.attacker("attacker", limit, label=label)
    )
