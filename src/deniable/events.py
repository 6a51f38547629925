"""Privacy events: frozen, serialisable records of what was released.

An event's meaning never changes once released: a ledger written today must be readable, with the
same epsilon, by every later version. Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deniable.errors import UnknownEventError


@dataclass(frozen=True)
class GaussianEvent:
    """Gaussian noise of standard deviation `noise_multiplier * sensitivity` on one sum.

    A noise multiplier of 0 is the release of the sum itself: no privacy.

    Raises:
        ValueError: the multiplier is negative, infinite or NaN.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(
                f"noise_multiplier must be finite and at least 0, got {self.noise_multiplier!r}."
            )


@dataclass(frozen=True)
class PoissonSampledEvent:
    """`event` on a batch that each unit joins independently with probability `sampling_rate`.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """

    sampling_rate: float
    event: GaussianEvent

    def __post_init__(self) -> None:
        if not 0 <= self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must lie in [0, 1], got {self.sampling_rate!r}.")


@dataclass(frozen=True)
class SelfComposedEvent:
    """`event` released `count` times, each with fresh randomness.

    Raises:
        ValueError: the count is not a whole number of at least 0.
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        if not (isinstance(self.count, int) and self.count >= 0):
            raise ValueError(f"count must be a whole number of at least 0, got {self.count!r}.")


@dataclass(frozen=True)
class ComposedEvent:
    """Several events, all released on the same data."""

    events: tuple[Event, ...]


Event = GaussianEvent | PoissonSampledEvent | SelfComposedEvent | ComposedEvent


def to_json(event: Event) -> dict[str, Any]:
    """The event as plain JSON values; `from_json` reads it back.

    >>> to_json(GaussianEvent(1.0))
    {'kind': 'gaussian', 'noise_multiplier': 1.0}
    """
    match event:
        case GaussianEvent(noise_multiplier):
            return {"kind": "gaussian", "noise_multiplier": noise_multiplier}
        case PoissonSampledEvent(sampling_rate, inner):
            return {
                "kind": "poisson-sampled",
                "sampling_rate": sampling_rate,
                "event": to_json(inner),
            }
        case SelfComposedEvent(inner, count):
            return {"kind": "self-composed", "count": count, "event": to_json(inner)}
        case ComposedEvent(events):
            return {"kind": "composed", "events": [to_json(each) for each in events]}
    raise UnknownEventError(f"No serial form for an event of type {type(event).__name__}.")


def from_json(values: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote.

    Raises:
        UnknownEventError: the kind is not known to this version, or a field is missing or wrong.
    """
    try:
        match values["kind"]:
            case "gaussian":
                return GaussianEvent(values["noise_multiplier"])
            case "poisson-sampled":
                inner = from_json(values["event"])
                if not isinstance(inner, GaussianEvent):
                    raise UnknownEventError(
                        f"Poisson sampling of {values['event']!r} is not known."
                    )
                return PoissonSampledEvent(values["sampling_rate"], inner)
            case "self-composed":
                return SelfComposedEvent(from_json(values["event"]), values["count"])
            case "composed":
                return ComposedEvent(tuple(from_json(each) for each in values["events"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise UnknownEventError(
            f"An event must be readable, got {values!r}: {problem}."
        ) from problem
    raise UnknownEventError(
        f"Event kind {values['kind']!r} is not known to this version of deniable; it was refused, "
        "because ignoring it would understate epsilon. Use the version that wrote it, or a newer."
    )
