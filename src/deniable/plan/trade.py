"""What more noise buys, and what more epochs cost: a plan beside its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deniable.accounting import Meter
from deniable.plan.plan import Plan

NOISE_FACTORS = (0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
LENGTH_FACTORS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Trade:
    """Epsilon of a plan with other noise and other lengths, all else alike.

    The plan's own is what it states; any other is a bound by the same accountant, mostly within 1%
    of what it would state.

    Attributes:
        noise_multipliers: one a row.
        steps: one a column.
        epochs: what these steps amount to.
        epsilons: a row for each noise multiplier, a column for each length.
    """

    noise_multipliers: tuple[float, ...]
    steps: tuple[int, ...]
    epochs: tuple[float, ...]
    epsilons: tuple[tuple[float, ...], ...]


def trade(
    plan: Plan,
    noise_factors: Sequence[float] = NOISE_FACTORS,
    length_factors: Sequence[float] = LENGTH_FACTORS,
) -> Trade:
    """The plan's epsilon where its noise and its length are multiplied by factors.

    Args:
        plan: with some noise.
        noise_factors: of the noise multiplier, and with it of every phase's.
        length_factors: of the number of steps; at least one is left.

    >>> plan = Plan(60_000, 256, epochs=60, noise_multiplier=1.1, delta=1e-5)
    >>> found = trade(plan, [1.0, 2.0], [0.5, 1.0])
    >>> found.steps, [[round(each, 2) for each in row] for row in found.epsilons]
    ((7020, 14040), [[1.64, 2.38], [0.62, 0.91]])
    """
    noises = tuple(plan.noise_multiplier * factor for factor in noise_factors)
    steps = tuple(max(1, round(plan.steps * factor)) for factor in length_factors)
    epsilons = tuple(_over_lengths(plan, noise, steps) for noise in noises)
    per_epoch = plan.steps / plan.epochs
    return Trade(noises, steps, tuple(count / per_epoch for count in steps), epsilons)


def _over_lengths(plan: Plan, noise: float, steps: Sequence[int]) -> tuple[float, ...]:
    meter = Meter(plan.event_with(noise, max(steps)), plan.delta, plan.accountant)
    return tuple(
        plan.epsilon
        if (noise, count) == (plan.noise_multiplier, plan.steps)
        else meter.epsilon(plan.event_with(noise, count))
        for count in steps
    )
