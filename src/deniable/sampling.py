"""Who is in a batch, and the event that this is (contract 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deniable.errors import PlanError
from deniable.events import GaussianEvent, PoissonSampledEvent

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PoissonSampler:
    """Each example joins each batch independently, with probability `batch_size / examples`.

    Drawn as a binomial size and then a uniform subset of that size, which is the same distribution
    at the cost of the batch rather than of the data set.

    Guarantees: batches are independent of each other and of the data; their size varies and may
    be 0.

    Args:
        examples: the public number of examples.
        batch_size: the expected batch size.
        generator: the stream that decides who joins; nothing else may draw from it.

    Raises:
        PlanError: not `1 <= batch_size <= examples`.
    """

    def __init__(self, examples: int, batch_size: int, generator: np.random.Generator) -> None:
        if not 1 <= batch_size <= examples:
            raise PlanError(
                f"batch_size must lie between 1 and the number of examples, {examples}, "
                f"got {batch_size!r}."
            )
        self.examples = examples
        self.batch_size = batch_size
        self.generator = generator

    @property
    def sampling_rate(self) -> float:
        """The probability with which an example joins a batch."""
        return self.batch_size / self.examples

    def event(self, inner: GaussianEvent) -> PoissonSampledEvent:
        """The event of releasing `inner` on one drawn batch."""
        return PoissonSampledEvent(self.sampling_rate, inner)

    def draw(self) -> NDArray[np.int64]:
        """The sorted indices of one logical batch, shape (drawn,); there may be none."""
        size = self.generator.binomial(self.examples, self.sampling_rate)
        chosen = self.generator.choice(self.examples, size, replace=False, shuffle=False)
        chosen.sort()
        return chosen.astype(np.int64, copy=False)
