"""Poisson sampling: everybody tosses a coin of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deniable.events import GaussianEvent, PoissonSampledEvent
from deniable.sampling.base import Sampler
from deniable.units import Neighbouring

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PoissonSampler(Sampler):
    """Each example joins each batch independently, with probability `batch_size / examples`.

    Guarantees: batches are independent of each other and of the data; their size varies and may
    be 0.

    >>> sampler = PoissonSampler(examples=60_000, batch_size=256)
    >>> sampler.event(GaussianEvent(1.1)).sampling_rate == 256 / 60_000
    True
    """

    name = "poisson"
    relations = (Neighbouring.ADD_OR_REMOVE, Neighbouring.REPLACE)

    @property
    def sampling_rate(self) -> float:
        """The probability with which an example joins a batch."""
        return self.batch_size / self.examples

    def event(self, inner: GaussianEvent) -> PoissonSampledEvent:
        """The event of releasing `inner` on one drawn batch."""
        return PoissonSampledEvent(self.sampling_rate, inner)

    def draw(self) -> NDArray[np.int64]:
        """The sorted indices of one logical batch, shape (drawn,); there may be none."""
        return self._tossed()

    @property
    def in_words(self) -> str:
        """How batches come about and what the guarantee makes of it."""
        return (
            f"Batch sizes vary: each step draws every example with probability "
            f"{self.sampling_rate:.4g}, independently of the others, {self.batch_size:,} on "
            "average. The guarantee counts on that chance."
        )
