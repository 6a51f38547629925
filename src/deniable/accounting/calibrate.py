"""The noise, or the number of steps, that reaches a target epsilon and never passes it."""

from __future__ import annotations

import math
from collections.abc import Callable

from deniable.accounting.accountants import accountant_named
from deniable.errors import AccountingError
from deniable.events import Event, SelfComposedEvent

TOLERANCE = 1e-3
SMALLEST_NOISE, LARGEST_NOISE = 1e-4, 1e7


def noise_multiplier_for(
    event_at: Callable[[float], Event], epsilon: float, delta: float, accountant: str = "pld"
) -> float:
    """The noise multiplier at which `event_at(noise_multiplier)` costs `epsilon`, or just below.

    Guarantees: `spent(event_at(result), delta, accountant).epsilon` lies in
    `[(1 - TOLERANCE) * epsilon, epsilon]`.

    Raises:
        AccountingError: no noise multiplier between 1e-4 and 1e7 reaches the target.
    """
    _check_target(epsilon)
    precise = accountant_named(accountant)
    evaluations: dict[float, float] = {}

    def cost(noise_multiplier: float) -> float:
        if noise_multiplier not in evaluations:
            evaluations[noise_multiplier] = precise.epsilon(event_at(noise_multiplier), delta)
        return evaluations[noise_multiplier]

    quick = accountant_named("rdp")
    start = _root(lambda noise: quick.epsilon(event_at(noise), delta), epsilon, 1.0)
    return start if accountant == "rdp" else _root(cost, epsilon, start)


def _root(cost: Callable[[float], float], target: float, start: float) -> float:
    """A noise whose cost lies in `[(1 - TOLERANCE) * target, target]`, by a bracketed secant.

    In logarithms the cost is close to a straight line, so that few evaluations are needed.
    """
    low, high = math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE)  # cost too large | small enough
    aim = math.log(target * (1 - TOLERANCE / 2))
    points: list[tuple[float, float]] = []
    at = math.log(start)
    for _ in range(100):
        value = cost(math.exp(at))
        if (1 - TOLERANCE) * target <= value <= target:
            return math.exp(at)
        if value > target:
            low = max(low, at)
        else:
            high = min(high, at)
        if high - low < 1e-12:
            break
        if 0 < value < math.inf:
            points.append((at, math.log(value) - aim))
        at = _next(points, low, high)
    raise AccountingError(
        f"No noise multiplier between {SMALLEST_NOISE:g} and {LARGEST_NOISE:g} costs "
        f"epsilon = {target:g}. Change epsilon, delta, the batch size or the number of steps."
    )


def _next(points: list[tuple[float, float]], low: float, high: float) -> float:
    """Where the secant through the last two points meets 0; the middle when that leads outside."""
    if len(points) >= 2 and points[-1][1] != points[-2][1]:
        (x0, y0), (x1, y1) = points[-2:]
        step = x1 - y1 * (x1 - x0) / (y1 - y0)
    elif points:
        step = points[-1][0] + points[-1][1]  # cost is roughly proportional to 1 / noise
    else:
        step = math.nan
    return step if low < step < high else (low + high) / 2


def steps_for(step: Event, epsilon: float, delta: float, accountant: str = "pld") -> int:
    """The most times that `step` can be released within `epsilon`; 0 when even one is too many.

    Raises:
        AccountingError: the target is out of range, or steps cost nothing.
    """
    _check_target(epsilon)
    chosen = accountant_named(accountant)

    def fits(count: int) -> bool:
        return chosen.epsilon(SelfComposedEvent(step, count), delta) <= epsilon

    low, high = 0, 1
    while fits(high):
        low, high = high, high * 2
        if high > 2**40:
            raise AccountingError(
                f"More than 10^12 steps fit into epsilon = {epsilon:g}: the number of steps is no "
                "limit here. Choose steps, and leave out the noise multiplier instead."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _check_target(epsilon: float) -> None:
    if not (0 < epsilon < math.inf):
        raise AccountingError(f"The target epsilon must be finite and above 0, got {epsilon!r}.")
