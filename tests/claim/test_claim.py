"""What a claim says, and every way in which a ledger can fail to bear it out."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deniable.accounting import Search, spent
from deniable.claim import FALSE_POSITIVE_RATES, Claim, Difference, read_claim, verify
from deniable.errors import AccountingError, LedgerError, SettingsError
from deniable.events import (
    ComposedEvent,
    GaussianEvent,
    OwnLoaderEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
    ShuffledEvent,
)
from deniable.ledger import Ledger
from deniable.units import Neighbouring

STEP = PoissonSampledEvent(0.02, GaussianEvent(1.0))
REPLACED = GaussianEvent(2.0, Neighbouring.REPLACE)
PLAN = {"delta": 1e-6, "accountant": "rdp", "examples": 5_000}
QUIET = {"secure": False, "seeded": False}


def trained(book: Ledger, run_id: str = "a", steps: int = 40, **noise: bool) -> None:
    """A run that ended in order."""
    run = book.run(run_id, planned=steps, description={"plan": PLAN, "noise": QUIET | noise})
    for _ in range(steps):
        run.release(STEP)
    run.settle()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as book:
        book.release("mean", GaussianEvent(20.0))
        trained(book)
    return path


def claimed(path: Path, run: str | None = "a") -> dict[str, Any]:
    """A claim as somebody receives it, in a file."""
    with Ledger(path, create=False) as book:
        text = json.dumps(Claim.of(book.contents(), run).to_json(), allow_nan=False)
    (path.parent / "claim.json").write_text(text, encoding="utf-8")
    return read_claim(path.parent / "claim.json")


def check(values: dict[str, Any], path: Path) -> tuple[Difference, ...]:
    with Ledger(path, create=False) as book:
        return verify(values, book)


def test_a_claim_says_what_was_spent_under_the_plan_of_its_run(path: Path) -> None:
    values = claimed(path)
    event = SelfComposedEvent(STEP, 40)
    assert values["epsilon"] == spent(event, 1e-6, "rdp").epsilon
    assert (values["delta"], values["accountant"], values["run"]) == (1e-6, "rdp", "a")
    assert values["neighbouring"] == "add-or-remove"
    assert values["unit"] == "one example"
    assert values["sampling"] == ["poisson-sampled"]
    with Ledger(path, create=False) as book:
        contents = book.contents()
    assert values["ledger"] == contents.identity
    assert values["last_entry"] == contents.head


def test_a_claim_of_one_run_says_what_everything_on_the_data_costs(path: Path) -> None:
    """Pitfall: users 12."""
    one, all_of_it = claimed(path), claimed(path, run=None)
    both = ComposedEvent((SelfComposedEvent(STEP, 40), GaussianEvent(20.0)))
    expected = spent(both, 1e-6, "rdp").epsilon
    assert one["everything"] == all_of_it["epsilon"] == pytest.approx(expected)
    assert one["epsilon"] < one["everything"]
    assert "Everything together cost epsilon" in one["in_words"][-1]
    assert all_of_it["sampling"] == ["gaussian", "poisson-sampled"]


def test_what_an_attacker_finds_is_bounded_at_three_rates_and_said_in_words(path: Path) -> None:
    """Pitfall: users 7."""
    values = claimed(path)
    cost = spent(SelfComposedEvent(STEP, 40), 1e-6, "rdp")
    assert list(values["attacker"]) == ["0.001", "0.01", "0.1"]
    for rate in FALSE_POSITIVE_RATES:
        assert rate < values["attacker"][str(rate)] <= cost.attacker_true_positive_rate(rate)
    assert re.search(
        r"than \S+ while it wrongly names 0\.1 in 100 .*, \S+ at 1 in 100, \S+ at 10 in 100\.",
        values["in_words"][1],
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda book: trained(book, seeded=True), "came from a seed"),
        (lambda book: trained(book, secure=True), "AES-256 keystream"),
        (lambda book: trained(book), "usual generator of the device"),
        (lambda book: book.release("a", STEP), "not on record"),
        (lambda book: trained(book), "5,000 units in the data is public"),
        (lambda book: trained(book), "in which batch was drawn at random"),
        (lambda book: trained(book), "Protected is one example"),
        (
            lambda book: book.release(
                "a", OwnLoaderEvent(REPLACED), neighbouring=REPLACED.neighbouring
            ),
            "user's own loader: no amplification",
        ),
        (
            lambda book: book.release("a", ShuffledEvent("k", 1, STEP.event)),
            "No amplification|no am",
        ),
        (lambda book: book.release("a", Search(9, "geometric").event(STEP)), "scores, stay hidden"),
        (lambda book: book.release("a", STEP), "Nothing was released"),
    ],
)
def test_what_a_claim_rests_on_is_said(make: Callable[[Ledger], None], said: str) -> None:
    book = Ledger(None)
    make(book)
    assert re.search(said, " ".join(Claim.of(book.contents(), "a").assumptions))


def test_only_what_was_drawn_at_random_counts_on_it() -> None:
    book = Ledger(None)
    book.release("a", GaussianEvent(3.0))
    assert not any("drawn at random" in each for each in Claim.of(book.contents()).assumptions)


def test_a_delta_that_would_permit_to_publish_somebody_is_said_to_be_large() -> None:
    book = Ledger(None)
    trained(book)
    said = {
        delta: any(
            "Delta is large" in each
            for each in Claim.of(book.contents(), "a", delta=delta).assumptions
        )
        for delta in (1e-6, 1e-3)
    }
    assert said == {1e-6: False, 1e-3: True}


def test_a_run_that_was_seeded_in_any_of_its_openings_says_so() -> None:
    """Pitfall: privacy 13."""
    book = Ledger(None)
    trained(book, seeded=True)
    book.run("a", description={"plan": PLAN, "noise": QUIET})
    assert any("came from a seed" in each for each in Claim.of(book.contents(), "a").assumptions)


def test_without_noise_nothing_is_claimed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as book:
        book.release("a", GaussianEvent(0.0))
        claim = Claim.of(book.contents(), "a")
    assert claim.epsilon == math.inf
    assert set(claim.attacker.values()) == {1.0}
    assert "NOT PRIVATE" in " ".join(claim.in_words())
    values = json.loads(json.dumps(claim.to_json(), allow_nan=False))
    assert values["epsilon"] is None
    assert check(values, tmp_path / "l") == ()


def test_a_claim_holds_neither_fingerprint_nor_anything_else_taken_from_the_data(
    tmp_path: Path,
) -> None:
    with Ledger(tmp_path / "l", data="patients of 2024") as book:
        book.recognise("0123456789abcdef")
        trained(book)
        text = json.dumps(Claim.of(book.contents()).to_json())
    assert "0123456789abcdef" not in text
    assert "patients" not in text


def test_what_is_reserved_counts(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as book:
        book.run("killed", planned=40).release(STEP)
        claim = Claim.of(book.contents(), "killed", 1e-6)
    assert claim.epsilon == spent(SelfComposedEvent(STEP, 40), 1e-6).epsilon


def test_a_run_that_did_not_come_to_its_end_says_so(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as book:
        killed = book.run("killed", planned=1_000, block=64)
        killed.release(STEP)
        trained(book)
        everything = Claim.of(book.contents(), delta=1e-6)
        finished = Claim.of(book.contents(), "a", 1e-6)
        for _ in range(999):
            killed.release(STEP)
        at_last = Claim.of(book.contents(), "killed", 1e-6)
    assert everything.unfinished == {"killed": [64, 1_000]}
    assert "of its 1,000 steps, 64 count as released" in " ".join(everything.in_words())
    for each in (finished, at_last):
        assert each.unfinished == {}
        assert "end of its plan" not in " ".join(each.in_words())


def test_a_run_that_is_not_there_and_a_delta_that_cannot_be_are_refused(path: Path) -> None:
    with Ledger(path, create=False) as book:
        with pytest.raises(LedgerError, match="No run 'b'"):
            Claim.of(book.contents(), "b")
        with pytest.raises(AccountingError, match="strictly between"):
            Claim.of(book.contents(), delta=0.0)


# -- verified --------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["a", None])
def test_a_true_claim_is_borne_out(path: Path, run: str | None) -> None:
    assert check(claimed(path, run), path) == ()


@pytest.mark.parametrize("run", ["a", None])
def test_a_claim_outlives_what_others_release_later(path: Path, run: str | None) -> None:
    values = claimed(path, run)
    with Ledger(path) as book:
        book.release("variance", GaussianEvent(5.0))
        trained(book, "b")
        book.set_budget(100.0, 1e-6)
        book.close_spending()
    assert check(values, path) == ()
    assert claimed(path)["everything"] > values["everything"]


def test_a_claim_of_a_run_that_went_on_is_not_borne_out(path: Path) -> None:
    """Quoting an early entry must not make a small claim for a model that was trained further."""
    values = claimed(path)
    with Ledger(path) as book:
        book.run("a").release(STEP)
    (difference,) = check(values, path)
    assert difference.field == "releases of the run since then"
    assert difference.claimed == 40 < difference.found


def test_giving_reserved_steps_back_leaves_a_claim_true(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as book:
        run = book.run("a", planned=40)
        run.release(STEP)
        values = json.loads(json.dumps(Claim.of(book.contents(), "a").to_json()))
        run.settle()
        assert verify(values, book) == ()


CHANGES: dict[str, Any] = {
    "run": None,
    "epsilon": 0.5,
    "neighbouring": "replace",
    "unit": "one user, with all of their rows",
    "sampling": ["gaussian"],
    "attacker": {"0.001": 0.001, "0.01": 0.01, "0.1": 0.1},
    "everything": 0.5,
    "unfinished": {"a": [1, 2]},
    "assumptions": [],
    "releases": {"kind": "gaussian", "noise_multiplier": 100.0},
    "ledger": "0" * 64,
    "in_words": ["All is well."],
    "delta": 1e-7,
    "accountant": "pld",
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_changed_in_a_claim_is_named(path: Path, name: str) -> None:
    values = claimed(path) | {name: CHANGES[name]}
    differences = check(values, path)
    consequences = {"run": "epsilon", "delta": "epsilon", "accountant": "epsilon"}
    expected = consequences.get(name, name)
    assert expected in [each.field for each in differences]


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in ("run", "in_words")])
def test_every_field_of_a_claim_is_compared(path: Path, name: str) -> None:
    """By changing it alone, with words that fit."""
    lie = claimed(path) | {name: CHANGES[name]}
    lie["in_words"] = Claim.from_json(lie).in_words()
    assert check(lie, path) != ()


@pytest.mark.parametrize("factor", [1 - 1e-5, 1 + 1e-5])
def test_an_epsilon_that_is_off_in_the_fifth_digit_is_noticed(path: Path, factor: float) -> None:
    values = claimed(path)
    values["epsilon"] *= factor
    values["in_words"] = Claim.from_json(values).in_words()
    (difference,) = check(values, path)
    assert difference.field == "epsilon"
    assert difference.claimed == pytest.approx(difference.found * factor)


def test_the_last_digits_of_another_machine_are_no_difference(path: Path) -> None:
    values = claimed(path)
    values["epsilon"] *= 1 + 1e-12
    values["attacker"]["0.01"] *= 1 - 1e-12
    values["in_words"] = Claim.from_json(values).in_words()
    assert check(values, path) == ()


def rewritten(path: Path, change: str) -> None:
    """The ledger as somebody leaves it who knows SQLite."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TRIGGER entry_update")
        connection.execute("DROP TRIGGER entry_delete")
        connection.execute(change)
    connection.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM entry WHERE id = (SELECT max(id) FROM entry)", "cut off its end"),
        ("DELETE FROM entry WHERE id = 3", "cannot be trusted"),
        ("UPDATE entry SET content = replace(content, '1.0', '9.0')", "cannot be trusted"),
    ],
)
def test_a_ledger_that_was_cut_short_or_changed_bears_nothing_out(
    path: Path, change: str, said: str
) -> None:
    values = claimed(path)
    rewritten(path, change)
    with pytest.raises(LedgerError, match=said):
        check(values, path)


def test_another_ledger_with_the_same_releases_bears_nothing_out(path: Path) -> None:
    """Somebody may have written it anew."""
    values = claimed(path)
    with Ledger(path.with_name("anew")) as book:
        book.release("mean", GaussianEvent(20.0))
        trained(book)
    with pytest.raises(LedgerError, match="or this is another ledger"):
        check(values, path.with_name("anew"))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"more": 1},
        {"epsilon": "small"},
        {"run": ["a"]},
        {"delta": None},
        {"neighbouring": "swap"},
        {"attacker": [0.1]},
        {"attacker": {"often": 0.1}},
        {"attacker": {}},
        {"attacker": {"0.001": 0.1, "0.01": math.nan, "0.1": 0.3}},
        {"epsilon": math.nan},
        {"everything": -1.0},
        {"assumptions": 3},
        {"unfinished": {"a": 3}},
    ],
    ids=str,
)
def test_what_is_no_claim_is_refused(path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="claim"):
        check(claimed(path) | change, path)


@pytest.mark.parametrize("name", ["version", "epsilon", "in_words", "ledger"])
def test_a_claim_that_lacks_a_field_is_refused(path: Path, name: str) -> None:
    values = claimed(path)
    del values[name]
    with pytest.raises(SettingsError, match="has the fields"):
        check(values, path)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_holds_no_claim_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "claim.json").write_text(text)
    with pytest.raises(SettingsError, match=r"claim\.json"):
        read_claim(tmp_path / "claim.json")
