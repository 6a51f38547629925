"""Disjoint parts of a data set, one a worker, and drawing from a part at the rate of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deniable.errors import PlanError
from deniable.grouping import Unit

Indices = NDArray[np.int64]


def sizes_by(speeds: Sequence[float], units: int) -> list[int]:
    """How many units each worker gets, in proportion to its speed (largest remainders).

    Raises:
        PlanError: a speed is not above 0.

    >>> sizes_by([1.0, 1.0, 2.0], 10)
    [3, 2, 5]
    """
    if not speeds or not all(0 < each < float("inf") for each in speeds):
        raise PlanError(f"Speeds must be finite and above 0, got {list(speeds)!r}.")
    exact = [units * each / sum(speeds) for each in speeds]
    sizes = [int(each) for each in exact]
    behind = sorted(range(len(sizes)), key=lambda index: sizes[index] - exact[index])
    for index in behind[: units - sum(sizes)]:
        sizes[index] += 1
    return sizes


def members(sizes: Sequence[int], worker: int) -> Indices:
    """The units of one worker, sorted: part of a fixed permutation that no data chose.

    Parts of one list of sizes are disjoint and cover everything. A permutation, because data sets
    are often sorted by class.

    Args:
        sizes: of all parts.
        worker: whose, counted from 0.

    Raises:
        PlanError: a size is negative, or there is no such worker.
    """
    if not 0 <= worker < len(sizes) or not all(each >= 0 for each in sizes):
        raise PlanError(f"No part {worker} of parts of the sizes {list(sizes)!r}.")
    order = np.random.default_rng(0).permutation(sum(sizes))
    start = sum(sizes[:worker])
    return np.sort(order[start : start + sizes[worker]]).astype(np.int64)


class Part(Unit):
    """The units of one part, drawn as the whole is drawn.

    Who joins is decided for everybody, and who is not of this part is left out: each unit of the
    part joins independently, at the rate of the whole.

    Args:
        unit: what is drawn.
        members: the units of the part, sorted.
        units: how many there are in the whole.
    """

    def __init__(self, unit: Unit, members: Indices, units: int) -> None:
        self.unit, self.members, self.units = unit, members, units
        self.protects, self.sensitivity_factor = unit.protects, unit.sensitivity_factor
        self._is_mine = np.zeros(units, bool)
        self._is_mine[members] = True
        self._holds_all = True

    def population(self, rows: int) -> int:
        """The units of the whole, of which the data hold all, or this part alone."""
        found = self.unit.population(rows)
        self._holds_all = found == self.units
        if found not in (self.units, len(self.members)):
            raise PlanError(
                f"A worker expects the whole data set of {self.units} units, or its own part of "
                f"{len(self.members)}; got {found}."
            )
        return self.units

    def rows(
        self, drawn: Indices, generator: np.random.Generator, batch_size: int
    ) -> tuple[Indices, Sequence[int] | None]:
        """The rows of those drawn units that are of the part."""
        mine = drawn[self._is_mine[drawn]]
        if not self._holds_all:
            mine = np.searchsorted(self.members, mine)
        return self.unit.rows(mine, generator, batch_size)

    def denominator(self, batch_size: int) -> int:
        """The public number that the sum of all parts is divided by."""
        return self.unit.denominator(batch_size)

    def augment(self, batch: Any) -> Any:
        """The rows as the model shall see them."""
        return self.unit.augment(batch)

    def settings(self) -> dict[str, Any]:
        """Those of the unit: a part changes who is drawn, not what is protected."""
        return self.unit.settings()
