"""Noise and batch sizes that change over training, in phases of steps that are alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from deniable.errors import PlanError

PHASES = 8
MOST_PHASES = 64  # each is another kind of release, and takes its time to account for


@dataclass(frozen=True)
class Phase:
    """Steps that are alike.

    Attributes:
        start: the first of them, counted from 0.
        stop: the one after the last.
        batch_size: how many examples a step is expected to draw, and is divided by.
        noise_multiplier: standard deviation of the noise, over the sensitivity.
    """

    start: int
    stop: int
    batch_size: int
    noise_multiplier: float


@dataclass(frozen=True)
class Schedule:
    """What a plan's noise multiplier or batch size is multiplied by, one factor after another.

    Lengths count beside each other: `((2, 1.0), (1, 0.5))` is the plan's own value for two thirds
    of the steps, and half of it for the rest. Lengths that add up to the plan's steps are steps.
    The factors are relative so that a plan can still solve its noise, its steps or its batch size.

    Attributes:
        parts: pairs of a length and a factor, in their order.

    Raises:
        PlanError: no parts or more than 64, or a number that is not finite and above 0.

    >>> Schedule(((1000, 1.0), (500, 0.7))).stops(1500)
    ((1000, 1.0), (1500, 0.7))
    """

    parts: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        try:
            parts = tuple((float(length), float(factor)) for length, factor in self.parts)
        except (TypeError, ValueError):
            raise PlanError(
                f"A schedule must be pairs of a length and a factor, got {self.parts!r}."
            ) from None
        if not 1 <= len(parts) <= MOST_PHASES:
            raise PlanError(
                f"A schedule must have between 1 and {MOST_PHASES} parts, got {len(parts)}: each "
                "is accounted for by itself. Let a part stand for more steps."
            )
        if not all(math.isfinite(each) and each > 0 for part in parts for each in part):
            raise PlanError(
                "The lengths and factors of a schedule must be finite and above 0, got "
                f"{self.parts!r}. A single step without noise would leave nothing private."
            )
        object.__setattr__(self, "parts", parts)

    @classmethod
    def linear(cls, first: float, last: float, phases: int = PHASES) -> Schedule:
        """Factors from `first` to `last` by equal differences, in phases of equal length.

        >>> Schedule.linear(1.0, 0.5, phases=3).parts
        ((1.0, 1.0), (1.0, 0.75), (1.0, 0.5))
        """
        shares = _shares(phases)
        return cls(tuple((1, (1 - share) * first + share * last) for share in shares))

    @classmethod
    def exponential(cls, first: float, last: float, phases: int = PHASES) -> Schedule:
        """Factors from `first` to `last` by equal ratios, in phases of equal length.

        >>> Schedule.exponential(4.0, 1.0, phases=3).parts
        ((1.0, 4.0), (1.0, 2.0), (1.0, 1.0))
        """
        if not (first > 0 and last > 0):
            raise PlanError(
                f"An exponential schedule needs factors above 0, got {first!r} and {last!r}."
            )
        return cls(tuple((1, first ** (1 - share) * last**share) for share in _shares(phases)))

    @classmethod
    def stairs(cls, ratio: float, phases: int = PHASES) -> Schedule:
        """1, then `ratio` times what was before, in phases of equal length.

        >>> Schedule.stairs(0.5, phases=3).parts
        ((1.0, 1.0), (1.0, 0.5), (1.0, 0.25))
        """
        return cls(tuple((1, ratio**number) for number in range(_whole(phases))))

    @classmethod
    def parse(cls, text: str | None) -> Schedule:
        """A schedule as the commands take it; `CONSTANT` for None.

        "linear:FIRST:LAST", "exponential:FIRST:LAST" and "stairs:RATIO", each with ":PHASES" after
        it if not 8, or "LENGTH:FACTOR,LENGTH:FACTOR,...".

        Raises:
            PlanError: it is none of these.

        >>> Schedule.parse("stairs:0.5:2") == Schedule.parse("1:1,1:0.5")
        True
        """
        if text is None:
            return CONSTANT
        name, *numbers = text.split(":")
        named = {"linear": 2, "exponential": 2, "stairs": 1}
        try:
            if name in named:
                factors, phases = numbers[: named[name]], numbers[named[name] :]
                made = getattr(cls, name)(*map(float, factors), *map(int, phases))
                assert isinstance(made, cls)
                return made
            pairs = [part.split(":") for part in text.split(",")]
            return cls(tuple((float(length), float(factor)) for length, factor in pairs))
        except (TypeError, ValueError, OverflowError):
            raise PlanError(
                f"A schedule must be linear:FIRST:LAST, exponential:FIRST:LAST or stairs:RATIO, or "
                f"LENGTH:FACTOR,LENGTH:FACTOR,..., got {text!r}."
            ) from None

    @classmethod
    def from_json(cls, values: Any) -> Schedule:
        """The schedule that `to_json` wrote; `CONSTANT` for None."""
        return CONSTANT if values is None else cls(values)

    def to_json(self) -> list[list[float]] | None:
        """Its pairs as plain JSON values; None where nothing changes."""
        return None if self == CONSTANT else [list(part) for part in self.parts]

    @property
    def most(self) -> float:
        """The largest factor."""
        return max(factor for _, factor in self.parts)

    def stops(self, steps: int) -> tuple[tuple[int, float], ...]:
        """Where each factor ends when so many steps are made, and the factor."""
        ends = list(accumulate(length for length, _ in self.parts))
        return tuple(
            (round(steps * (end / ends[-1])), factor)
            for end, (_, factor) in zip(ends, self.parts, strict=True)
        )


CONSTANT = Schedule(((1.0, 1.0),))


def sized(batch_size: int, factor: float) -> int:
    """The batch size of a phase: a whole number, at least 1."""
    return max(1, round(batch_size * factor))


def phases_of(
    steps: int, batch_size: int, noise_multiplier: float, batch: Schedule, noise: Schedule
) -> tuple[Phase, ...]:
    """The phases of so many steps: as few as there can be, one after another from step 0."""
    made: list[Phase] = []
    for start, stop, factors in _overlaid(batch.stops(steps), noise.stops(steps)):
        values = sized(batch_size, factors[0]), noise_multiplier * factors[1]
        if made and (made[-1].batch_size, made[-1].noise_multiplier) == values:
            start = made.pop().start
        made.append(Phase(start, stop, *values))
    return tuple(made)


def _overlaid(
    *tracks: Sequence[tuple[int, float]],
) -> Iterable[tuple[int, int, tuple[float, ...]]]:
    """Where all tracks are constant: from, to, and what each of them is there."""
    start = 0
    for stop in sorted({stop for track in tracks for stop, _ in track if stop > 0}):
        yield (
            start,
            stop,
            tuple(next(factor for end, factor in track if end > start) for track in tracks),
        )
        start = stop


def _shares(phases: int) -> list[float]:
    """From 0 to 1 in equal parts."""
    count = _whole(phases)
    return [number / max(count - 1, 1) for number in range(count)]


def _whole(phases: int) -> int:
    if not (isinstance(phases, int) and 1 <= phases <= MOST_PHASES):
        raise PlanError(
            f"phases must be a whole number between 1 and {MOST_PHASES}, got {phases!r}."
        )
    return phases
