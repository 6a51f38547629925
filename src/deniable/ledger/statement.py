"""What the entries of one run say, replayed in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deniable.events import ComposedEvent, Event, SelfComposedEvent


@dataclass
class Reservation:
    """Steps `start` to `stop` (exclusive) of a run, which `opening` reserved as `event`.

    `stream` names the randomness that they are released from; None where no entry says so.
    """

    opening: int
    event: Event
    start: int
    stop: int
    stream: str | None = None


@dataclass
class Statement:
    """The reservations of one run, less what was given back."""

    reservations: list[Reservation] = field(default_factory=list)

    def reserve(
        self, opening: int, event: Event, start: int, stop: int, stream: str | None = None
    ) -> None:
        """Adds steps; a block that continues the one before it extends it."""
        if self.reservations:
            last = self.reservations[-1]
            before = last.opening, last.event, last.stop, last.stream
            if before == (opening, event, start, stream):
                last.stop = stop
                return
        self.reservations.append(Reservation(opening, event, start, stop, stream))

    def settle(self, opening: int, at: int) -> None:
        """Takes back what `opening` reserved from step `at` on."""
        for each in self.reservations:
            if each.opening == opening:
                each.stop = max(each.start, min(each.stop, at))

    def unreleased(self, opening: int, at: int) -> bool:
        """Whether `opening` holds steps from `at` on that `settle` would take back."""
        return any(
            each.opening == opening and each.stop > max(each.start, at)
            for each in self.reservations
        )

    @property
    def steps(self) -> int:
        """Where the stated steps end."""
        return max((each.stop for each in self.reservations if each.stop > each.start), default=0)

    def departs(self, stream: str, position: int) -> int | None:
        """The first step from `position` on that is stated from other randomness than `stream`."""
        return min(
            (
                max(each.start, position)
                for each in self.reservations
                if each.stream != stream and each.stop > max(each.start, position)
            ),
            default=None,
        )

    def states(self, other: Reservation) -> bool:
        """Whether every step of a reservation is stated as the same event, of the same stream."""
        intervals = self._intervals(other.event, other.stream)
        return any(start <= other.start and other.stop <= stop for start, stop in intervals)

    def beside(self, other: Statement) -> int | None:
        """The first step of `other`'s that is stated here and not as there; None if there is none.

        What is stated here of later steps is no matter.
        """
        for each in self.reservations:
            within = replace(each, stop=min(each.stop, other.steps))
            if within.stop > within.start and not other.states(within):
                return within.start
        return None

    def covered_until(self, event: Event, position: int) -> int | None:
        """Where the steps around `position` that are reserved as `event` end; None outside them."""
        for start, stop in self._intervals(event):
            if start <= position < stop:
                return stop
        return None

    def added(self, event: Event, start: int, stop: int) -> int:
        """How many steps more would be stated if `start` to `stop` were reserved as `event`."""
        known = sum(
            max(0, min(stop, last) - max(start, first)) for first, last in self._intervals(event)
        )
        return stop - start - known

    def counts(self, before: int | None = None) -> dict[Event, int]:
        """How many steps are stated as each event, of all or of those before a position."""
        reserved: dict[Event, list[tuple[int, int]]] = {}
        for each in self.reservations:
            stop = each.stop if before is None else min(each.stop, before)
            if stop > each.start:
                reserved.setdefault(each.event, []).append((each.start, stop))
        return {
            event: sum(stop - start for start, stop in _merged(steps))
            for event, steps in reserved.items()
        }

    def _intervals(self, event: Event, stream: str | None = None) -> list[tuple[int, int]]:
        """The steps that are reserved as `event`: sorted, disjoint, none adjacent.

        Args:
            event: what they are.
            stream: from which randomness, where that matters.
        """
        return _merged(
            [
                (each.start, each.stop)
                for each in self.reservations
                if each.event == event and each.stop > each.start and stream in (None, each.stream)
            ]
        )


def _merged(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same steps: sorted, disjoint, none adjacent."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(steps):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def composed(counts: Mapping[Event, int]) -> Event:
    """Counted events as one event."""
    events = tuple(SelfComposedEvent(event, count) for event, count in counts.items())
    return events[0] if len(events) == 1 else ComposedEvent(events)
