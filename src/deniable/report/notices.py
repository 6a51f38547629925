"""What a reader must know before any number on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deniable import words
from deniable.report.measured import Measured
from deniable.report.record import Record, mapping, number
from deniable.report.statement import Statement
from deniable.units import Spent


@dataclass(frozen=True)
class Notice:
    """One warning: "danger" where the claim fails, "caution" where it needs a second look."""

    kind: Literal["danger", "caution"]
    title: str
    text: str


def notices(record: Record, statement: Statement, spent: Spent | None) -> list[Notice]:
    """Everything that limits the claim, the gravest first."""
    found = [
        _privacy(spent),
        _seed(record, spent),
        _ledger(record, statement, spent),
        _nominal(record),
        *_sampling(statement, spent),
        _together(record, spent),
        _delta(record),
        _status(record),
    ]
    return sorted((each for each in found if each), key=lambda notice: notice.kind != "danger")


def refuted(found: Measured | None) -> list[Notice]:
    """The gravest notice of all: what was measured is more than what is claimed."""
    if found is None or found.holds:
        return []
    failed = "; ".join(each.name for each in found.rows if not each.stands)
    return [
        Notice(
            "danger",
            "What was measured exceeds what is claimed",
            f"The audit refutes the epsilon on this page ({failed}). Do not rely on it, and do not "
            "release the model.",
        )
    ]


def _privacy(spent: Spent | None) -> Notice | None:
    if spent is None:
        return Notice(
            "danger",
            "No guarantee is known",
            "Neither the record nor the ledger of this run states an epsilon and a delta. "
            "Treat the model as not private.",
        )
    if not spent.is_private:
        return Notice(
            "danger",
            "This model is not private",
            "It was trained without noise. Nothing limits how well someone who studies it can "
            "tell who was in its training data. Keep it as a baseline, and do not release it.",
        )
    return None


def _seed(record: Record, spent: Spent | None) -> Notice | None:
    if not record.seeded or spent is None or not spent.is_private:
        return None
    return Notice(
        "danger",
        "The noise came from a seed",
        "Whoever knows or guesses the seed can take the noise away again; against them this model "
        "is not private. The settings below print the seed. Before releasing the model, train it "
        "again without one.",
    )


def _ledger(record: Record, statement: Statement, spent: Spent | None) -> Notice | None:
    if statement.problem is not None:
        return Notice(
            "caution",
            "The ledger does not confirm this",
            f"{statement.problem} The epsilon on this page is what the record of the run says.",
        )
    if statement.steps < record.steps:
        return Notice(
            "danger",
            "The ledger states fewer steps than the record",
            f"The record says that {record.steps:,} steps were released, the ledger states "
            f"{statement.steps:,}. They may not belong together; rely on neither.",
        )
    if statement.others and spent is not None and spent.is_private:
        accountant = record.text("plan", "accountant", "pld")
        most = words.rounded_up(statement.everything.get(accountant))
        return Notice(
            "caution",
            "More was released on these data",
            f"The ledger of the data set holds {statement.others:,} other releases or runs. The "
            f"epsilon on this page is that of this run; everything together costs {most}.",
        )
    if record.status == "complete" and statement.steps > record.steps:
        return Notice(
            "caution",
            "The ledger states more than this run",
            f"It holds {statement.steps:,} steps, of which the record of this run has "
            f"{record.steps:,}. The epsilon on this page covers everything in the ledger.",
        )
    return None


def _nominal(record: Record) -> Notice | None:
    nominal = mapping(record.section("results"), "nominal")
    if not nominal.get("says"):
        return None
    return Notice(
        "caution",
        "By the convention of its source, this bound would print another epsilon",
        f"{nominal['says']} By that count, epsilon would be "
        f"{words.rounded_up(number(nominal, 'epsilon'))}. The epsilon on this page is the one that "
        "holds.",
    )


def _sampling(statement: Statement, spent: Spent | None) -> list[Notice]:
    if spent is None or not spent.is_private:
        return []
    return [
        Notice("caution", "No amplification by sampling is claimed", note)
        for note in statement.notes
    ]


def _together(record: Record, spent: Spent | None) -> Notice | None:
    about = record.section("collaboration")
    if spent is None or not spent.is_private or not about.get("guarantee"):
        return None
    found = about.get("claims")
    parts = [
        f"{number(each, 'units') or 0:,.0f} units at {words.rounded_up(number(each, 'epsilon'))}"
        for each in (found if isinstance(found, list) else [])
        if isinstance(each, Mapping) and number(each, "epsilon") is not None
    ]
    own = f" By the workers' own ledgers: {', '.join(parts)}." if parts else ""
    return Notice(
        "caution",
        f"Trained by {about.get('workers')} workers: against whom this holds",
        f"{about['guarantee']}{own}",
    )


def _delta(record: Record) -> Notice | None:
    delta, examples = record.delta, record.section("data").get("examples")
    if delta is None or not isinstance(examples, int) or examples < 1 or delta * examples < 1:
        return None
    return Notice(
        "caution",
        "Delta is large for these data",
        f"A delta of {words.scientific(delta)} for {examples:,} examples permits a method that "
        "simply publishes one of them. Choose a delta well below one over the number of examples.",
    )


def _status(record: Record) -> Notice | None:
    if record.status == "complete":
        return None
    planned = f" of {record.planned_steps:,}" if record.planned_steps else ""
    title = "Interrupted" if record.status == "interrupted" else "Not finished"
    return Notice(
        "caution",
        f"{title} at step {record.steps:,}{planned}",
        "Go on with deniable train --resume and this folder. The checkpoint in it holds the "
        "state of the noise: keep it to yourself. The ledger may count some steps that were "
        "reserved and never taken, so the epsilon here can be too large, never too small.",
    )
