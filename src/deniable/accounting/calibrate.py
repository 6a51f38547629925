"""The noise, or the number of steps, that reaches a target epsilon and never passes it."""

from __future__ import annotations

import math
from collections.abc import Callable

from deniable.accounting.accountants import accountant_named
from deniable.errors import AccountingError
from deniable.events import Event, SelfComposedEvent

TOLERANCE = 1e-3
SMALLEST_TARGET, LARGEST_TARGET = 1e-4, 1e7
SMALLEST_NOISE, LARGEST_NOISE = 1e-4, 1e7
MOST_STEPS = 2**40


def noise_multiplier_for(
    event_at: Callable[[float], Event], epsilon: float, delta: float, accountant: str = "pld"
) -> float:
    """The noise multiplier at which `event_at(noise_multiplier)` costs `epsilon`, or just below.

    Guarantees: `spent(event_at(result), delta, accountant).epsilon` lies in
    `[(1 - TOLERANCE) * epsilon, epsilon]`.

    Raises:
        AccountingError: no noise multiplier between 1e-4 and 1e7 reaches the target.

    >>> from deniable.events import GaussianEvent
    >>> round(noise_multiplier_for(GaussianEvent, epsilon=1.0, delta=1e-5), 2)
    3.73
    """
    _check_target(epsilon)

    def solve(name: str, start: float) -> float:
        chosen = accountant_named(name)
        return _least_noise(lambda noise: chosen.epsilon(event_at(noise), delta), epsilon, start)

    # From the answer of the quick bound, the chosen accountant needs a few looks only.
    try:
        start = solve("rdp", 1.0)
    except AccountingError:
        start = 1.0
    return solve(accountant, start)


def steps_for(step: Event, epsilon: float, delta: float, accountant: str = "pld") -> int:
    """The most times that `step` can be released within `epsilon`; 0 when even once is too often.

    Guarantees: `spent(SelfComposedEvent(step, result), delta, accountant).epsilon <= epsilon`, and
    either it is above `(1 - TOLERANCE) * epsilon`, or one step more would pass the target.

    Raises:
        AccountingError: the target is out of range, or the steps cost so little that their number
            is no limit.

    >>> from deniable.events import GaussianEvent
    >>> steps_for(GaussianEvent(100.0), epsilon=1.0, delta=1e-5)
    718
    """
    _check_target(epsilon)

    def solve(name: str, start: int) -> int:
        chosen = accountant_named(name)

        def cost(count: int) -> float:
            return chosen.epsilon(SelfComposedEvent(step, count), delta)

        return _most_steps(cost, epsilon, start)

    return solve(accountant, max(1, solve("rdp", 1)))


def _least_noise(cost: Callable[[float], float], target: float, start: float) -> float:
    """A noise whose cost lies in `[(1 - TOLERANCE) * target, target]`."""
    low, high = math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE)  # too dear | within the target
    at, line = math.log(start), _Line(slope=-1.0, target=target)
    while high - low > 1e-12:
        value = cost(math.exp(at))
        if (1 - TOLERANCE) * target <= value <= target:
            return math.exp(at)
        low, high = (at, high) if value > target else (low, at)
        line.add(at, value)
        at = line.next(low, high)
    raise AccountingError(
        f"No noise multiplier between {SMALLEST_NOISE:g} and {LARGEST_NOISE:g} costs "
        f"epsilon = {target:g}. Change epsilon, delta, the batch size or the number of steps."
    )


def _most_steps(cost: Callable[[int], float], target: float, start: int) -> int:
    """A count within the target whose cost is above `(1 - TOLERANCE) * target`, or the last one."""
    low, high = 0, MOST_STEPS  # within the target | too dear
    at, line = start, _Line(slope=0.5, target=target)
    while high - low > 1:
        value = cost(at)
        if (1 - TOLERANCE) * target <= value <= target:
            return at
        low, high = (at, high) if value <= target else (low, at)
        line.add(math.log(at), value)
        guess = math.exp(line.next(math.log(max(low, 0.5)), math.log(high)))
        at = min(max(round(guess), low + 1), high - 1)
    if high == MOST_STEPS:
        raise AccountingError(
            f"More than 10^12 steps fit into epsilon = {target:g}: their number is no limit here. "
            "Choose the steps, and leave out the noise multiplier or epsilon instead."
        )
    return low


class _Line:
    """Guesses where the cost meets the target: in logarithms it is close to a straight line."""

    def __init__(self, slope: float, target: float) -> None:
        self._slope = slope
        self._aim = math.log(target * (1 - TOLERANCE / 2))
        self._points: list[tuple[float, float]] = []
        self._guesses = 0

    def add(self, at: float, value: float) -> None:
        if 0 < value < math.inf:
            self._points.append((at, math.log(value) - self._aim))

    def next(self, low: float, high: float) -> float:
        """The secant's next look; the middle when that leads out of the bracket or on for long."""
        self._guesses += 1
        if not self._points or self._guesses % 5 == 0:
            return (low + high) / 2
        x1, y1 = self._points[-1]
        slope = self._slope
        if len(self._points) > 1:
            x0, y0 = self._points[-2]
            slope = (y1 - y0) / (x1 - x0) or slope
        guess = x1 - y1 / slope
        return guess if low < guess < high else (low + high) / 2


def _check_target(epsilon: float) -> None:
    if not SMALLEST_TARGET <= epsilon <= LARGEST_TARGET:
        raise AccountingError(
            f"A target epsilon must lie between {SMALLEST_TARGET:g} and {LARGEST_TARGET:g}, got "
            f"{epsilon!r}. Useful ones lie between 0.1 and 10."
        )
