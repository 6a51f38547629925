"""A plan's steps, one after another: who is in each batch, and what releasing it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deniable.events import GaussianEvent, SampledEvent
from deniable.sampling import Sampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deniable.plan.plan import Plan


@dataclass(frozen=True)
class Draw:
    """One logical batch.

    Attributes:
        indices: the sorted indices of who is in it; None where the user's own loader decides.
        batch_size: the expected number, which the sum is divided by; public.
        event: what releasing it is, with the noise that the step is to have.
    """

    indices: NDArray[np.int64] | None
    batch_size: int
    event: SampledEvent


class Drawing:
    """Draws a plan's batches, each as the plan has it for its step.

    Args:
        plan: how batches come about at each step.
        generator: the stream that decides who joins; keyed by the operating system if not given.

    Attributes:
        sampling: what draws, or stands for the user's loader.
        step: which step is drawn next, counted from 0.

    >>> from deniable.plan import Plan, Schedule
    >>> halved = Schedule(((2, 1.0), (1, 0.5)))
    >>> plan = Plan(100, 10, steps=3, noise_multiplier=2.0, delta=1e-3, noise_schedule=halved)
    >>> drawing = Drawing(plan)
    >>> [drawing.next().event.event.noise_multiplier for _ in range(3)]
    [2.0, 2.0, 1.0]
    """

    def __init__(self, plan: Plan, generator: np.random.Generator | None = None) -> None:
        self.plan = plan
        self.begin_anew(generator)

    def begin_anew(self, generator: np.random.Generator | None) -> None:
        """From the first step on, with another stream that decides who joins."""
        self.sampling, self.step = self.plan.sampler(generator), 0

    def next(self) -> Draw:
        """The batch of the next step.

        Raises:
            PlanError: the plan has no further step.
        """
        phase = self.plan.at(self.step)
        if self.step == phase.start:
            self.sampling.begin(phase.batch_size)
        drawn = self.sampling.draw() if isinstance(self.sampling, Sampler) else None
        event = self.sampling.event(GaussianEvent(phase.noise_multiplier, self.plan.neighbouring))
        self.step += 1
        return Draw(drawn, phase.batch_size, event)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to draw the same batches from here on, as JSON values."""
        return {"step": self.step, **self.sampling.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.step = state["step"]
        self.sampling.begin(self.plan.at(max(0, self.step - 1)).batch_size)
        self.sampling.restore(state)
