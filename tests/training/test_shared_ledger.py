"""Several runs that are recorded in the one ledger of their data set."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deniable.accounting import spent
from deniable.claim import read_claim, verify
from deniable.errors import BudgetError, LedgerError
from deniable.events import GaussianEvent, SelfComposedEvent
from deniable.ledger import Ledger
from deniable.report import render
from deniable.runfolder import RunFolder, ledger_at
from deniable.settings import Settings
from deniable.training import Moment, begin, fit, resume

Make = Callable[..., Settings]
Read = Callable[[Path], tuple[bytes, list[Any], dict[str, Any]]]


class CrashError(Exception):
    """The process dies here."""


def crashed(settings: Settings, path: Path, ledger: Path, step: int) -> None:
    def watch(moment: Moment) -> None:
        if moment.step == step:
            raise CrashError

    with pytest.raises(CrashError):
        fit(begin(settings, path, ledger=ledger), watch)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "data" / "people.ledger"


def contents_of(path: Path) -> Any:
    with Ledger(path, create=False) as book:
        return book.contents()


def test_runs_on_one_data_set_compose_in_its_ledger(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    """Pitfall: users 12."""
    runs = [begin(settings(seed=seed), tmp_path / str(seed), ledger=ledger) for seed in (1, 2)]
    assert all(fit(run) for run in runs)
    (event, delta) = runs[0].private.plan.event, runs[0].private.plan.delta
    contents = contents_of(ledger)
    assert list(contents.runs) == [run.record["run_id"] for run in runs]
    assert len(contents.fingerprints) == 1
    assert contents.unit == "one example"
    twice = SelfComposedEvent(event, 2)
    assert spent(contents.event(), delta).epsilon == pytest.approx(spent(twice, delta).epsilon)
    for run in runs:
        assert not run.folder.ledger.exists()
        assert run.record["results"]["epsilon"] == run.private.plan.epsilon


def test_the_record_says_where_the_ledger_is_and_report_and_spending_find_it(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    for name in ("a", "b"):
        assert fit(begin(settings(), tmp_path / name, ledger=ledger))
    folder = RunFolder(tmp_path / "b")
    assert folder.read()["ledger"] == str(ledger)
    assert ledger_at(folder.path) == ledger
    page = render(folder.path).read_text(encoding="utf-8")
    assert "people.ledger" in page
    assert str(ledger.parent) not in page
    assert "More was released on these data" in page
    assert "does not confirm" not in page and "fewer steps" not in page


def test_a_run_alone_in_its_data_sets_ledger_has_no_others_to_speak_of(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    assert fit(begin(settings(), tmp_path / "a", ledger=ledger))
    assert "More was released" not in render(tmp_path / "a").read_text(encoding="utf-8")


def test_a_claim_of_an_earlier_run_outlives_later_ones(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    for name in ("a", "b"):
        assert fit(begin(settings(), tmp_path / name, ledger=ledger))
    first, second = (read_claim(RunFolder(tmp_path / name).claim) for name in ("a", "b"))
    assert first["epsilon"] == second["epsilon"] == first["everything"] < second["everything"]
    with Ledger(ledger, create=False) as book:
        assert verify(first, book) == verify(second, book) == ()


def test_a_crashed_run_finds_its_ledger_again_and_ends_the_same(
    tmp_path: Path, ledger: Path, settings: Make, results_of: Read
) -> None:
    """Pitfall: privacy 10, privacy 11."""
    fit(begin(settings(), tmp_path / "whole"))
    crashed(settings(checkpoint_seconds=0.0), tmp_path / "broken", ledger, step=4)
    assert fit(resume(tmp_path / "broken"))
    assert results_of(tmp_path / "broken") == results_of(tmp_path / "whole")
    (record,) = contents_of(ledger).records()
    assert record.steps == 9


def test_a_ledger_that_was_moved_away_is_asked_for_and_not_made_anew(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    """Pitfall: privacy 10."""
    crashed(settings(checkpoint_seconds=0.0), tmp_path / "run", ledger, step=4)
    moved = ledger.rename(tmp_path / "moved")
    with pytest.raises(LedgerError, match=r"people\.ledger, and there is no such file"):
        resume(tmp_path / "run")
    assert not ledger.exists()
    folder = RunFolder(tmp_path / "run")
    folder.write(folder.read() | {"ledger": str(moved)})
    assert fit(resume(folder.path))


def entries(path: Path) -> int:
    return int(contents_of(path).entries)


def test_a_plan_that_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    run = begin(settings(), tmp_path / "a", ledger=ledger)
    assert fit(run)
    with Ledger(ledger) as book:
        book.set_budget(1.1 * run.private.plan.epsilon, run.private.plan.delta)
    before = entries(ledger)
    with pytest.raises(BudgetError, match="This plan does not fit, and nothing of it was released"):
        begin(settings(), tmp_path / "b", ledger=ledger)
    assert not (tmp_path / "b").exists()
    assert entries(ledger) == before


def test_a_run_that_was_to_be_replaced_stays_when_the_new_one_does_not_fit(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    assert fit(begin(settings(), tmp_path / "a", ledger=ledger))
    with Ledger(ledger) as book:
        book.close_spending()
    before = json.dumps(RunFolder(tmp_path / "a").read())
    with pytest.raises(BudgetError, match="was closed"):
        begin(settings(), tmp_path / "a", ledger=ledger, overwrite=True)
    assert json.dumps(RunFolder(tmp_path / "a").read()) == before
    assert RunFolder(tmp_path / "a").model.exists()


def test_replacing_a_run_leaves_what_it_released_on_record(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    """Pitfall: users 12."""
    for _ in range(2):
        assert fit(begin(settings(), tmp_path / "a", ledger=ledger, overwrite=True))
    assert [record.steps for record in contents_of(ledger).records()] == [9, 9]


def test_other_data_another_relation_and_another_unit_are_refused(
    tmp_path: Path, ledger: Path, settings: Make, use_data: Callable[..., None]
) -> None:
    """Pitfall: privacy 14."""
    assert fit(begin(settings(), tmp_path / "a", ledger=ledger))
    before = entries(ledger)
    with pytest.raises(LedgerError, match=r"under the relation add-or-remove .* got replace"):
        begin(settings(neighbouring="replace"), tmp_path / "b", ledger=ledger)
    use_data(shift=0.001)
    with pytest.raises(LedgerError, match="belongs to the data set with the fingerprint"):
        begin(settings(), tmp_path / "b", ledger=ledger)
    with Ledger(tmp_path / "users") as book:
        book.release("mean", GaussianEvent(5.0), unit="one user, with all of their rows")
    with pytest.raises(LedgerError, match="protect one user"):
        begin(settings(), tmp_path / "b", ledger=tmp_path / "users")
    assert not (tmp_path / "b").exists()
    assert entries(ledger) == before


def test_a_run_whose_budget_others_spend_meanwhile_is_saved_and_goes_on_when_there_is_room(
    tmp_path: Path, ledger: Path, settings: Make, results_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused steps are not taken: the model is that of the last one. Pitfall: privacy 10."""
    monkeypatch.setattr("deniable.ledger.book.RunLedger", _in_blocks_of_one())
    whole = begin(settings(), tmp_path / "whole")
    assert fit(whole)
    epsilon, delta = whole.private.plan.epsilon, whole.private.plan.delta
    run = begin(settings(), tmp_path / "run", ledger=ledger)
    with Ledger(ledger) as book:
        book.set_budget(epsilon, delta)

    def watch(moment: Moment) -> None:
        if moment.step == 4:
            with Ledger(ledger) as book:
                book.release("somebody else", GaussianEvent(4.0))

    with pytest.raises(BudgetError, match=r"Step \d of run .* is refused"):
        fit(run, watch)
    assert run.record["status"] == "interrupted"
    assert 4 <= run.private.steps < 9
    contents = contents_of(ledger)
    assert contents.budget.cost(contents.totals()) <= epsilon
    assert contents.runs[run.record["run_id"]].statement.steps == run.private.steps
    with Ledger(ledger) as book:
        book.set_budget(100.0, delta)
    assert fit(resume(tmp_path / "run"))
    assert results_of(tmp_path / "run") == results_of(tmp_path / "whole")


def _in_blocks_of_one() -> Any:
    from deniable.ledger.run import RunLedger

    def make(*arguments: Any, **named: Any) -> RunLedger:
        return RunLedger(*arguments, **(named | {"block": 1}))

    return make


def test_runs_at_once_stay_within_the_budget_of_their_ledger(
    tmp_path: Path, ledger: Path, settings: Make
) -> None:
    """Each of them fits by itself, both do not."""
    first = begin(settings(), tmp_path / "a", ledger=ledger)
    second = begin(settings(seed=8), tmp_path / "b", ledger=ledger)
    epsilon, delta = first.private.plan.epsilon, first.private.plan.delta
    with Ledger(ledger) as book:
        book.set_budget(1.2 * epsilon, delta)
    ends: list[bool] = []

    def train(run: Any) -> None:
        try:
            ends.append(fit(run))
        except BudgetError:
            ends.append(False)

    threads = [threading.Thread(target=train, args=(run,)) for run in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(ends) == 2 and not all(ends)
    contents = contents_of(ledger)
    assert contents.budget.cost(contents.totals()) <= 1.2 * epsilon
