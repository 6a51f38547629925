"""The noise, the steps or the batch size that reach a target epsilon and never pass it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from deniable.accounting.accountants import accountant_named
from deniable.accounting.meter import Meter
from deniable.accounting.tally import LEAST_NOISE, MOST_NOISE
from deniable.errors import AccountingError
from deniable.events import Event, SelfComposedEvent

TOLERANCE = 1e-3
ROUGH = 0.3  # of a first guess
SMALLEST_TARGET, LARGEST_TARGET = 1e-4, 1e7
MOST_STEPS = 2**40

Cost = Callable[[Event], float]


def noise_multiplier_for(
    event_at: Callable[[float], Event],
    epsilon: float,
    delta: float,
    accountant: str = "pld",
) -> float:
    """The noise multiplier at which `event_at(noise_multiplier)` costs `epsilon`, or just below.

    Guarantees: `spent(event_at(result), delta, accountant).epsilon` lies in
    `[(1 - TOLERANCE) * epsilon, epsilon]`.

    Args:
        event_at: an event that costs less the more noise it has.
        epsilon: the target.
        delta: of the guarantee.
        accountant: who states the cost.

    Raises:
        AccountingError: no noise multiplier between 1e-4 and 1e7 reaches the target.

    >>> from deniable.events import GaussianEvent
    >>> round(noise_multiplier_for(GaussianEvent, epsilon=1.0, delta=1e-5), 2)
    3.73
    """
    _check_target(epsilon)
    line = _Line(epsilon, slope=-1.0)
    *quick, exact = _costs(delta, accountant)
    for cost, tolerance in quick:
        with suppress(AccountingError):  # what a quick bound cannot reach, the accountant may
            _least_noise(event_at, cost, tolerance, line)
    return _least_noise(event_at, *exact, line)


def most_for(
    event_at: Callable[[int], Event],
    epsilon: float,
    delta: float,
    accountant: str = "pld",
    *,
    limit: int | None = None,
    slope: float = 0.5,
    tolerance: float = TOLERANCE,
) -> int:
    """The largest whole number at which `event_at(number)` costs `epsilon` at most.

    Guarantees: what it costs is `epsilon` at most, and either above `(1 - tolerance) * epsilon`, or
    one more would cost more than `epsilon`, or it is the limit. 0 when even 1 is too much.

    Args:
        event_at: an event that costs more the larger the number is.
        epsilon: the target.
        delta: of the guarantee.
        accountant: who states the cost.
        limit: the largest answer; without one, numbers beyond a million million are refused.
        slope: roughly the power of the number with which epsilon grows.
        tolerance: how far below the target the answer may stay.

    Raises:
        AccountingError: the target is out of range, or the number is no limit.
    """
    _check_target(epsilon)
    line = _Line(epsilon, slope)
    *quick, (exact, _) = _costs(delta, accountant)
    highest = MOST_STEPS if limit is None else limit
    for cost, rough in quick:
        _most(event_at, cost, rough, line, highest)
    found = _most(event_at, exact, tolerance, line, highest)
    if limit is None and found == MOST_STEPS:
        raise AccountingError(
            f"More than 10^12 steps fit into epsilon = {epsilon:g}: their number is no limit here. "
            "Choose the steps, and leave out another quantity instead."
        )
    return found


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
    return most_for(lambda count: SelfComposedEvent(step, count), epsilon, delta, accountant)


def _costs(delta: float, accountant: str) -> list[tuple[Cost, float]]:
    """Ever tighter and slower, each with its tolerance: the slow ones then need a few looks."""
    exact = accountant_named(accountant)
    costs: list[tuple[Cost, float]] = [(lambda event: exact.epsilon(event, delta), TOLERANCE)]
    if accountant == "pld":
        rdp = accountant_named("rdp")
        costs[:0] = [
            (lambda event: rdp.epsilon(event, delta), ROUGH),
            (lambda event: Meter(event, delta).epsilon(event), TOLERANCE),
        ]
    return costs


def _least_noise(
    event_at: Callable[[float], Event], cost: Cost, tolerance: float, line: _Line
) -> float:
    """A noise whose cost is within the target by `tolerance` at most; the line ends there."""
    low, high = math.log(LEAST_NOISE), math.log(MOST_NOISE)  # too dear | within the target
    line.begin(tolerance)
    while high - low > 1e-12:
        value = cost(event_at(math.exp(line.at)))
        if (1 - tolerance) * line.target <= value <= line.target:
            return math.exp(line.at)
        low, high = (line.at, high) if value > line.target else (low, line.at)
        line.look(value, low, high)
    raise AccountingError(
        f"No noise multiplier between {LEAST_NOISE:g} and {MOST_NOISE:g} costs "
        f"epsilon = {line.target:g}. Change epsilon, delta, the batch size or the number of steps."
    )


def _most(
    event_at: Callable[[int], Event], cost: Cost, tolerance: float, line: _Line, limit: int
) -> int:
    """The largest number within the target, or one whose cost is within it by `tolerance`."""
    low, high = 0, limit + 1  # within the target | too dear
    line.begin(tolerance)
    while high - low > 1:
        number = min(max(round(math.exp(line.at)), low + 1), high - 1)
        line.at = math.log(number)
        value = cost(event_at(number))
        if (1 - tolerance) * line.target <= value <= line.target:
            return number
        low, high = (number, high) if value <= line.target else (low, number)
        line.look(value, math.log(max(low, 0.5)), math.log(high))
    return low


class _Line:
    """Guesses where the cost meets the target: in logarithms it is close to a straight line.

    Attributes:
        target: the epsilon to be met.
        at: the logarithm of the next guess.
    """

    def __init__(self, target: float, slope: float) -> None:
        self.target, self.at, self._slope = target, 0.0, slope
        self.begin(TOLERANCE)

    def begin(self, tolerance: float) -> None:
        """Forget the looks at another cost; the slope is kept, as it will be much the same.

        What is aimed at is the middle of what would do, and near enough to the target.
        """
        self._aim = math.log(self.target * (1 - min(tolerance, TOLERANCE) / 2))
        self._last: tuple[float, float] | None = None
        self._guesses = 0

    def look(self, value: float, low: float, high: float) -> None:
        """Guess anew: by the secant, or the middle where that leaves the bracket or goes on."""
        self._guesses += 1
        guess = math.inf
        if 0 < value < math.inf:
            height = math.log(value) - self._aim
            if self._last is not None:
                x0, y0 = self._last
                self._slope = (height - y0) / (self.at - x0) or self._slope
            self._last = self.at, height
            guess = self.at - height / self._slope
        wanders = self._guesses % 5 == 0 or not low < guess < high
        self.at = (low + high) / 2 if wanders else guess


def _check_target(epsilon: float) -> None:
    if not SMALLEST_TARGET <= epsilon <= LARGEST_TARGET:
        raise AccountingError(
            f"A target epsilon must lie between {SMALLEST_TARGET:g} and {LARGEST_TARGET:g}, got "
            f"{epsilon!r}. Useful ones lie between 0.1 and 10."
        )
