from __future__ import annotations

from pathlib import Path

import pytest

from deniable.errors import LedgerError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from deniable.ledger import Ledger, RunLedger

ONE, TWO = GaussianEvent(1.0), GaussianEvent(2.0)


def times(event: Event, count: int) -> SelfComposedEvent:
    return SelfComposedEvent(event, count)


def release(run: RunLedger, event: Event, count: int) -> None:
    for _ in range(count):
        run.release(event)


def test_a_block_counts_as_released_until_it_is_settled() -> None:
    run = Ledger(None).run("a", block=10)
    release(run, ONE, 13)
    assert run.position == 13
    assert run.event() == times(ONE, 20)
    assert run.released_event() == times(ONE, 13)
    run.settle()
    assert run.event() == run.released_event() == times(ONE, 13)


def test_no_block_reaches_past_the_plan() -> None:
    run = Ledger(None).run("a", planned=13, block=10)
    release(run, ONE, 13)
    assert run.event() == times(ONE, 13)


def test_no_block_reaches_past_the_releases_that_are_alike() -> None:
    run = Ledger(None).run("a", planned=13, block=10)
    for ahead in (3, 2, 1):
        run.release(ONE, alike=ahead)
        assert run.event() == times(ONE, 3)
    run.release(TWO, alike=10)
    assert run.event() == ComposedEvent((times(ONE, 3), times(TWO, 10)))


def test_releases_past_the_plan_are_recorded_too() -> None:
    run = Ledger(None).run("a", planned=3, block=10)
    release(run, ONE, 4)
    run.settle()
    assert run.event() == times(ONE, 4)


def test_nothing_released_states_nothing() -> None:
    run = Ledger(None).run("a")
    run.settle()
    assert run.event() == run.released_event() == ComposedEvent(())


def test_after_settling_the_run_goes_on() -> None:
    run = Ledger(None).run("a", block=10)
    release(run, ONE, 3)
    run.settle()
    release(run, ONE, 2)
    assert run.event() == times(ONE, 13)
    run.settle()
    assert run.event() == times(ONE, 5)


def test_an_event_that_changes_within_a_block_counts_from_where_it_changes() -> None:
    run = Ledger(None).run("a", block=10)
    release(run, ONE, 4)
    release(run, TWO, 3)
    release(run, ONE, 2)
    assert run.released_event() == ComposedEvent((times(ONE, 6), times(TWO, 3)))
    run.settle()
    assert run.event() == ComposedEvent((times(ONE, 6), times(TWO, 3)))


def test_equal_events_are_one_event_whatever_the_object() -> None:
    run = Ledger(None).run("a", block=10)
    release(run, GaussianEvent(1.0), 2)
    release(run, GaussianEvent(1.0), 2)
    assert run.event() == times(ONE, 10)


def crash_and_reopen(path: Path, released: int = 14) -> tuple[str, RunLedger]:
    """The stream that the killed process released from, and the run as the next one opens it."""
    with Ledger(path) as book:
        before = book.run("a", block=10)
        release(before, ONE, released)
    return before.stream, Ledger(path).run("a", block=10)


def test_a_run_that_is_taken_over_starts_where_the_stated_steps_end(tmp_path: Path) -> None:
    """New noise on steps that may have been released is a new release. Pitfall: privacy 11."""
    _, run = crash_and_reopen(tmp_path / "l")
    assert run.position == run.reserved == 20
    release(run, ONE, 1)
    run.settle()
    assert run.event() == times(ONE, 21)


def test_a_replay_after_a_crash_costs_nothing(tmp_path: Path) -> None:
    """Pitfall: privacy 10."""
    stream, run = crash_and_reopen(tmp_path / "l")
    run.resume_at(12, stream)
    release(run, ONE, 8)
    assert run.event() == times(ONE, 20)
    release(run, ONE, 3)
    run.settle()
    assert run.event() == times(ONE, 23)


def test_what_a_killed_process_reserved_is_not_given_back(tmp_path: Path) -> None:
    """It may have released up to step 20, though the replay stops at 13. Pitfall: privacy 10."""
    stream, run = crash_and_reopen(tmp_path / "l")
    run.resume_at(12, stream)
    release(run, ONE, 1)
    run.settle()
    assert run.released_event() == times(ONE, 13)
    assert run.event() == times(ONE, 20)


def test_a_replay_that_releases_another_event_counts_beside_the_first(tmp_path: Path) -> None:
    stream, run = crash_and_reopen(tmp_path / "l")
    run.resume_at(12, stream)
    release(run, TWO, 3)
    run.settle()
    assert run.event() == ComposedEvent((times(ONE, 20), times(TWO, 3)))


def test_going_back_in_the_same_process_gives_back_no_released_step() -> None:
    run = Ledger(None).run("a", block=10)
    release(run, ONE, 18)
    run.resume_at(5, run.stream)
    release(run, ONE, 2)
    assert run.position == 7
    run.settle()
    assert run.event() == times(ONE, 18)
    release(run, ONE, 11)
    assert run.event() == times(ONE, 18)


@pytest.mark.parametrize("position", [-1, 21])
def test_resuming_where_nothing_was_recorded_is_refused(tmp_path: Path, position: int) -> None:
    """Releases would be missing from this ledger. Pitfall: privacy 10."""
    stream, run = crash_and_reopen(tmp_path / "l")
    with pytest.raises(LedgerError, match="between step 0 and step 20"):
        run.resume_at(position, stream)
    assert run.position == 20


def test_of_two_that_continue_one_run_only_the_later_may_reserve(tmp_path: Path) -> None:
    first_book, second_book = Ledger(tmp_path / "l"), Ledger(tmp_path / "l")
    first = first_book.run("a", block=10)
    release(first, ONE, 4)
    second = second_book.run("a", block=10)
    second.resume_at(4, first.stream)
    release(second, ONE, 4)
    release(first, ONE, 6)  # inside its own block, which stays stated
    with pytest.raises(LedgerError, match="must not be released"):
        first.release(ONE)
    assert first.position == 10
    first.settle()
    second.settle()
    assert second.event() == times(ONE, 10)


def test_a_release_that_could_not_be_recorded_does_not_count(tmp_path: Path) -> None:
    """Pitfall: privacy 10."""
    ledger = Ledger(tmp_path / "l")
    run = ledger.run("a", block=2)
    release(run, ONE, 2)
    ledger.close()
    with pytest.raises(LedgerError):
        run.release(ONE)
    assert run.position == 2
    assert Ledger(tmp_path / "l").event() == times(ONE, 2)


def test_what_is_prepared_is_durable_and_counted_once() -> None:
    event = PoissonSampledEvent(0.01, GaussianEvent(1.0))
    book = Ledger(None)
    run = book.run("a", planned=10, block=1)
    run.prepare(event)
    assert run.position == 0 and run.reserved == 1
    run.release(event)
    assert run.position == 1 == run.reserved
    run.prepare(event)
    run.settle()
    assert book.runs()[0].steps == 1
