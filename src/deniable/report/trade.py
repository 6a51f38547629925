"""Epsilon against noise and against epochs, as a picture in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deniable import words
from deniable.canvas import INK, MUTED, figure_file
from deniable.errors import SettingsError
from deniable.plan import Plan
from deniable.plan.trade import LENGTH_FACTORS, trade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 21
NOISE_FACTORS = (0.5, 0.7, 1.0, 1.5, 2.0)
_SHADES = ("#0b3b4f", "#0c6b64", "#3c9a5f", "#8bbf4d", "#c9b037")

_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": MUTED}


def draw_trade(plan: Plan, path: Path) -> None:
    """Draws what more noise buys and what more epochs cost, with the plan marked.

    The trade of Boulif & Durand's figures 5 and 6, by the accountant of the plan.

    Args:
        plan: with some noise.
        path: the file to write; its ending says the form (.svg, .png, .pdf).

    Raises:
        SettingsError: the folder does not exist, the ending is unknown, or no epsilon is finite.
    """
    if not math.isfinite(plan.epsilon):
        raise SettingsError("A plan without noise has no finite epsilon: there is nothing to draw.")
    noises = trade(plan, np.geomspace(0.4, 3.0, POINTS).tolist(), LENGTH_FACTORS)
    lengths = trade(plan, NOISE_FACTORS, np.geomspace(0.05, 3.0, POINTS).tolist())
    with figure_file(path, (10.0, 4.6)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, subplot_kw={"yscale": "log"})
        columns = np.array(noises.epsilons).T
        _curves(left, noises.noise_multipliers, columns,
                [f"{words.significant(each, 3)} epochs" for each in noises.epochs],
                (plan.noise_multiplier, plan.epsilon))  # fmt: skip
        left.set_xlabel("noise multiplier")
        left.legend(**_LEGEND)
        title = f"epsilon at delta {words.scientific(plan.delta)}, by {plan.accountant.upper()}"
        left.set_title(title, loc="left", color=MUTED, fontsize=10)
        _curves(right, lengths.epochs, np.array(lengths.epsilons),
                [f"noise {words.significant(each, 3)}" for each in lengths.noise_multipliers],
                (plan.epochs, plan.epsilon))  # fmt: skip
        right.set_xlabel("epochs")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **_LEGEND)


def _curves(
    axes: Axes,
    across: Sequence[float],
    curves: np.ndarray,
    labels: Sequence[str],
    plan: tuple[float, float],
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for curve, label, colour in zip(curves, labels, _SHADES, strict=False):
        axes.plot(across, curve, color=colour, linewidth=1.9, label=label)
    axes.plot(*plan, marker="o", markersize=7, markerfacecolor="white", markeredgecolor=INK,
              linestyle="none", label="the plan", zorder=5)  # fmt: skip
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(across), max(across))
