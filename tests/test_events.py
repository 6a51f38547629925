"""What stands in a ledger, and what is refused there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from deniable.errors import UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    LaplaceEvent,
    OwnLoaderEvent,
    PoissonSampledEvent,
    PureEvent,
    RepeatAndSelectEvent,
    SampledWithoutReplacementEvent,
    SelfComposedEvent,
    ShuffledEvent,
    TruncatedPoissonSampledEvent,
    from_json,
    neighbouring_of,
    notes,
    singles,
    to_json,
    unsampled,
    with_noise,
)
from deniable.units import Neighbouring

NOISE = GaussianEvent(1.25)
REPLACED = GaussianEvent(1.25, Neighbouring.REPLACE)
EVENTS: dict[str, Event] = {
    "gaussian": NOISE,
    "replaced": REPLACED,
    "laplace": LaplaceEvent(2.0),
    "pure": PureEvent(0.3, Neighbouring.REPLACE),
    "poisson": PoissonSampledEvent(0.01, NOISE),
    "truncated": TruncatedPoissonSampledEvent(1_000, 0.01, 30, REPLACED),
    "fixed size": SampledWithoutReplacementEvent(1_000, 10, REPLACED),
    "shuffled": ShuffledEvent("a1b2", 3, NOISE),
    "own loader": OwnLoaderEvent(REPLACED),
    "repeated": SelfComposedEvent(PoissonSampledEvent(0.01, REPLACED), 7),
    "composed": ComposedEvent((NOISE, SelfComposedEvent(ComposedEvent((REPLACED,)), 2))),
    "searched": RepeatAndSelectEvent(SelfComposedEvent(REPLACED, 3), 10.5, 1.0),
    "poisson search": RepeatAndSelectEvent(ComposedEvent((NOISE,)), 4.0, None),
}
every_event = pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)


@every_event
def test_an_event_survives_json(event: Event) -> None:
    written = json.dumps(to_json(event), allow_nan=False, sort_keys=True)
    assert from_json(json.loads(written)) == event


@pytest.mark.parametrize(
    ("written", "event"),
    [
        ({"kind": "gaussian", "noise_multiplier": 1.25}, NOISE),
        ({"kind": "laplace", "noise_multiplier": 2.0}, LaplaceEvent(2.0)),
        (
            {"kind": "pure", "epsilon": 0.3, "neighbouring": "replace"},
            PureEvent(0.3, Neighbouring.REPLACE),
        ),
        (
            {
                "kind": "poisson-sampled",
                "sampling_rate": 0.01,
                "event": {"kind": "gaussian", "noise_multiplier": 1.25},
            },
            PoissonSampledEvent(0.01, NOISE),
        ),
        (
            {
                "kind": "composed",
                "events": [
                    {
                        "kind": "self-composed",
                        "count": 3,
                        "event": {"kind": "gaussian", "noise_multiplier": 1.25},
                    }
                ],
            },
            ComposedEvent((SelfComposedEvent(NOISE, 3),)),
        ),
    ],
)
def test_what_the_first_version_wrote_is_read_and_written_as_it_was(
    written: dict[str, Any], event: Event
) -> None:
    assert from_json(written) == event
    assert to_json(event) == written


@every_event
@pytest.mark.parametrize(
    "change", [{"kind": "of a later version"}, {"kind": ["gaussian"]}, {"more": 1}]
)
def test_what_is_not_known_is_refused(event: Event, change: dict[str, Any]) -> None:
    """A field that is ignored could be what the epsilon hangs on."""
    with pytest.raises(UnknownEventError):
        from_json(to_json(event) | change)


@every_event
def test_a_missing_field_is_refused(event: Event) -> None:
    written = to_json(event)
    for name in set(written) - {"neighbouring"}:
        with pytest.raises(UnknownEventError):
            from_json({key: value for key, value in written.items() if key != name})


@pytest.mark.parametrize(
    "written",
    [
        to_json(NOISE) | {"noise_multiplier": -1.0},
        to_json(NOISE) | {"noise_multiplier": "1"},
        to_json(NOISE) | {"neighbouring": "swap"},
        to_json(EVENTS["poisson"]) | {"sampling_rate": 1.5},
        to_json(EVENTS["poisson"]) | {"event": to_json(EVENTS["poisson"])},
        to_json(EVENTS["truncated"]) | {"max_batch_size": 0},
        to_json(EVENTS["truncated"]) | {"examples": 10.5},
        to_json(EVENTS["fixed size"]) | {"batch_size": 1_001},
        to_json(EVENTS["fixed size"]) | {"event": to_json(NOISE)},
        to_json(EVENTS["own loader"]) | {"event": to_json(NOISE)},
        to_json(EVENTS["shuffled"]) | {"epoch": 0},
        to_json(EVENTS["shuffled"]) | {"sampler": ""},
        to_json(EVENTS["repeated"]) | {"count": -1},
        to_json(EVENTS["composed"]) | {"events": [{}]},
        to_json(EVENTS["searched"]) | {"mean": 0.5},
        to_json(EVENTS["searched"]) | {"mean": None},
        to_json(EVENTS["searched"]) | {"shape": -0.5},
        to_json(EVENTS["searched"]) | {"event": {}},
    ],
    ids=lambda written: str(written["kind"]),
)
def test_an_event_that_cannot_be_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(UnknownEventError):
        from_json(written)


def test_single_releases_are_counted_through_all_nesting() -> None:
    inner = ComposedEvent((NOISE, SelfComposedEvent(EVENTS["poisson"], 3)))
    found = list(singles(SelfComposedEvent(inner, 2)))
    assert found == [(NOISE, 2), (EVENTS["poisson"], 6)]
    assert list(singles(SelfComposedEvent(inner, 0))) == []


def test_the_whole_is_stated_under_replacement_where_a_part_is() -> None:
    """Pitfall: privacy 14."""
    assert neighbouring_of(EVENTS["poisson"]) is Neighbouring.ADD_OR_REMOVE
    assert neighbouring_of(EVENTS["composed"]) is Neighbouring.REPLACE
    assert neighbouring_of(EVENTS["searched"]) is Neighbouring.REPLACE
    assert neighbouring_of(EVENTS["poisson search"]) is Neighbouring.ADD_OR_REMOVE
    assert neighbouring_of(ComposedEvent(())) is Neighbouring.ADD_OR_REMOVE


def test_events_without_amplification_say_so_wherever_they_are() -> None:
    """Pitfall: privacy 1."""
    for name in ("shuffled", "own loader"):
        hidden = ComposedEvent((NOISE, SelfComposedEvent(EVENTS[name], 2)))
        (said,) = notes(hidden)
        assert "no amplification by sampling is claimed" in said
        assert said in notes(RepeatAndSelectEvent(hidden, 3.0, 0.0))
    assert notes(EVENTS["composed"]) == notes(EVENTS["poisson"]) == ()


@every_event
def test_other_noise_changes_the_gaussian_noise_of_every_release_and_nothing_else(
    event: Event,
) -> None:
    for (before, count), (after, times) in zip(
        singles(event), singles(with_noise(event, 2.0)), strict=True
    ):
        assert (type(after), times) == (type(before), count)
        if isinstance(before, RepeatAndSelectEvent):
            assert after == replace(before, event=with_noise(before.event, 2.0))
            continue
        one, other = unsampled(before), unsampled(after)
        factor = 2 if isinstance(one, GaussianEvent) else 1
        assert to_json(other) == {
            name: factor * value if name == "noise_multiplier" else value
            for name, value in to_json(one).items()
        }
    assert with_noise(with_noise(event, 2.0), 0.5) == event


def test_the_best_of_many_runs_says_what_must_stay_hidden() -> None:
    (said,) = notes(ComposedEvent((NOISE, EVENTS["searched"])))
    assert "all other runs, with their scores, stay hidden" in said


def test_the_best_of_many_runs_is_one_release() -> None:
    found = list(singles(SelfComposedEvent(EVENTS["searched"], 2)))
    assert found == [(EVENTS["searched"], 2)]
