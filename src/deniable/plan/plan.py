"""The frozen plan: what will be released, how often, and what that will cost."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deniable import words
from deniable.accounting import most_for
from deniable.accounting.tally import tally
from deniable.errors import AccountingError, PlanError
from deniable.events import ComposedEvent, Event
from deniable.numeric import is_number
from deniable.plan import checks
from deniable.plan.schedule import CONSTANT, Phase, Schedule
from deniable.plan.solve import Asked, solve
from deniable.plan.terms import Terms
from deniable.sampling import Sampling
from deniable.units import Neighbouring, finite

if TYPE_CHECKING:
    import numpy as np

SCHEDULES = ("batch_schedule", "noise_schedule")


@dataclass(frozen=True, init=False)
class Plan:
    """Training with Gaussian noise on sampled batches; solves the one quantity that is left out.

    Of `batch_size`, `epsilon`, `noise_multiplier` and `steps` (or `epochs`), give three; the fourth
    is solved so that the achieved `epsilon` never exceeds the one asked for. Steps and batch size
    are the largest that can be had. An epoch is `examples // batch_size` steps. A noise multiplier
    of 0 is allowed, for tests and baselines: epsilon is then infinite.

    A schedule multiplies the noise or the batch size by one factor after another; what is solved is
    then the value that they multiply.

    Attributes:
        examples: the public number of examples.
        batch_size: the expected batch size; under Poisson sampling, drawn sizes vary around it.
        steps: how many noisy sums are released.
        noise_multiplier: standard deviation of the noise, over the sensitivity.
        epsilon: what the whole plan costs, at most the epsilon asked for.
        delta: the probability with which epsilon may fail to hold; well below `1 / examples`.
        neighbouring: which data sets are compared: "add-or-remove" or "replace"; what is usual for
            the sampling, if not given.
        sampling: how batches come about: "poisson", "truncated-poisson", "fixed-size", "shuffled"
            or "own-loader"; the last two claim no amplification.
        max_batch_size: the largest batch of "truncated-poisson", at every step.
        accountant: "pld" (tight) or "rdp" (quick).
        batch_schedule: what the batch size is multiplied by, over the steps.
        noise_schedule: what the noise multiplier is multiplied by, over the steps.

    Raises:
        PlanError: a value out of range, too many or too few quantities, or no solution.

    >>> plan = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5)
    >>> plan.steps, round(plan.epsilon, 2)
    (14040, 2.38)
    >>> Plan(60_000, epochs=60, noise_multiplier=1.1, epsilon=3.0, delta=1e-5).batch_size
    383
    >>> lower = Schedule.linear(1.0, 0.5, phases=3)
    >>> falling = Plan(60_000, 256, epochs=60, epsilon=3.0, delta=1e-5, noise_schedule=lower)
    >>> [round(each.noise_multiplier, 2) for each in falling.phases]
    [1.6, 1.2, 0.8]
    """

    examples: int
    batch_size: int
    steps: int
    noise_multiplier: float
    epsilon: float
    delta: float
    neighbouring: Neighbouring
    sampling: str
    max_batch_size: int | None
    accountant: str
    batch_schedule: Schedule
    noise_schedule: Schedule

    def __init__(
        self,
        examples: int,
        batch_size: int | None = None,
        *,
        delta: float,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        steps: int | None = None,
        epochs: float | None = None,
        neighbouring: Neighbouring | str | None = None,
        sampling: str = "poisson",
        max_batch_size: int | None = None,
        accountant: str = "pld",
        batch_schedule: Schedule | None = None,
        noise_schedule: Schedule | None = None,
    ) -> None:
        batch_schedule, noise_schedule = batch_schedule or CONSTANT, noise_schedule or CONSTANT
        checks.check_schedules(batch_schedule, noise_schedule)
        checks.check_sizes(examples, batch_size, batch_schedule)
        checks.check_privacy(delta, epsilon, noise_multiplier, accountant)
        if epochs is not None:
            checks.check_epochs(epochs, steps)
        if steps is not None:
            checks.check_steps(steps)
        checks.check_one_left_out(
            {
                "batch_size": batch_size,
                "epsilon": epsilon,
                "noise_multiplier": noise_multiplier,
                "steps": epochs if steps is None else steps,
            }
        )
        # NumPy's numbers become plain ones, which compare, print and save alike.
        examples, delta = int(examples), float(delta)
        asked = Asked(
            None if batch_size is None else int(batch_size),
            None if steps is None else int(steps),
            epochs,
            None if noise_multiplier is None else float(noise_multiplier),
            epsilon,
            delta,
            accountant,
        )
        terms = checks.terms(
            examples, sampling, max_batch_size, neighbouring, batch_schedule, noise_schedule
        )
        batch_size, steps, noise_multiplier, epsilon = solve(terms, asked)
        self._fill(
            examples,
            batch_size,
            steps,
            noise_multiplier,
            epsilon,
            delta,
            terms.neighbouring,
            sampling,
            terms.max_batch_size,
            accountant,
            batch_schedule,
            noise_schedule,
        )

    def _fill(self, *values: Any) -> None:
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)

    @cached_property
    def _terms(self) -> Terms:
        return Terms(
            self.examples,
            self.sampling,
            self.max_batch_size,
            self.neighbouring,
            self.batch_schedule,
            self.noise_schedule,
        )

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The steps, like with like; one phase where nothing has a schedule."""
        return self._terms.phases(self.batch_size, self.steps, self.noise_multiplier)

    def at(self, step: int) -> Phase:
        """The phase of a step, counted from 0.

        Raises:
            PlanError: the plan has no such step.
        """
        if not 0 <= step < self.steps:
            raise PlanError(f"The plan has steps 0 to {self.steps - 1}, got {step!r}.")
        return self.phases[bisect_right(self.phases, step, key=lambda each: each.start) - 1]

    def sampler(self, generator: np.random.Generator | None = None) -> Sampling:
        """What draws the batches of the first steps, or stands for the user's loader.

        Args:
            generator: the stream that decides who joins; keyed by the operating system if not
                given.
        """
        return self._terms.sampler(self.phases[0].batch_size, generator)

    @property
    def in_words(self) -> str:
        """How batches come about, and what the guarantee makes of it, for who has never asked."""
        if len(self.phases) == 1:
            return self.sampler().in_words
        sizes = words.span(each.batch_size for each in self.phases)
        noise = words.span(each.noise_multiplier for each in self.phases)
        return (
            f"By its schedule, the plan has {len(self.phases)} phases, with a batch size of "
            f"{sizes} and a noise multiplier of {noise}. In the first: {self.sampler().in_words}"
        )

    @property
    def sampling_rate(self) -> float:
        """The share of all examples that is in a batch, on average."""
        drawn = sum((each.stop - each.start) * each.batch_size for each in self.phases)
        return drawn / (self.steps * self.examples)

    @property
    def steps_per_epoch(self) -> int:
        """How many steps count as one pass: whole batches in the data set, or their average."""
        return max(1, round(self.steps / self.epochs))

    @property
    def epochs(self) -> float:
        """The number of passes that the steps amount to."""
        return self.epochs_after(self.steps)

    def epochs_after(self, steps: int) -> float:
        """The number of passes that so many first steps amount to."""
        return self._terms.epochs(self.phases, steps)

    @property
    def event(self) -> Event:
        """What the whole plan releases."""
        return self.part(0, self.steps)

    def part(self, start: int, stop: int, begun: int = 0) -> Event:
        """What the steps from `start` on and before `stop` release, counted from 0.

        Args:
            start: the first of them.
            stop: the one that follows them.
            begun: a step up to `start` at which drawing began anew, and with it an epoch.
        """
        return self._terms.part(self.phases, start, stop, begun)

    def event_with(self, noise_multiplier: float, steps: int) -> Event:
        """What the whole plan would release with other noise and so many steps."""
        return self._terms.event(self.batch_size, steps, noise_multiplier)

    def steps_within(
        self, epsilon: float, start: int = 0, released: Event | None = None, begun: int = 0
    ) -> int:
        """The step before which the plan must end for everything to cost `epsilon` at most.

        Args:
            epsilon: what may be spent.
            start: the step that is next.
            released: what was released before it; the plan's own steps if not given.
            begun: as in `part`.

        Raises:
            PlanError: epsilon is not above 0.

        >>> plan = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5)
        >>> plan.steps_within(2.0)
        10206
        """
        if not (is_number(epsilon) and epsilon > 0):
            raise PlanError(f"A budget must be an epsilon above 0, got {epsilon!r}.")
        before = self.part(0, start) if released is None else released

        def after(steps: int) -> ComposedEvent:
            return ComposedEvent((before, self.part(start, start + steps, begun)))

        left = self.steps - start
        if epsilon >= self.epsilon and tally(after(left)) == tally(self.event):
            return self.steps
        try:
            found = most_for(after, epsilon, self.delta, self.accountant, limit=left, tolerance=0.0)
        except AccountingError as problem:
            raise PlanError(f"This budget cannot be kept: {problem}") from problem
        while found and found < left and tally(after(found + 1)) == tally(after(found)):
            found += 1  # to the end of an epoch that has its price at its first step
        return start + found

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; an infinite epsilon is written as None."""
        values = asdict(self)
        values["neighbouring"] = self.neighbouring.value
        values["epsilon"] = finite(self.epsilon)
        return values | {name: getattr(self, name).to_json() for name in SCHEDULES}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote; nothing is solved again.

        Raises:
            PlanError: a field is missing, unknown or out of range.
        """
        names = set(cls.__dataclass_fields__)
        fields: dict[str, Any] = dict.fromkeys(SCHEDULES) | dict(values)  # at first, none had any
        if set(fields) != names:
            raise PlanError(
                f"A saved plan must have the fields {', '.join(sorted(names))}, "
                f"got {', '.join(sorted(values))}."
            )
        fields |= {name: Schedule.from_json(fields[name]) for name in SCHEDULES}
        checks.check_sizes(fields["examples"], fields["batch_size"], fields["batch_schedule"])
        checks.check_steps(fields["steps"])
        checks.check_privacy(
            fields["delta"], None, fields["noise_multiplier"], fields["accountant"]
        )
        fields["neighbouring"] = checks.terms(
            *(fields[name] for name in ("examples", "sampling", "max_batch_size", "neighbouring")),
            *(fields[name] for name in SCHEDULES),
        ).neighbouring
        fields["epsilon"] = math.inf if fields["epsilon"] is None else fields["epsilon"]
        if not (is_number(fields["epsilon"]) and fields["epsilon"] >= 0):
            raise PlanError(f"epsilon must be at least 0, got {fields['epsilon']!r}.")
        plan = object.__new__(cls)
        plan._fill(*(fields[name] for name in cls.__dataclass_fields__))
        plan.part(0, plan.steps)  # refuses a phase that the sampling cannot draw
        return plan
