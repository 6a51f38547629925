from __future__ import annotations

import math
from pathlib import Path

import pytest

from deniable.accounting import spent
from deniable.errors import AccountingError, BudgetError
from deniable.events import ComposedEvent, Event, GaussianEvent, SelfComposedEvent
from deniable.ledger import Budget, Ledger
from deniable.ledger.budget import Guard

ONE, TWO, BARE = GaussianEvent(20.0), GaussianEvent(30.0), GaussianEvent(0.0)
DELTA = 1e-5


def cost(*events: Event) -> float:
    return spent(ComposedEvent(events), DELTA).epsilon


def times(event: Event, count: int) -> Event:
    return SelfComposedEvent(event, count)


def with_budget(epsilon: float, path: Path | None = None) -> Ledger:
    book = Ledger(path)
    book.set_budget(epsilon, DELTA)
    return book


def released(book: Ledger, run_id: str, event: Event, *, block: int = 64) -> int:
    """How many releases a run gets until it is refused."""
    run, count = book.run(run_id, block=block), 0
    with pytest.raises(BudgetError):
        while True:
            run.release(event)
            count += 1
    run.settle()
    return count


@pytest.mark.parametrize("block", [1, 5, 64])
def test_the_release_that_would_pass_the_budget_is_refused_and_no_earlier_one(block: int) -> None:
    book = with_budget(cost(times(ONE, 11)))
    assert released(book, "a", ONE, block=block) == 11
    assert cost(book.event()) <= book.contents().budget.epsilon < cost(times(ONE, 12))


def test_what_is_refused_is_not_recorded_and_says_why() -> None:
    book = with_budget(cost(times(ONE, 3)))
    run = book.run("a", block=1)
    for _ in range(3):
        run.release(ONE)
    before = book.contents().entries
    with pytest.raises(BudgetError, match=r"Step 3 of run 'a' is refused .* so far.* budget is"):
        run.release(ONE)
    assert book.contents().entries == before
    assert run.position == 3
    assert run.released_event() == times(ONE, 3)


def test_the_releases_of_all_runs_count_together() -> None:
    """Pitfall: users 12."""
    book = with_budget(cost(times(ONE, 4), times(TWO, 6)))
    book.release("mean", ONE)
    book.release("covariance", times(ONE, 3))
    assert released(book, "training", TWO) == 6


def test_a_plan_that_cannot_end_within_the_budget_is_refused_at_its_start() -> None:
    book = with_budget(cost(times(ONE, 10)))
    book.release("mean", ONE)
    with pytest.raises(BudgetError, match=r"plan of run 'a' does not fit, and nothing .* released"):
        book.run("a", planned=10, expected=times(ONE, 10))
    assert [record.run_id for record in book.runs()] == ["mean"]
    book.run("a", planned=9, expected=times(ONE, 9))


def test_a_run_that_is_taken_up_again_is_not_counted_twice(tmp_path: Path) -> None:
    """Its replay costs nothing, and its plan fits as it did. Pitfall: privacy 10."""
    path = tmp_path / "l"
    with with_budget(cost(times(ONE, 10)), path) as book:
        before = book.run("a", planned=10, expected=times(ONE, 10), block=4)
        for _ in range(6):
            before.release(ONE)
    with Ledger(path) as book:
        run = book.run("a", planned=10, expected=times(ONE, 10), block=4)
        run.resume_at(5, before.stream)
        for _ in range(5):
            run.release(ONE)
        with pytest.raises(BudgetError):
            run.release(ONE)
        assert book.event() == times(ONE, 10)


def test_what_was_given_back_can_be_spent_again() -> None:
    book = with_budget(cost(times(ONE, 10)))
    first = book.run("a", block=10)
    first.release(ONE)
    with pytest.raises(BudgetError):
        book.release("b", ONE)
    first.settle()
    assert released(book, "b", ONE) == 9


def test_a_budget_is_kept_with_the_ledger_and_the_last_one_holds(tmp_path: Path) -> None:
    with with_budget(1.0, tmp_path / "l") as book:
        book.set_budget(0.5, 1e-6, "rdp")
    contents = Ledger(tmp_path / "l").contents()
    assert contents.budget == Budget(0.5, 1e-6, "rdp")
    assert [budget.epsilon for _, budget in contents.budgets] == [1.0, 0.5]


def test_a_budget_below_what_is_spent_is_refused() -> None:
    book = Ledger(None)
    book.release("mean", times(ONE, 10))
    with pytest.raises(BudgetError, match=r"already: a budget of 0\.1 cannot be kept"):
        book.set_budget(0.1, DELTA)
    assert book.contents().budget is None


def test_without_noise_nothing_fits_a_budget() -> None:
    with pytest.raises(BudgetError, match="would cost inf"):
        with_budget(1e6).release("bare", BARE)


@pytest.mark.parametrize(
    ("epsilon", "delta", "accountant", "error"),
    [
        (0.0, DELTA, "pld", BudgetError),
        (math.inf, DELTA, "pld", BudgetError),
        (math.nan, DELTA, "pld", BudgetError),
        (1.0, 0.0, "pld", BudgetError),
        (1.0, 1.0, "pld", BudgetError),
        (1.0, DELTA, "guess", AccountingError),
    ],
)
def test_a_budget_out_of_range_is_refused(
    epsilon: float, delta: float, accountant: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"must be|needs"):
        Ledger(None).set_budget(epsilon, delta, accountant)


def test_a_closed_ledger_spends_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "l"
    book = Ledger(path)
    run = book.run("a", block=3)
    run.release(ONE)
    book.close_spending()
    run.release(ONE)  # inside its block, which is on record
    run.release(ONE)
    with pytest.raises(BudgetError, match=r"closed at 20.*nothing more may be released"):
        run.release(ONE)
    run.settle()
    assert book.event() == times(ONE, 3)
    for refused in (
        lambda: Ledger(path).run("b"),
        lambda: Ledger(path).set_budget(9.0, DELTA),
        lambda: Ledger(path).close_spending(),
    ):
        with pytest.raises(BudgetError, match="cannot be undone"):
            refused()


def test_the_guard_asks_only_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block costs no accounting while the whole plan is known to fit."""
    asked = []

    def counted(event: Event, delta: float, accountant: str):  # type: ignore[no-untyped-def]
        asked.append(accountant)
        return spent(event, delta, accountant)

    monkeypatch.setattr("deniable.ledger.budget.spent", counted)
    book = with_budget(1.1 * cost(times(ONE, 500)))
    asked.clear()
    run = book.run("a", planned=500, expected=times(ONE, 500))
    for _ in range(500):
        run.release(ONE)
    assert len(asked) <= 2


def test_the_guard_knows_nothing_of_another_budget() -> None:
    from collections import Counter

    guard, total = Guard(), Counter({ONE: 5})
    assert guard.admits(Budget(1.0, DELTA), total)
    assert not guard.admits(Budget(0.01, DELTA), total)
    assert guard.admits(Budget(1.0, DELTA), total)
