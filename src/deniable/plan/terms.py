"""Everything about a plan but how many, how large, how noisy and how dear: its terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deniable.events import ComposedEvent, Event, GaussianEvent
from deniable.plan.schedule import Phase, Schedule, phases_of, sized
from deniable.sampling import Sampling, make_sampling
from deniable.units import Neighbouring

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Terms:
    """What stays the same while one of a plan's quantities is solved.

    Attributes:
        examples: the public number of examples.
        sampling: how batches come about, by name.
        max_batch_size: the largest batch, where there is one.
        neighbouring: which data sets are compared.
        batch_schedule: how the batch size changes over the steps.
        noise_schedule: how the noise multiplier does.
    """

    examples: int
    sampling: str
    max_batch_size: int | None
    neighbouring: Neighbouring
    batch_schedule: Schedule
    noise_schedule: Schedule

    def sampler(self, batch_size: int, generator: np.random.Generator | None = None) -> Sampling:
        """What draws batches of that size."""
        return make_sampling(
            self.sampling, self.examples, batch_size, self.max_batch_size, generator
        )

    def phases(self, batch_size: int, steps: int, noise_multiplier: float) -> tuple[Phase, ...]:
        """The steps, like with like."""
        return phases_of(
            steps, batch_size, noise_multiplier, self.batch_schedule, self.noise_schedule
        )

    def event(self, batch_size: int, steps: int, noise_multiplier: float) -> Event:
        """What all steps release."""
        return self.part(self.phases(batch_size, steps, noise_multiplier), 0, steps)

    def part(self, phases: Sequence[Phase], start: int, stop: int, begun: int = 0) -> Event:
        """What the steps from `start` on and before `stop` release, counted from 0.

        Each phase draws anew: an epoch of shuffled batches does not reach from one into the next,
        nor across the step `begun`, at which drawing began anew.
        """
        parts = [
            self.sampler(each.batch_size).part(
                GaussianEvent(each.noise_multiplier, self.neighbouring),
                max(start, each.start) - max(begun, each.start),
                min(stop, each.stop) - max(begun, each.start),
            )
            for each in phases
            if max(start, each.start) < min(stop, each.stop)
        ]
        return parts[0] if len(parts) == 1 else ComposedEvent(tuple(parts))

    def epochs(self, phases: Sequence[Phase], stop: int) -> float:
        """How many passes over the data the steps before `stop` amount to."""
        return sum(
            (min(stop, each.stop) - each.start) / (self.examples // each.batch_size)
            for each in phases
            if each.start < stop
        )

    def steps_of(self, epochs: float, batch_size: int) -> int:
        """The steps that come closest to so many passes; 0 where not even one does."""
        return round(epochs * self._steps_per_epoch(batch_size))

    def _steps_per_epoch(self, batch_size: int) -> float:
        """Whole batches in the data set; on average, where their size changes."""
        parts = [
            (length, self.examples // sized(batch_size, factor))
            for length, factor in self.batch_schedule.parts
        ]
        if len(parts) == 1:
            return parts[0][1]
        return sum(length for length, _ in parts) / sum(length / each for length, each in parts)
