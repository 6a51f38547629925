"""Passes over shuffled data, as training without privacy makes them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deniable.events import GaussianEvent, ShuffledEvent
from deniable.sampling.base import Sampler
from deniable.units import Neighbouring

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ShuffledSampler(Sampler):
    """Each epoch shuffles the examples and cuts them into batches of `batch_size`.

    What is left over is dropped until the next epoch.

    Guarantees: an example is in at most one batch of an epoch, so that a whole epoch costs what
    one release costs to which everybody contributes (parallel composition; McSherry, 2009,
    "Privacy Integrated Queries", theorem 4). **No amplification by the shuffling is claimed.** For
    adding or removing, a data set with fewer examples leaves their places in the batches empty.

    >>> sampler = ShuffledSampler(examples=10, batch_size=5)
    >>> sorted([*sampler.draw(), *sampler.draw()]) == list(range(10))
    True
    """

    name = "shuffled"
    amplifies = False
    in_place = True
    relations = (Neighbouring.ADD_OR_REMOVE, Neighbouring.REPLACE)

    def __init__(
        self, examples: int, batch_size: int, generator: np.random.Generator | None = None
    ) -> None:
        super().__init__(examples, batch_size, generator)
        # Not of the stream: two runs with one seed are two, and their epochs cost twice.
        self._key = secrets.token_hex(8)
        self._epoch = 0

    def begin(self, batch_size: int) -> None:
        """Begin steps of this batch size, with a new epoch."""
        super().begin(batch_size)
        self.period = self.examples // batch_size
        self._seed: list[int] = []
        self._order = np.empty(0, np.int64)
        self._taken = 0

    def event(self, inner: GaussianEvent) -> ShuffledEvent:
        """The event of releasing `inner` on the batch drawn last: one of its epoch."""
        return ShuffledEvent(self._key, self._epoch, inner)

    def planned(self, inner: GaussianEvent) -> GaussianEvent:
        """An epoch, to which everybody contributes once: `inner` alone."""
        return inner

    def draw(self) -> NDArray[np.int64]:
        """The sorted indices of the epoch's next batch, shape (batch_size,)."""
        if not self._seed or self._taken == self.period:
            self._epoch, self._taken = self._epoch + 1, 0
            self._seed = self.generator.integers(2**32, size=8).tolist()
            self._shuffle()
        start = self._taken * self.batch_size
        self._taken += 1
        return np.sort(self._order[start : start + self.batch_size])

    def state(self) -> dict[str, Any]:
        """What `restore` needs to draw the same batches from here on, as JSON values."""
        return super().state() | {
            "key": self._key,
            "epoch": self._epoch,
            "seed": self._seed,
            "taken": self._taken,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        super().restore(state)
        self._key, self._epoch = state["key"], state["epoch"]
        self._seed, self._taken = list(state["seed"]), state["taken"]
        if self._seed:
            self._shuffle()

    def _shuffle(self) -> None:
        entropy = np.random.SeedSequence(self._seed, pool_size=8)
        self._order = np.random.Generator(np.random.PCG64DXSM(entropy)).permutation(self.examples)

    @property
    def in_words(self) -> str:
        """How batches come about and what the guarantee makes of it."""
        return (
            f"Each epoch shuffles the examples and cuts them into {self.period:,} batches "
            f"of {self.batch_size:,}. No amplification by sampling is claimed for that: everybody "
            "counts as once in every epoch."
        )
