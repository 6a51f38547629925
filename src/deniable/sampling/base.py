"""What a sampling is, and what one that draws its batches itself does besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deniable.errors import PlanError
from deniable.events import Event, GaussianEvent, SampledEvent, SelfComposedEvent
from deniable.units import Neighbouring

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = NDArray[np.int64]


class Sampling(ABC):
    """How batches come about.

    Formal guarantee: for each relation in `relations`, a batch and the noise on its sum are what
    `event` says, whatever the data are.

    Args:
        examples: the public number of examples.
        batch_size: the expected batch size, or the exact one where it is fixed.

    Attributes:
        name: how plans and commands ask for it.
        relations: the neighbouring relations that it can be stated under, the usual one first.
        why_not: why it is no guarantee under the other relations, where there are any.
        amplifies: whether the guarantee counts on the chance of who is in a batch.
        in_place: whether a batch is a fixed number of places: who is not in it leaves their place
            to another, or empty, and who is replaced leaves it to who comes.
        period: how many successive steps are accounted for together.

    Raises:
        PlanError: not `1 <= batch_size <= examples`.
    """

    name: ClassVar[str]
    relations: ClassVar[tuple[Neighbouring, ...]]
    why_not: ClassVar[str] = ""
    amplifies: ClassVar[bool] = True
    in_place: ClassVar[bool] = False
    period: int = 1

    def __init__(self, examples: int, batch_size: int) -> None:
        self.examples = examples
        self.begin(batch_size)

    def begin(self, batch_size: int) -> None:
        """Begin steps of this batch size, which are accounted for apart from those before.

        Raises:
            PlanError: not `1 <= batch_size <= examples`.
        """
        if not 1 <= batch_size <= self.examples:
            raise PlanError(
                f"batch_size must lie between 1 and the number of examples, {self.examples}, "
                f"got {batch_size!r}."
            )
        self.batch_size = batch_size

    @abstractmethod
    def event(self, inner: GaussianEvent) -> SampledEvent:
        """The event of releasing `inner` on the batch drawn last."""

    def planned(self, inner: GaussianEvent) -> Event:
        """What a plan counts: the event of `period` successive steps."""
        return self.event(inner)

    def part(self, inner: GaussianEvent, start: int, stop: int) -> SelfComposedEvent:
        """What the steps from `start` on and before `stop` release, counted from 0.

        Parts that follow each other add up to the whole.
        """
        count = -(-stop // self.period) - -(-start // self.period)
        return SelfComposedEvent(self.planned(inner), count)

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `restore` needs to draw the same batches from here on, as JSON values."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""

    @property
    @abstractmethod
    def in_words(self) -> str:
        """How batches come about and what the guarantee makes of it, for who has never asked."""


class Sampler(Sampling):
    """A sampling that draws its batches, from a stream of randomness of its own.

    Args:
        examples: the public number of examples.
        batch_size: the expected batch size, or the exact one where it is fixed.
        generator: the stream that decides who joins, from which nothing else may draw; one keyed
            by the operating system if not given.
    """

    def __init__(
        self, examples: int, batch_size: int, generator: np.random.Generator | None = None
    ) -> None:
        super().__init__(examples, batch_size)
        self.generator = generator or np.random.default_rng()

    @abstractmethod
    def draw(self) -> Indices:
        """The sorted indices of one logical batch, shape (drawn,); there may be none."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs to draw the same batches from here on, as JSON values."""
        return {"generator": dict(self.generator.bit_generator.state)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.generator.bit_generator.state = state["generator"]

    def _tossed(self) -> Indices:
        """Who is chosen by a coin of their own, which falls so `batch_size` times on average.

        Sorted. Drawn as gaps: how many coins come until the next one that falls so is geometric,
        and independent of all others. That costs the batch rather than the data set.
        """
        rate, last, parts = self.batch_size / self.examples, -1, []
        while last < self.examples:
            gaps = self.generator.geometric(rate, self.batch_size + 6 * isqrt(self.batch_size) + 16)
            parts.append(np.minimum(gaps, self.examples + 1).cumsum() + last)
            last = int(parts[-1][-1])
        places = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return places[: places.searchsorted(self.examples)]

    def _subset(self, size: int, of: int) -> Indices:
        """A uniformly random subset of so many of the numbers below `of`, sorted."""
        chosen = self.generator.choice(of, size, replace=False, shuffle=False)
        chosen.sort()
        return chosen.astype(np.int64, copy=False)
