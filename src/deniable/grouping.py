"""What a unit is: an example, a share of a microbatch, a user, or an example's augmented views.

A unit decides which rows of the data set are read for the units that were drawn, and how rows add
up: the gradient that a bound sees is the mean over a unit's rows. Importable without torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deniable.errors import PlanError
from deniable.units import Neighbouring, Sensitivity

Indices = NDArray[np.int64]


class Unit(ABC):
    """What is sampled, bounded and protected.

    Attributes:
        protects: what the guarantee is about, in words.
        sensitivity_factor: by how much further one protected unit can move a sum than one bounded
            gradient that is added or removed.
    """

    protects: str = "one example"
    sensitivity_factor: float = 1.0

    def population(self, rows: int) -> int:
        """How many units a data set of so many rows holds; the plan must be made for it.

        Raises:
            PlanError: the data set does not fit the unit.
        """
        return rows

    def sensitivity(
        self, one: Sensitivity, neighbouring: Neighbouring, *, in_place: bool
    ) -> Sensitivity:
        """How far one protected unit can move a sum.

        Args:
            one: how far one bounded gradient does, added or removed.
            neighbouring: the relation of the plan.
            in_place: whether batches are of places: see `Sampling.in_place`.
        """
        whole = replace(one, value=one.value * self.sensitivity_factor, unit=self.protects)
        return whole.under(neighbouring)

    @abstractmethod
    def rows(
        self, drawn: Indices, generator: np.random.Generator, batch_size: int
    ) -> tuple[Indices, Sequence[int] | None]:
        """The rows to read, and how many of them make up each bounded gradient in turn.

        None instead of sizes says that every row is bounded by itself.

        Args:
            drawn: the units in the batch.
            generator: the stream that decides who joins.
            batch_size: how many units were expected.
        """

    def denominator(self, batch_size: int) -> int:
        """The public number that the sum is divided by: how many gradients are expected."""
        return batch_size

    def augment(self, batch: Any) -> Any:
        """The rows as the model shall see them."""
        return batch

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports and ledgers."""


class Example(Unit):
    """Every row is bounded by itself, and one row is protected: the default."""

    def rows(
        self, drawn: Indices, generator: np.random.Generator, batch_size: int
    ) -> tuple[Indices, None]:
        """The drawn rows."""
        return drawn, None

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports and ledgers."""
        return {"name": "Example"}


class Microbatch(Unit):
    """Bounds the mean over about `size` examples, and still protects one example.

    Each drawn example joins one of `batch_size / size` microbatches at random, whoever else was
    drawn. One example more changes one microbatch's mean from one bounded vector to another, so
    the sum moves by up to **twice** the bound: noise is scaled to that.

    Replaced by another in its place, an example changes one mean as well, and moves the sum as far.
    That is all of it where batches are of places ("fixed-size" and "shuffled"), since there the
    other is in the very microbatch. Under Poisson sampling both are compared with nobody, from whom
    each may be twice the bound away on opposite sides: noise is scaled to **four** times it.

    Args:
        size: the expected number of examples in a microbatch; any batch size fits.

    Raises:
        PlanError: the size is not a whole number of at least 1.
    """

    sensitivity_factor = 2.0

    def __init__(self, size: int) -> None:
        if not (isinstance(size, int) and size >= 1):
            raise PlanError(f"A microbatch needs a size of at least 1, got {size!r}.")
        self.size = size

    def sensitivity(
        self, one: Sensitivity, neighbouring: Neighbouring, *, in_place: bool
    ) -> Sensitivity:
        """Twice the bound; four times it where an example is replaced and may also be nowhere."""
        added = super().sensitivity(one, one.neighbouring, in_place=in_place)
        if in_place:
            return replace(added, neighbouring=neighbouring)
        return added.under(neighbouring)

    def denominator(self, batch_size: int) -> int:
        """How many microbatches the expected batch makes."""
        return math.ceil(batch_size / self.size)

    def rows(
        self, drawn: Indices, generator: np.random.Generator, batch_size: int
    ) -> tuple[Indices, list[int]]:
        """The drawn rows, microbatch by microbatch."""
        count = self.denominator(batch_size)
        slots = generator.integers(count, size=len(drawn))
        order = np.argsort(slots, kind="stable")
        return drawn[order], np.bincount(slots, minlength=count).tolist()

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports and ledgers."""
        return {"name": "Microbatch", "size": self.size}


class User(Unit):
    """Samples, bounds and protects users: all rows of a user at once.

    The plan counts users: `examples` is their number and `batch_size` how many are expected in a
    batch. A user's gradient is the mean over the user's rows.

    Args:
        unit_id: whose each row is, one hashable value for each row of the data set.
        rows_at_most: read at most so many of a user's rows a step, chosen at random each time.

    Raises:
        PlanError: no rows, or a limit below 1.
    """

    protects = "one user, with all of their rows"

    def __init__(self, unit_id: ArrayLike, rows_at_most: int | None = None) -> None:
        owners = np.asarray(unit_id)
        if owners.ndim != 1 or not len(owners):
            raise PlanError(
                f"unit_id must hold one value for each row, got an array of shape {owners.shape}."
            )
        if rows_at_most is not None and not (isinstance(rows_at_most, int) and rows_at_most >= 1):
            raise PlanError(
                f"rows_at_most must be a whole number of at least 1, got {rows_at_most!r}."
            )
        listed = owners.tolist()
        missing = [k for k, each in enumerate(listed) if each is None or each != each]
        if missing:
            raise PlanError(
                f"unit_id does not say whose row {missing[0]} is (None or NaN), and so of "
                f"{len(missing)} in all: were they one person's, that person would be protected "
                "row by row only. Give each an id, or leave these rows out of the data."
            )
        kinds = {type(each) for each in listed}
        if len(kinds) > 1:
            names = ", ".join(sorted(each.__name__ for each in kinds))
            raise PlanError(f"unit_id must hold values of one type, to be told apart, got {names}.")
        self.rows_at_most = rows_at_most
        _, owner = np.unique(owners, return_inverse=True)
        order = np.argsort(owner, kind="stable").astype(np.int64)
        self._rows_of = np.split(order, np.cumsum(np.bincount(owner))[:-1])
        self._length = len(owners)

    def population(self, rows: int) -> int:
        """The number of users."""
        if rows != self._length:
            raise PlanError(
                f"unit_id names the owners of {self._length} rows, but the data set holds {rows}."
            )
        return len(self._rows_of)

    def rows(
        self, drawn: Indices, generator: np.random.Generator, batch_size: int
    ) -> tuple[Indices, list[int]]:
        """The rows of the drawn users, user by user."""
        chosen = [self._chosen(self._rows_of[user], generator) for user in drawn]
        flat = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
        return flat, [len(each) for each in chosen]

    def _chosen(self, rows: Indices, generator: np.random.Generator) -> Indices:
        if self.rows_at_most is None or len(rows) <= self.rows_at_most:
            return rows
        return np.sort(generator.choice(rows, self.rows_at_most, replace=False))

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports and ledgers."""
        return {"name": "User", "rows_at_most": self.rows_at_most}


class Augmented(Unit):
    """Bounds the mean over several augmented views of each example, and protects one example.

    Averaging before the bound costs no privacy (De et al., 2022, "Unlocking High-Accuracy
    Differentially Private Image Classification through Scale", section 3.2).

    Args:
        views: how many views of each example; they lie next to each other in the batch.
        transform: from a batch's inputs, every example repeated `views` times, to its views; None
            where reading the data set augments already. It must treat each row by itself (no
            mixup, no statistics of the batch): **nobody checks that**.

    Raises:
        PlanError: fewer than one view, or a transform that is no function.
    """

    def __init__(self, views: int, transform: Callable[[Any], Any] | None = None) -> None:
        if not (isinstance(views, int) and views >= 1):
            raise PlanError(f"An example needs at least 1 view, got {views!r}.")
        if not (transform is None or callable(transform)):
            raise PlanError(
                "The transform of augmented views must be a function of a batch's inputs, got "
                f"{transform!r}."
            )
        self.views, self.transform = views, transform

    def rows(
        self, drawn: Indices, generator: np.random.Generator, batch_size: int
    ) -> tuple[Indices, list[int]]:
        """Every drawn row, so many times."""
        return np.repeat(drawn, self.views), [self.views] * len(drawn)

    def augment(self, batch: Any) -> Any:
        """The views of the inputs, labels untouched."""
        if self.transform is None:
            return batch
        if isinstance(batch, (tuple, list)):
            return type(batch)([self.transform(batch[0]), *batch[1:]])
        return self.transform(batch)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports and ledgers."""
        return {"name": "Augmented", "views": self.views}
