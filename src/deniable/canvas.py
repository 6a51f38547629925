"""A figure in a file: the one style of all of them, and what is wrong with the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deniable.errors import SettingsError
from deniable.runfolder import replaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1b1f24", "#5a6470", "#dfe2e5"
# Distinguishable to all readers (Okabe & Ito, 2008).
ORANGE, SKY, GREEN = "#e69f00", "#56b4e9", "#009e73"
BLUE, VERMILION, PURPLE = "#0072b2", "#d55e00", "#cc79a7"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "deniable",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}
# The forms that a figure may have. Neither a date nor a version: the same figure is the same file.
_UNDATED: dict[str, Any] = {
    ".svg": {"Date": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}


def check_place(path: Path) -> None:
    """Refuses a file that no figure can go to, before any work is done for the figure.

    Raises:
        SettingsError: the folder does not exist, or the ending is another.
    """
    if path.suffix not in _UNDATED or not path.parent.is_dir() or path.is_dir():
        raise SettingsError(
            "A figure must go to a file that ends in .svg, .png or .pdf, in a folder that exists, "
            f"got {path}."
        )


@contextmanager
def figure_file(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure to draw on, which is in the file afterwards.

    Args:
        path: the file to replace, whole; its ending says the form (.svg, .png, .pdf).
        size: in inches.

    Raises:
        SettingsError: the folder does not exist, or the ending is another.
    """
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    check_place(path)
    with rc_context():
        rcdefaults()
        rcParams.update(_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with replaced(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=160, metadata=_UNDATED[path.suffix])
