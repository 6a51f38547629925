"""The frozen plan: what will be released, how often, and what that will cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from deniable.accounting import ACCOUNTANTS, most_for, noise_multiplier_for, spent, steps_for
from deniable.accounting.tally import tally
from deniable.errors import AccountingError, PlanError
from deniable.events import ComposedEvent, Event, GaussianEvent, SelfComposedEvent
from deniable.sampling import Sampling, make_sampling
from deniable.units import Neighbouring

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, init=False)
class Plan:
    """Training with Gaussian noise on sampled batches; solves the one quantity that is left out.

    Of `epsilon`, `noise_multiplier` and `steps` (or `epochs`), give two; the third is solved so
    that the achieved `epsilon` never exceeds the one asked for. An epoch is
    `examples // batch_size` steps. A noise multiplier of 0 is allowed, for tests and baselines:
    epsilon is then infinite.

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
        max_batch_size: the largest batch of "truncated-poisson".
        accountant: "pld" (tight) or "rdp" (quick).

    Raises:
        PlanError: a value out of range, too many or too few quantities, or no solution.

    >>> plan = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5)
    >>> plan.steps, round(plan.epsilon, 2)
    (14040, 2.38)
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

    def __init__(
        self,
        examples: int,
        batch_size: int,
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
    ) -> None:
        _check_sizes(examples, batch_size)
        _check_privacy(delta, epsilon, noise_multiplier, accountant)
        if epochs is not None:
            steps = _steps_of(epochs, steps, examples // batch_size)
        if steps is not None and not (_is_whole(steps) and steps >= 1):
            raise PlanError(f"steps must be a whole number of at least 1, got {steps!r}.")
        _check_one_left_out(epsilon, noise_multiplier, steps)
        # NumPy's numbers become plain ones, which compare, print and save alike.
        examples, batch_size, delta = int(examples), int(batch_size), float(delta)
        largest = _largest(max_batch_size)
        chosen = make_sampling(sampling, examples, batch_size, largest)
        relation = _relation(neighbouring, chosen)
        solved = _solve(chosen, relation, steps, noise_multiplier, epsilon, delta, accountant)
        self._fill(examples, batch_size, *solved, delta, relation, sampling, largest, accountant)

    def _fill(self, *values: Any) -> None:
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)

    def sampler(self, generator: np.random.Generator | None = None) -> Sampling:
        """What draws the plan's batches, or stands for the user's loader.

        Args:
            generator: the stream that decides who joins; keyed by the operating system if not
                given.
        """
        return make_sampling(
            self.sampling, self.examples, self.batch_size, self.max_batch_size, generator
        )

    @property
    def sampling_rate(self) -> float:
        """The share of all examples that is in a batch, on average."""
        return self.batch_size / self.examples

    @property
    def steps_per_epoch(self) -> int:
        """How many steps count as one pass: whole batches in the data set."""
        return self.examples // self.batch_size

    @property
    def epochs(self) -> float:
        """The number of passes that the steps amount to."""
        return self.steps / self.steps_per_epoch

    @property
    def noise_event(self) -> GaussianEvent:
        """What one step adds to the sum of its batch."""
        return GaussianEvent(self.noise_multiplier, self.neighbouring)

    @property
    def step_event(self) -> Event:
        """What one step releases; of shuffled batches, what all steps of an epoch do."""
        return self.sampler().planned(self.noise_event)

    @property
    def event(self) -> SelfComposedEvent:
        """What the whole plan releases."""
        return self.part(0, self.steps)

    def part(self, start: int, stop: int) -> SelfComposedEvent:
        """What the steps from `start` on and before `stop` release, counted from 0."""
        return self.sampler().part(self.noise_event, start, stop)

    def steps_within(self, epsilon: float, start: int = 0, released: Event | None = None) -> int:
        """The step before which the plan must end for everything to cost `epsilon` at most.

        Args:
            epsilon: what may be spent.
            start: the step that is next.
            released: what was released before it; the plan's own steps if not given.

        Raises:
            PlanError: epsilon is not above 0.

        >>> plan = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5)
        >>> plan.steps_within(2.0)
        10206
        """
        if not (_is_number(epsilon) and epsilon > 0):
            raise PlanError(f"A budget must be an epsilon above 0, got {epsilon!r}.")
        before = self.part(0, start) if released is None else released

        def after(steps: int) -> ComposedEvent:
            return ComposedEvent((before, self.part(start, start + steps)))

        left = self.steps - start
        if epsilon >= self.epsilon and tally(after(left)) == tally(self.event):
            return self.steps
        try:
            return start + most_for(
                after, epsilon, self.delta, self.accountant, limit=left, tolerance=0.0
            )
        except AccountingError as problem:
            raise PlanError(f"This budget cannot be kept: {problem}") from problem

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; an infinite epsilon is written as None."""
        values = asdict(self)
        values["neighbouring"] = self.neighbouring.value
        values["epsilon"] = self.epsilon if math.isfinite(self.epsilon) else None
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote; nothing is solved again.

        Raises:
            PlanError: a field is missing, unknown or out of range.
        """
        names = set(cls.__dataclass_fields__)
        if set(values) != names:
            raise PlanError(
                f"A saved plan must have the fields {', '.join(sorted(names))}, "
                f"got {', '.join(sorted(values))}."
            )
        fields = dict(values)
        _check_sizes(fields["examples"], fields["batch_size"])
        if not (_is_whole(fields["steps"]) and fields["steps"] >= 1):
            raise PlanError(f"steps must be a whole number of at least 1, got {fields['steps']!r}.")
        _check_privacy(fields["delta"], None, fields["noise_multiplier"], fields["accountant"])
        sizes = fields["examples"], fields["batch_size"], _largest(fields["max_batch_size"])
        chosen = make_sampling(fields["sampling"], *sizes)
        fields["neighbouring"] = _relation(fields["neighbouring"], chosen)
        fields["epsilon"] = math.inf if fields["epsilon"] is None else fields["epsilon"]
        if not (_is_number(fields["epsilon"]) and fields["epsilon"] >= 0):
            raise PlanError(f"epsilon must be at least 0, got {fields['epsilon']!r}.")
        plan = object.__new__(cls)
        plan._fill(*(fields[name] for name in cls.__dataclass_fields__))
        return plan


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_sizes(examples: int, batch_size: int) -> None:
    if not (_is_whole(examples) and examples >= 1):
        raise PlanError(f"examples must be a whole number of at least 1, got {examples!r}.")
    if not (_is_whole(batch_size) and 1 <= batch_size <= examples):
        raise PlanError(
            f"batch_size must be a whole number between 1 and examples = {examples}, "
            f"got {batch_size!r}."
        )


def _check_privacy(
    delta: float, epsilon: float | None, noise_multiplier: float | None, accountant: str
) -> None:
    if not (_is_number(delta) and 0 < delta < 1):
        raise PlanError(
            f"delta must lie strictly between 0 and 1, got {delta!r}. Take one well below "
            "1 / examples, such as 1e-5."
        )
    if epsilon is not None and not (_is_number(epsilon) and 0 < epsilon < math.inf):
        raise PlanError(f"epsilon must be finite and above 0, got {epsilon!r}.")
    if noise_multiplier is not None and not (
        _is_number(noise_multiplier) and 0 <= noise_multiplier < math.inf
    ):
        raise PlanError(
            f"noise_multiplier must be finite and at least 0, got {noise_multiplier!r}."
        )
    if accountant not in ACCOUNTANTS:
        raise PlanError(
            f"accountant must be one of {', '.join(sorted(ACCOUNTANTS))}, got {accountant!r}."
        )


def _steps_of(epochs: float, steps: int | None, steps_per_epoch: int) -> int:
    if steps is not None:
        raise PlanError(f"Give steps or epochs, not both: got {steps!r} and {epochs!r}.")
    if not (_is_number(epochs) and 0 < epochs < math.inf):
        raise PlanError(f"epochs must be finite and above 0, got {epochs!r}.")
    counted = round(epochs * steps_per_epoch)
    if counted < 1:
        raise PlanError(
            f"{epochs!r} epochs of {steps_per_epoch} steps hold no whole step. Give more epochs, "
            "a smaller batch_size, or steps."
        )
    return counted


def _check_one_left_out(
    epsilon: float | None, noise_multiplier: float | None, steps: int | None
) -> None:
    quantities = {"epsilon": epsilon, "noise_multiplier": noise_multiplier, "steps": steps}
    given = [name for name, value in quantities.items() if value is not None]
    if len(given) != 2:
        raise PlanError(
            "Give exactly two of epsilon, noise_multiplier and steps (or epochs), and the third is "
            f"solved; got {', '.join(given) or 'none of them'}."
        )


def _largest(max_batch_size: int | None) -> int | None:
    if max_batch_size is None:
        return None
    if not _is_whole(max_batch_size):
        raise PlanError(f"max_batch_size must be a whole number, got {max_batch_size!r}.")
    return int(max_batch_size)


def _relation(neighbouring: Neighbouring | str | None, sampling: Sampling) -> Neighbouring:
    if neighbouring is None:
        return sampling.relations[0]
    try:
        relation = Neighbouring(neighbouring)
    except ValueError:
        known = ", ".join(each.value for each in Neighbouring)
        raise PlanError(f"neighbouring must be one of {known}, got {neighbouring!r}.") from None
    if relation not in sampling.relations:
        raise PlanError(
            f"sampling='{sampling.name}' is no guarantee under neighbouring='{relation.value}': "
            f"{sampling.why_not}. Use neighbouring='{sampling.relations[0].value}', or "
            "sampling='poisson'."
        )
    return relation


def _solve(
    sampling: Sampling,
    neighbouring: Neighbouring,
    steps: int | None,
    noise_multiplier: float | None,
    epsilon: float | None,
    delta: float,
    accountant: str,
) -> tuple[int, float, float]:
    """The steps, the noise multiplier and the epsilon that they achieve."""

    def event_at(noise: float, count: int) -> SelfComposedEvent:
        return sampling.part(GaussianEvent(noise, neighbouring), 0, count)

    try:
        if noise_multiplier is None:
            assert epsilon is not None and steps is not None
            count = int(steps)
            noise = noise_multiplier_for(
                lambda each: event_at(each, count), epsilon, delta, accountant
            )
        else:
            noise = float(noise_multiplier)
            if steps is None:
                assert epsilon is not None
                event = sampling.planned(GaussianEvent(noise, neighbouring))
                count = _most_steps(event, noise, epsilon, delta, accountant) * sampling.period
            else:
                count = int(steps)
        return count, noise, spent(event_at(noise, count), delta, accountant).epsilon
    except AccountingError as problem:
        raise PlanError(f"This plan cannot be solved: {problem}") from problem


def _most_steps(event: Event, noise: float, epsilon: float, delta: float, accountant: str) -> int:
    steps = steps_for(event, epsilon, delta, accountant)
    if steps < 1:
        raise PlanError(
            f"One step alone costs more than epsilon = {epsilon:g} at noise multiplier {noise:g}. "
            "Use more noise, a smaller batch_size or a larger epsilon."
        )
    return steps
