"""What attacks found, to look at: curves on logarithmic axes, and sheets of pictures.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from deniable.audit.roc import ATTACKS, POINTS, Roc
from deniable.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION, figure_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deniable.units import PrivacyCurve

Points = Sequence[tuple[float, float]]
COLOURS = (VERMILION, ORANGE, PURPLE, SKY, BLUE)
BOUND = GREEN


FEWEST = 10


@dataclass(frozen=True)
class Curves:
    """One model under attack.

    Attributes:
        title: which.
        attacks: by what the legend calls them, pairs of false and true positive rate.
        allowed: what epsilon allows at each false positive rate; None without privacy.
    """

    title: str
    attacks: Mapping[str, Points]
    allowed: Points | None = None

    @classmethod
    def of(cls, title: str, found: Mapping[str, Roc], guarantee: PrivacyCurve | None) -> Self:
        """The curves of attacks by their short names, and of what a guarantee allows.

        Args:
            title: which model.
            found: by a name of `ATTACKS`.
            guarantee: what is proved of the model; None: nothing.
        """
        attacks = {ATTACKS[name]: roc.points() for name, roc in found.items()}
        if guarantee is None:
            return cls(title, attacks)
        rates = np.geomspace(1e-6, 1.0, POINTS).tolist()
        allowed = [(rate, guarantee.attacker_true_positive_rate(rate)) for rate in rates]
        return cls(title, attacks, allowed)


@dataclass(frozen=True)
class Picture:
    """One picture of a sheet.

    Attributes:
        pixels: in [0, 1], `(height, width)`, or `(height, width, 3)` in colours.
        caption: what stands below.
    """

    pixels: npt.NDArray[Any]
    caption: str = ""


@dataclass(frozen=True)
class Strip:
    """One row of a sheet.

    Attributes:
        label: what stands before it.
        pictures: from left to right.
        title: what stands above it.
    """

    label: str
    pictures: Sequence[Picture]
    title: str = field(default="", kw_only=True)


def draw_curves(path: Path, panels: Sequence[Curves], non_members: int) -> None:
    """ROC curves side by side, with the diagonal of blind guessing and what epsilon allows.

    Axes begin where `FEWEST` are wrongly accused: below, chance alone may carry a curve past what
    epsilon allows.

    Args:
        path: the file to replace; its ending says the form (.svg, .png, .pdf).
        panels: from left to right.
        non_members: how many could be accused wrongly.

    Raises:
        SettingsError: the folder does not exist, or the ending is unknown.
    """
    with figure_file(path, (1.2 + 4.9 * len(panels), 5.0)) as figure:
        found = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(found, panels, strict=True):
            _curves(axes, panel, min(0.1, FEWEST / non_members))
        found[0].set_ylabel("members rightly accused (true positives)")


def _curves(axes: Axes, panel: Curves, least: float) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    if panel.allowed is not None:
        false, true = zip(*panel.allowed, strict=True)
        axes.fill_between(false, true, 1.0, color=BOUND, alpha=0.10, linewidth=0)
        axes.plot(false, true, color=BOUND, linewidth=1.8, label="the most that epsilon allows")
    for (name, points), colour in zip(panel.attacks.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.7, label=name)
    axes.plot([least, 1], [least, 1], color=INK, linewidth=1, linestyle="--",
              label="blind guessing")  # fmt: skip
    axes.set(xlim=(least, 1), ylim=(least, 1))
    axes.set_aspect("equal")
    axes.set_xlabel("non-members wrongly accused (false positives)")
    axes.set_title(panel.title, loc="left", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=MUTED, loc="upper left")


def draw_sheet(path: Path, strips: Sequence[Strip], scale: float = 1.0) -> None:
    """Pictures in rows, each in its own contrast from 0 to 1.

    Args:
        path: the file to replace; its ending says the form (.svg, .png, .pdf).
        strips: from top to bottom.
        scale: of a picture, in inches.

    Raises:
        SettingsError: the folder does not exist, or the ending is unknown.
    """
    across = max(len(strip.pictures) for strip in strips)
    margin = 0.085 * max(len(line) for strip in strips for line in strip.label.split("\n")) + 0.1
    heights = [_height(strip, scale) for strip in strips]
    size = (margin + across * scale * 1.08 + 0.1, sum(heights) + 0.1)
    with figure_file(path, size) as figure:
        figure.set_layout_engine("none")
        top = size[1] - 0.05
        for strip, height in zip(strips, heights, strict=True):
            _strip(figure, strip, top, margin, scale)
            top -= height


def inversion_strips(
    classes: Sequence[str], found: Mapping[str, Sequence[npt.NDArray[Any]]]
) -> list[Strip]:
    """A sheet of recovered classes: one column a class, one row a model or what it is held against.

    Args:
        classes: what each is called.
        found: by what stands before the row, one image a class.
    """
    strips = [
        Strip(label, [Picture(pixels(image)) for image in images])
        for label, images in found.items()
    ]
    named = [
        Picture(each.pixels, name) for each, name in zip(strips[-1].pictures, classes, strict=True)
    ]
    return [*strips[:-1], Strip(strips[-1].label, named)]


@dataclass(frozen=True)
class Case:
    """One example with what two models say of it.

    Attributes:
        pixels: the image.
        label: what it is called in the data.
        plain: what the model without privacy takes it for, and how likely that is to it.
        private: the same of the private model.
        doubt: how likely the label is to the private model.
    """

    pixels: npt.NDArray[Any]
    label: str
    plain: tuple[str, float]
    private: tuple[str, float]
    doubt: float

    def picture(self, names: tuple[str, str]) -> Picture:
        """With its caption; the models are called by these names, the private one first."""
        first, second = names
        said = f"{second}: {self.plain[0]} ({_share(self.plain[1])})"
        said += f"\n{first}: {self.private[0]} ({_share(self.private[1])})"
        if self.private[0] != self.label:
            said += f"\n{self.label} itself: {_share(self.doubt)}"
        return Picture(self.pixels, f"labelled {self.label}\n{said}")


def case_strips(
    cases: Sequence[Case], across: int, title: str, names: tuple[str, str]
) -> list[Strip]:
    """Examples in reading order, with what both models say of each.

    Args:
        cases: the most notable first.
        across: how many stand in a row.
        title: what stands above them.
        names: what the private model is called, and the other.
    """
    return [
        Strip("", [each.picture(names) for each in cases[start : start + across]],
              title="" if start else title)
        for start in range(0, len(cases), across)
    ]  # fmt: skip


def pixels(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image of a data set, `(channels, height, width)`, as pictures have it."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _share(probability: float) -> str:
    """A probability in whole percents, none of which is said to be certain.

    >>> _share(0.962), _share(0.9999), _share(0.0)
    ('96%', 'over 99%', 'under 1%')
    """
    if probability > 0.99:
        return "over 99%"
    return "under 1%" if probability < 0.01 else f"{100 * probability:.0f}%"


def _height(strip: Strip, scale: float) -> float:
    lines = max(
        (each.caption.count("\n") + 1 for each in strip.pictures if each.caption), default=0
    )
    return scale + 0.13 * lines + (0.3 if strip.title else 0.0) + 0.1


def _strip(figure: Figure, strip: Strip, top: float, margin: float, scale: float) -> None:
    width, height = figure.get_size_inches()
    if strip.title:
        figure.text(0.1 / width, (top - 0.17) / height, strip.title, color=INK, fontsize=9.5)
        top -= 0.3
    middle = (top - scale / 2) / height
    figure.text((margin - 0.1) / width, middle, strip.label, ha="right", va="center", fontsize=8.5,
                color=MUTED)  # fmt: skip
    for position, picture in enumerate(strip.pictures):
        left = margin + position * scale * 1.08
        axes = figure.add_axes(
            (left / width, (top - scale) / height, scale / width, scale / height)
        )
        axes.imshow(picture.pixels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        figure.text((left + scale / 2) / width, (top - scale - 0.03) / height, picture.caption,
                    ha="center", va="top", fontsize=6.8, color=INK, linespacing=1.15)  # fmt: skip
