"""Batches of one size, drawn anew each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deniable.events import GaussianEvent, SampledWithoutReplacementEvent
from deniable.sampling.base import Sampler
from deniable.units import Neighbouring

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FixedSizeSampler(Sampler):
    """Each batch is a uniformly random subset of exactly `batch_size` examples.

    Guarantees: batches are independent of each other and of the data. Stated under replacement
    alone: with one example more, everybody's chance to be drawn is another, and no sum of fixed
    size gains a member without losing one.

    >>> sampler = FixedSizeSampler(examples=1_437, batch_size=128)
    >>> len(sampler.draw())
    128
    """

    name = "fixed-size"
    in_place = True
    relations = (Neighbouring.REPLACE,)
    why_not = "with one example more, every other is drawn less often"

    def event(self, inner: GaussianEvent) -> SampledWithoutReplacementEvent:
        """The event of releasing `inner` on one drawn batch."""
        return SampledWithoutReplacementEvent(self.examples, self.batch_size, inner)

    def draw(self) -> NDArray[np.int64]:
        """The sorted indices of one logical batch, shape (batch_size,)."""
        return self._subset(self.batch_size, self.examples)

    @property
    def in_words(self) -> str:
        """How batches come about and what the guarantee makes of it."""
        return (
            f"Batches have one size: each step draws {self.batch_size:,} of the {self.examples:,} "
            "examples at random, whoever was drawn before. The guarantee counts on that chance."
        )
