"""Poisson sampling with a largest batch, for memory and compilers that want one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deniable.errors import PlanError
from deniable.events import GaussianEvent, TruncatedPoissonSampledEvent
from deniable.sampling.base import Sampler
from deniable.units import Neighbouring

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TruncatedPoissonSampler(Sampler):
    """A Poisson sample; of one with more than `max_batch_size` examples, that many at random.

    Guarantees: no batch is larger than `max_batch_size`; batches are independent of each other and
    of the data. It is not accounted as Poisson: where a sample overflows, who is drawn pushes
    someone else out, so that the sum moves twice as far.

    Args:
        examples: the public number of examples.
        batch_size: the expected size of the Poisson sample.
        generator: the stream that decides who joins; keyed by the operating system if not given.
        max_batch_size: the largest batch, at least `batch_size`; several standard deviations
            above it, `batch_size + 5 * sqrt(batch_size)`, cost next to nothing.

    Raises:
        PlanError: a size out of its range.

    >>> sampler = TruncatedPoissonSampler(60_000, 256, max_batch_size=300)
    >>> max(len(sampler.draw()) for _ in range(1000)) <= 300
    True
    """

    name = "truncated-poisson"
    relations = (Neighbouring.ADD_OR_REMOVE, Neighbouring.REPLACE)

    def __init__(
        self,
        examples: int,
        batch_size: int,
        generator: np.random.Generator | None = None,
        *,
        max_batch_size: int,
    ) -> None:
        self.max_batch_size = max_batch_size
        super().__init__(examples, batch_size, generator)

    def begin(self, batch_size: int) -> None:
        """Begin steps of this expected batch size."""
        super().begin(batch_size)
        if not batch_size <= self.max_batch_size <= self.examples:
            raise PlanError(
                f"max_batch_size must lie between batch_size = {batch_size} and examples = "
                f"{self.examples}, got {self.max_batch_size!r}. Take {batch_size} + 5 * "
                f"sqrt({batch_size}), which is almost never reached."
            )

    @property
    def sampling_rate(self) -> float:
        """The probability with which an example joins the sample, before any is cut off."""
        return self.batch_size / self.examples

    def event(self, inner: GaussianEvent) -> TruncatedPoissonSampledEvent:
        """The event of releasing `inner` on one drawn batch."""
        return TruncatedPoissonSampledEvent(
            self.examples, self.sampling_rate, self.max_batch_size, inner
        )

    def draw(self) -> NDArray[np.int64]:
        """The sorted indices of one logical batch, shape (drawn,); there may be none."""
        drawn = self._tossed()
        over = len(drawn) > self.max_batch_size
        return drawn[self._subset(self.max_batch_size, len(drawn))] if over else drawn

    @property
    def in_words(self) -> str:
        """How batches come about and what the guarantee makes of it."""
        return (
            f"Batch sizes vary: each step draws every example with probability "
            f"{self.sampling_rate:.4g}, independently of the others, {self.batch_size:,} on "
            f"average, and keeps {self.max_batch_size:,} at random where there are more. The "
            "guarantee counts on that chance, and on no batch being larger."
        )
