"""Privacy events: frozen, serialisable records of what was released.

An event's meaning never changes once released: a ledger written today must be readable, with the
same epsilon, by every later version. Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from deniable.errors import UnknownEventError
from deniable.units import Neighbouring


@dataclass(frozen=True)
class GaussianEvent:
    """Gaussian noise of standard deviation `noise_multiplier * sensitivity` on one sum.

    A noise multiplier of 0 is the release of the sum itself: no privacy.

    Attributes:
        noise_multiplier: the standard deviation over the sensitivity.
        neighbouring: the relation that the sensitivity is for. Under replacement it is twice what
            one unit contributes.

    Raises:
        ValueError: the multiplier is negative, infinite or NaN.
    """

    noise_multiplier: float
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE

    def __post_init__(self) -> None:
        _check_finite("noise_multiplier", self.noise_multiplier)

    def __repr__(self) -> str:
        """The usual relation goes without saying."""
        return f"GaussianEvent(noise_multiplier={self.noise_multiplier!r}{_relation(self)})"


@dataclass(frozen=True)
class LaplaceEvent:
    """Laplace noise of scale `noise_multiplier * sensitivity` on one sum over all data.

    The sensitivity is in L1 norm, so that epsilon is `1 / noise_multiplier` and delta 0.

    Attributes:
        noise_multiplier: the scale over the sensitivity; 0 is the release of the sum itself.
        neighbouring: the relation that the sensitivity is for.

    Raises:
        ValueError: the multiplier is negative, infinite or NaN.
    """

    noise_multiplier: float
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE

    def __post_init__(self) -> None:
        _check_finite("noise_multiplier", self.noise_multiplier)

    def __repr__(self) -> str:
        return f"LaplaceEvent(noise_multiplier={self.noise_multiplier!r}{_relation(self)})"


@dataclass(frozen=True)
class PureEvent:
    """A release on all data of which nothing is known but that it is (epsilon, 0)-private.

    A choice by the exponential mechanism, say.

    Attributes:
        epsilon: of the release.
        neighbouring: the relation that epsilon is for.

    Raises:
        ValueError: epsilon is negative, infinite or NaN.
    """

    epsilon: float
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE

    def __post_init__(self) -> None:
        _check_finite("epsilon", self.epsilon)

    def __repr__(self) -> str:
        return f"PureEvent(epsilon={self.epsilon!r}{_relation(self)})"


@dataclass(frozen=True)
class PoissonSampledEvent:
    """`event` on a batch that each unit joins independently with probability `sampling_rate`.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """

    sampling_rate: float
    event: GaussianEvent

    def __post_init__(self) -> None:
        _check_rate(self.sampling_rate)
        _check_gaussian(self.event)


@dataclass(frozen=True)
class TruncatedPoissonSampledEvent:
    """`event` on a Poisson sample of which at most `max_batch_size` units, at random, are kept.

    Attributes:
        examples: how many units there are.
        sampling_rate: with which probability each joins the sample.
        max_batch_size: how many of a larger sample stay in the batch.
        event: what is released of the batch.

    Raises:
        ValueError: the rate is not between 0 and 1, or a size is no whole number of at least 1.
    """

    examples: int
    sampling_rate: float
    max_batch_size: int
    event: GaussianEvent

    def __post_init__(self) -> None:
        _check_count("examples", self.examples, 1)
        _check_rate(self.sampling_rate)
        _check_count("max_batch_size", self.max_batch_size, 1)
        _check_gaussian(self.event)


@dataclass(frozen=True)
class SampledWithoutReplacementEvent:
    """`event` on `batch_size` of `examples` units, every such subset being equally likely.

    Raises:
        ValueError: not `1 <= batch_size <= examples`, or the relation is not that of replacement.
    """

    examples: int
    batch_size: int
    event: GaussianEvent

    def __post_init__(self) -> None:
        _check_count("batch_size", self.batch_size, 1)
        _check_count("examples", self.examples, self.batch_size)
        _check_gaussian(self.event)
        _check_replace(self.event)


@dataclass(frozen=True)
class ShuffledEvent:
    """`event` on one of the batches of an epoch, which are disjoint: a unit is in one at most.

    All batches of an epoch together cost what `event` costs once, however many of them are
    recorded (parallel composition), and nothing is claimed of their order.

    Attributes:
        sampler: who shuffled: a key that no other sampler has.
        epoch: which of its epochs, from 1 on.
        event: what is released of each batch.

    Raises:
        ValueError: the epoch is not a whole number of at least 1, or there is no key.
    """

    sampler: str
    epoch: int
    event: GaussianEvent

    def __post_init__(self) -> None:
        if not (isinstance(self.sampler, str) and self.sampler):
            raise ValueError(f"sampler must be a key of its own, got {self.sampler!r}.")
        _check_count("epoch", self.epoch, 1)
        _check_gaussian(self.event)


@dataclass(frozen=True)
class OwnLoaderEvent:
    """`event` on a batch of which nothing is known but that a unit is in it once at most.

    Raises:
        ValueError: the relation is not that of replacement.
    """

    event: GaussianEvent

    def __post_init__(self) -> None:
        _check_gaussian(self.event)
        _check_replace(self.event)


@dataclass(frozen=True)
class SelfComposedEvent:
    """`event` released `count` times, each with fresh randomness.

    Raises:
        ValueError: the count is not a whole number of at least 0.
    """

    event: Event
    count: int

    def __post_init__(self) -> None:
        _check_count("count", self.count, 0)


@dataclass(frozen=True)
class ComposedEvent:
    """Several events, all released on the same data."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class RepeatAndSelectEvent:
    """The best of a random number of runs that each release `event`; nothing else of them leaves.

    How many runs there are is drawn apart from the data, and stays hidden like the other runs. Its
    distribution is truncated negative binomial, of the given shape and mean, or Poisson (Papernot &
    Steinke, 2022, "Hyperparameter Tuning with Renyi Differential Privacy", definition 1 and
    section 3.3). Which run is best depends on nothing but what the runs release.

    Attributes:
        event: what one run releases, at most.
        mean: how many runs there are on average.
        shape: 1 is the geometric distribution, 0 the logarithmic one; None is Poisson.

    Raises:
        ValueError: the mean is not finite and at least 1, or the shape not finite and at least 0.
    """

    event: Event
    mean: float
    shape: float | None

    def __post_init__(self) -> None:
        if not 1 <= self.mean < math.inf:
            raise ValueError(f"mean must be finite and at least 1, got {self.mean!r}.")
        if self.shape is not None and not 0 <= self.shape < math.inf:
            raise ValueError(f"shape must be finite and at least 0, or None, got {self.shape!r}.")


SampledEvent = (
    PoissonSampledEvent
    | TruncatedPoissonSampledEvent
    | SampledWithoutReplacementEvent
    | ShuffledEvent
    | OwnLoaderEvent
)
UnsampledEvent = GaussianEvent | LaplaceEvent | PureEvent
SummedEvent = UnsampledEvent | SampledEvent
SingleEvent = SummedEvent | RepeatAndSelectEvent
Event = SingleEvent | SelfComposedEvent | ComposedEvent

_KINDS: dict[str, type[Event]] = {
    "gaussian": GaussianEvent,
    "laplace": LaplaceEvent,
    "pure": PureEvent,
    "poisson-sampled": PoissonSampledEvent,
    "truncated-poisson-sampled": TruncatedPoissonSampledEvent,
    "sampled-without-replacement": SampledWithoutReplacementEvent,
    "shuffled": ShuffledEvent,
    "own-loader": OwnLoaderEvent,
    "self-composed": SelfComposedEvent,
    "composed": ComposedEvent,
    "repeat-and-select": RepeatAndSelectEvent,
}


def singles(event: Event) -> Iterator[tuple[SingleEvent, int]]:
    """The single releases in an event, each with how often it occurs there.

    The best of many runs is one release.

    Raises:
        UnknownEventError: an event, or one inside it, of a type that is not known here.

    >>> list(singles(SelfComposedEvent(ComposedEvent((GaussianEvent(1.0),)), 3)))
    [(GaussianEvent(noise_multiplier=1.0), 3)]
    """
    match event:
        case SelfComposedEvent(inner, count):
            yield from ((each, count * times) for each, times in singles(inner) if count)
        case ComposedEvent(events):
            for part in events:
                yield from singles(part)
        case RepeatAndSelectEvent(inner):
            list(singles(inner))  # refuses what is not known
            yield event, 1
        case _ if type(event) in _KINDS.values():
            yield event, 1
        case _:
            raise UnknownEventError(
                f"An event must be one of deniable.events, got {event!r}. It was refused, because "
                "ignoring it would understate epsilon."
            )


def neighbouring_of(event: Event) -> Neighbouring:
    """The relation under which everything in an event can be stated together.

    Replacing a unit is removing it and adding another: where any part is stated under replacement,
    the whole is.
    """
    relations = {unsampled(each).neighbouring for each in _sums(event)}
    return Neighbouring.REPLACE if Neighbouring.REPLACE in relations else Neighbouring.ADD_OR_REMOVE


def unsampled(event: SummedEvent) -> UnsampledEvent:
    """What is released of the batch, or of all data."""
    return event if isinstance(event, UnsampledEvent) else event.event


def with_noise(event: Event, factor: float) -> Event:
    """The same releases with all Gaussian noise so many times as large.

    For saying what a convention other than the sensitivity that holds would make of them.

    >>> with_noise(SelfComposedEvent(PoissonSampledEvent(0.1, GaussianEvent(1.0)), 3), 2.0)
    SelfComposedEvent(event=PoissonSampledEvent(sampling_rate=0.1,
    event=GaussianEvent(noise_multiplier=2.0)), count=3)
    """
    match event:
        case GaussianEvent(noise_multiplier):
            return replace(event, noise_multiplier=factor * noise_multiplier)
        case LaplaceEvent() | PureEvent():
            return event
        case SelfComposedEvent(inner, count):
            return SelfComposedEvent(with_noise(inner, factor), count)
        case ComposedEvent(events):
            return ComposedEvent(tuple(with_noise(each, factor) for each in events))
        case RepeatAndSelectEvent(inner):
            return replace(event, event=with_noise(inner, factor))
    noise = factor * event.event.noise_multiplier
    return replace(event, event=replace(event.event, noise_multiplier=noise))


def _sums(event: Event) -> Iterator[SummedEvent]:
    """The single releases, and those of the runs that were repeated to choose the best."""
    for each, _ in singles(event):
        if isinstance(each, RepeatAndSelectEvent):
            yield from _sums(each.event)
        else:
            yield each


def notes(event: Event) -> tuple[str, ...]:
    """What must be said, in sentences, wherever the cost of an event is stated."""
    kinds = {type(each) for each, _ in singles(event)} | {type(each) for each in _sums(event)}
    said = {
        ShuffledEvent: "Batches were cut from shuffled epochs: no amplification by sampling is "
        "claimed, everybody counts as once in every epoch.",
        OwnLoaderEvent: "Batches came from the user's own loader: no amplification by sampling is "
        "claimed, everybody counts as once in every step. That holds if the loader reads no "
        "example twice into a batch and chooses rows without looking at what is in them.",
        RepeatAndSelectEvent: "A search made a random number of runs, of which only the best was "
        "released. That holds if the number was drawn as stated, and if it and all other runs, "
        "with their scores, stay hidden.",
    }
    return tuple(text for kind, text in said.items() if kind in kinds)


def to_json(event: Event) -> dict[str, Any]:
    """The event as plain JSON values; `from_json` reads it back.

    >>> to_json(GaussianEvent(1.0))
    {'kind': 'gaussian', 'noise_multiplier': 1.0}
    """
    for kind, known in _KINDS.items():
        if type(event) is known:
            values = {each.name: getattr(event, each.name) for each in fields(event)}
            if values.get("neighbouring") is Neighbouring.ADD_OR_REMOVE:
                del values["neighbouring"]  # as the first version wrote it
            return {"kind": kind} | {name: _written(value) for name, value in values.items()}
    raise UnknownEventError(f"No serial form for an event of type {type(event).__name__}.")


def from_json(values: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote.

    Raises:
        UnknownEventError: the kind is not known to this version, or a field is missing, not known
            or wrong.
    """
    try:
        kind = _KINDS[values["kind"]]
    except (KeyError, TypeError) as problem:
        raise UnknownEventError(
            f"An event of a known kind was expected, got {values!r}. It was refused, because "
            "ignoring it would understate epsilon. Use the version of deniable that wrote it, or a "
            "newer one."
        ) from problem
    try:
        return kind(**{name: _read(name, values[name]) for name in values if name != "kind"})
    except (TypeError, ValueError) as problem:
        raise UnknownEventError(
            f"An event must be readable, got {values!r}: {problem}."
        ) from problem


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    if isinstance(value, Neighbouring):
        return value.value
    return to_json(value) if type(value) in _KINDS.values() else value


def _read(name: str, value: Any) -> Any:
    match name:
        case "event":
            return from_json(value)
        case "events":
            return tuple(from_json(each) for each in value)
        case "neighbouring":
            return Neighbouring(value)
    return value


def _relation(event: UnsampledEvent) -> str:
    return ", REPLACE" if event.neighbouring is Neighbouring.REPLACE else ""


def _check_finite(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"sampling_rate must lie in [0, 1], got {rate!r}.")


def _check_count(name: str, count: int, least: int) -> None:
    if not (isinstance(count, int) and count >= least):
        raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}.")


def _check_gaussian(event: object) -> None:
    if not isinstance(event, GaussianEvent):
        raise ValueError(f"Sampling is known for Gaussian releases alone, got {event!r}.")


def _check_replace(event: GaussianEvent) -> None:
    if event.neighbouring is not Neighbouring.REPLACE:
        raise ValueError(
            f"This event is known under the relation of replacement alone, got {event!r}."
        )
