from __future__ import annotations

import math
from pathlib import Path

import pytest

from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    LaplaceEvent,
    PoissonSampledEvent,
    PureEvent,
    RepeatAndSelectEvent,
    SelfComposedEvent,
)
from deniable.ledger import Ledger
from deniable.report.statement import Releases, releases, state

STEP = PoissonSampledEvent(0.01, GaussianEvent(4.0))


def ledger_of(path: Path, **runs: Event) -> Path:
    with Ledger(path) as ledger:
        for name, event in runs.items():
            entry = ledger.run(name, planned=10)
            for _ in range(10):
                entry.release(event)
            entry.settle()
    return path


def test_every_run_of_a_ledger_is_stated(tmp_path: Path) -> None:
    """Pitfall: users 12. Runs on the same data add up."""
    one = state(ledger_of(tmp_path / "one.sqlite", a=STEP), 1e-5)
    two = state(ledger_of(tmp_path / "two.sqlite", a=STEP, b=STEP), 1e-5)
    assert (one.runs, one.steps, two.runs, two.steps) == (1, 10, 2, 20)
    assert all(two.epsilons[name] > epsilon > 0 for name, epsilon in one.epsilons.items())
    assert set(one.epsilons) == {"rdp", "pld"}


def test_a_release_without_noise_is_stated_as_infinite(tmp_path: Path) -> None:
    bare = PoissonSampledEvent(0.01, GaussianEvent(0.0))
    stated = state(ledger_of(tmp_path / "ledger.sqlite", a=bare), 1e-5)
    assert stated.epsilons == {"rdp": math.inf, "pld": math.inf}


def test_an_absent_ledger_is_a_problem_to_show(tmp_path: Path) -> None:
    stated = state(tmp_path / "ledger.sqlite", 1e-5)
    assert stated.problem is not None and "ledger.sqlite" in stated.problem
    assert str(tmp_path) not in stated.problem
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_ledger_is_a_problem_to_show(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    assert state(path, 1e-5).problem is not None


@pytest.mark.parametrize("delta", [None, 2.0, math.nan])
def test_no_epsilon_is_stated_at_a_delta_that_cannot_be(
    tmp_path: Path, delta: float | None
) -> None:
    stated = state(ledger_of(tmp_path / "ledger.sqlite", a=STEP), delta)
    assert stated.problem is not None
    assert stated.epsilons == {}


def test_releases_are_counted_like_with_like() -> None:
    noise = GaussianEvent(2.0)
    event = ComposedEvent(
        (SelfComposedEvent(ComposedEvent((STEP, noise)), 3), STEP, SelfComposedEvent(noise, 0))
    )
    assert releases(event) == (
        Releases(4, PoissonSampledEvent, 0.01, 4.0),
        Releases(3, GaussianEvent, None, 2.0),
    )
    assert releases(ComposedEvent(())) == ()


def test_releases_of_every_kind_are_said_in_words() -> None:
    event = ComposedEvent((STEP, LaplaceEvent(2.0), PureEvent(0.25), PureEvent(0.25)))
    sampled, laplace, choices = releases(event)
    assert sampled.in_words.startswith("1 sums with Gaussian noise of 4 times")
    assert laplace.in_words.startswith("1 sums with Laplace noise of 2 times")
    assert choices.in_words == "2 private choices at epsilon 0.25 each"
    assert all("all the data" in each.batches for each in (laplace, choices))


def test_the_releases_of_a_search_are_those_of_each_run() -> None:
    run = SelfComposedEvent(STEP, 30)
    found = releases(ComposedEvent((STEP, RepeatAndSelectEvent(run, 10.0, 1.0))))
    assert found == (
        Releases(1, PoissonSampledEvent, 0.01, 4.0),
        Releases(30, PoissonSampledEvent, 0.01, 4.0, of_best=10.0),
    )
    assert "in each of 10 runs on average, of which only the best left" in found[1].batches
