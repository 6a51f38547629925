"""The one quantity of a plan that was left out."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from deniable.accounting import most_for, noise_multiplier_for, spent
from deniable.errors import AccountingError, PlanError
from deniable.events import Event
from deniable.plan.schedule import sized
from deniable.plan.terms import Terms


@dataclass(frozen=True)
class Asked:
    """The quantities of a plan; one of them is None, and steps may be given as epochs."""

    batch_size: int | None
    steps: int | None
    epochs: float | None
    noise_multiplier: float | None
    epsilon: float | None
    delta: float
    accountant: str

    def steps_at(self, terms: Terms, batch_size: int) -> int:
        """How many steps were asked for, if batches have that size.

        Raises:
            PlanError: the epochs hold none.
        """
        if self.epochs is None:
            assert self.steps is not None
            return self.steps
        counted = terms.steps_of(self.epochs, batch_size)
        if counted < 1:
            raise PlanError(
                f"{self.epochs!r} epochs of {terms.examples // batch_size} steps hold no whole "
                "step. Give more epochs, a smaller batch_size, or steps."
            )
        return counted


def solve(terms: Terms, asked: Asked) -> tuple[int, int, float, float]:
    """The batch size, the steps, the noise multiplier, and the epsilon that they achieve.

    Raises:
        PlanError: nothing achieves what was asked.
    """
    try:
        batch_size, steps, noise = _solved(terms, asked)
        event = terms.event(batch_size, steps, noise)
        return batch_size, steps, noise, spent(event, asked.delta, asked.accountant).epsilon
    except AccountingError as problem:
        raise PlanError(f"This plan cannot be solved: {problem}") from problem


def _solved(terms: Terms, asked: Asked) -> tuple[int, int, float]:
    batch_size, noise = asked.batch_size, asked.noise_multiplier
    if batch_size is None:
        assert noise is not None and asked.epsilon is not None
        batch_size = _batch_size(terms, asked, noise, asked.epsilon)
    if asked.steps is None and asked.epochs is None:
        assert noise is not None and asked.epsilon is not None
        return batch_size, _steps(terms, asked, batch_size, noise, asked.epsilon), noise
    steps = asked.steps_at(terms, batch_size)
    if noise is None:
        assert asked.epsilon is not None
        _check_delta(terms, asked.delta, batch_size, steps)
        noise = noise_multiplier_for(
            lambda each: terms.event(batch_size, steps, each),
            asked.epsilon,
            asked.delta,
            asked.accountant,
        )
    return batch_size, steps, noise


def _check_delta(terms: Terms, delta: float, batch_size: int, steps: int) -> None:
    """Refuses a delta at which epsilon is 0 without any noise.

    Raises:
        PlanError: it allows what happens to all that are drawn.
    """
    if not terms.sampler(batch_size).amplifies:
        return
    rate = min(1.0, sized(batch_size, terms.batch_schedule.most) / terms.examples)
    chance = -math.expm1(steps * math.log1p(-rate)) if rate < 1 else 1.0
    if delta >= chance * (1 - 1e-9):  # but for rounding
        raise PlanError(
            f"delta = {delta:g} is no less than the chance, {chance:.3g}, with which an example is "
            "in any batch of this plan: any noise would do, and protect nobody. Take a delta well "
            f"below 1 / examples = {1 / terms.examples:.2g}."
        )


def _steps(terms: Terms, asked: Asked, batch_size: int, noise: float, epsilon: float) -> int:
    """The most steps; whole epochs where these are what costs."""
    period = terms.sampler(batch_size).period
    steps = most_for(
        lambda count: terms.event(batch_size, count * period, noise),
        epsilon,
        asked.delta,
        asked.accountant,
    )
    if steps < 1:
        raise PlanError(
            f"One step alone costs more than epsilon = {epsilon:g} at noise multiplier {noise:g}. "
            "Use more noise, a smaller batch_size or a larger epsilon."
        )
    return steps * period


def _batch_size(terms: Terms, asked: Asked, noise: float, epsilon: float) -> int:
    """The largest batch size within epsilon: one more would cost more, or cannot be.

    Given epochs, larger batches make fewer steps: the cost climbs over the sizes that make the same
    number of steps, and falls a little where there is one less. So the first search is over the
    starts of these climbs, and the second up the last of them that is within epsilon.
    """
    if not terms.sampler(1).amplifies:
        raise PlanError(
            f"sampling='{terms.sampling}' claims no amplification: of the batch size, epsilon "
            "knows only how often somebody is in a batch. Give batch_size, and leave out epsilon, "
            "noise_multiplier or steps (or epochs)."
        )

    asked.steps_at(terms, 1)  # refuses epochs that hold no step at all
    sizes = range(1, terms.examples + 1)

    def steps_at(size: int) -> int:
        return asked.steps_at(terms, size)

    def start(size: int) -> int:
        """The smallest batch that makes as many steps."""
        return sizes[bisect_left(sizes, -steps_at(size), hi=size, key=lambda each: -steps_at(each))]

    def largest(low: int, high: int, event_at: Callable[[int], Event]) -> int:
        """The largest size from `low` to `high` within epsilon, or the one before `low`."""
        return (low - 1) + most_for(
            lambda number: event_at(low - 1 + number),
            epsilon,
            asked.delta,
            asked.accountant,
            limit=high - low + 1,
            slope=1.0,
            tolerance=0.0,
        )

    low, high = 1, bisect_left(sizes, True, key=lambda each: not _is_possible(terms, asked, each))
    if asked.epochs is not None:
        high = largest(1, high, lambda size: terms.event(start(size), steps_at(size), noise))
        low = start(high) if high else 1
    found = high and largest(low, high, lambda size: terms.event(size, steps_at(size), noise))
    if not found:
        raise PlanError(
            f"Even batches of one example cost more than epsilon = {epsilon:g} at noise "
            f"multiplier {noise:g}. Use more noise, fewer steps or a larger epsilon."
        )
    return found


def _is_possible(terms: Terms, asked: Asked, batch_size: int) -> bool:
    """Whether batches of that size fit into every phase, and make a step at all."""
    most = min(terms.examples, terms.max_batch_size or terms.examples)
    if sized(batch_size, terms.batch_schedule.most) > most:
        return False
    return asked.epochs is None or terms.steps_of(asked.epochs, batch_size) >= 1
