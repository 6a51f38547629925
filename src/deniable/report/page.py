"""Puts a page together from the record of a run and the statement of its ledger."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from deniable import words
from deniable.claim import FALSE_POSITIVE_RATES
from deniable.report.command import command
from deniable.report.figures import figures, numbers
from deniable.report.measured import measured
from deniable.report.notices import notices, refuted
from deniable.report.record import Record, number
from deniable.report.statement import Statement, state
from deniable.runfolder import RunFolder, replaced
from deniable.units import PrivacyCurve, Spent


def render(run_folder: Path) -> Path:
    """Writes the report of a run beside its record, atomically, and says where it is.

    Args:
        run_folder: a folder with the `run.json` of a run in any state.

    Raises:
        SettingsError: the folder holds no readable `run.json`.
    """
    folder = RunFolder(Path(run_folder))
    record = Record(folder.read())
    statement = state(folder.ledger_of(record.values), record.delta, record.shared_run)
    text = page(record, statement, folder.path.resolve().name, folder.audit)
    with replaced(folder.report) as file:
        file.write(text.encode("utf-8", "replace"))
    return folder.report


def page(record: Record, statement: Statement, name: str, audit: Path | None = None) -> str:
    """The page as text: the same record, statement and name give the same text.

    Args:
        record: what `run.json` says.
        statement: what the ledger says.
        name: what the run folder is called.
        audit: where what was measured is, if anything was.
    """
    environment = Environment(
        loader=PackageLoader("deniable.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=words.percent,
        scientific=words.scientific,
        significant=words.significant,
        rounded_up=words.rounded_up,
        plain=_plain,
    )
    spent = claim(record, statement)
    limit = _limit(spent, statement)
    found = None if audit is None else measured(audit, record, limit)
    return environment.get_template("report.html").render(
        name=name,
        record=record,
        statement=statement,
        spent=spent,
        private=spent is not None and spent.is_private,
        headline=_headline(record, spent),
        notices=[*refuted(found), *notices(record, statement, spent)],
        measured=found,
        meaning=words.meaning(limit) if limit else (),
        attacks=_attacks(limit),
        figures=figures(record, spent, limit),
        numbers=numbers(record),
        command=command(record.section("settings")),
    )


def claim(record: Record, statement: Statement) -> Spent | None:
    """The guarantee to print: the larger of what the ledger states and what the record says.

    The ledger is believed where there is one; the record can only make the claim weaker.
    None where neither names an epsilon, or no delta is known.
    """
    accountant = str(record.section("plan").get("accountant") or "pld")
    stated = statement.epsilons.get(accountant, max(statement.epsilons.values(), default=None))
    known = [each for each in (stated, record.epsilon) if each is not None]
    if not known or record.delta is None:
        return Spent(math.inf, record.delta or 0.0) if record.non_private else None
    return Spent(max(known), record.delta)


def _headline(record: Record, spent: Spent | None) -> dict[str, str | None]:
    plan = record.section("plan")
    steps, planned = f"{record.steps:,}", record.planned_steps
    examples = number(record.section("data"), "examples")
    seconds = record.latest("seconds")
    return {
        "accuracy": words.percent(record.latest("test_accuracy")),
        "perplexity": words.significant(record.latest("test_perplexity"))
        if record.is_text
        else None,
        "epsilon": words.rounded_up(spent.epsilon) if spent else words.ABSENT,
        "delta": words.scientific(record.delta),
        "one_in": words.one_in(record.delta),
        "steps": steps if planned in (None, record.steps) else f"{steps} of {planned:,}",
        "examples": words.significant(examples) if examples is not None else None,
        "duration": words.duration(seconds) if seconds is not None else None,
        "data": record.text("data", "name", "unnamed data"),
        "model": record.text("model", "name", "model"),
        "accountant": str(plan.get("accountant") or "pld").upper(),
    }


def _limit(spent: Spent | None, statement: Statement) -> Spent | PrivacyCurve | None:
    """What limits an attacker: all that the ledger states, unless the claim is weaker than that."""
    stated = spent is not None and spent.epsilon in statement.epsilons.values()
    return statement.curve if stated and statement.curve else spent


def _attacks(limit: Spent | PrivacyCurve | None) -> list[dict[str, Any]]:
    """For each false-positive rate: what guessing finds and what no test can exceed, of 100."""
    if limit is None or not limit.is_private:
        return []
    return [
        {
            "wrong": words.out_of_hundred(rate),
            "found": words.out_of_hundred(limit.attacker_true_positive_rate(rate)),
            "width": f"{100 * limit.attacker_true_positive_rate(rate):.2f}",
            "guess": f"{100 * rate:.2f}",
        }
        for rate in FALSE_POSITIVE_RATES
    ]


def _plain(value: Any) -> str:
    """A setting as the page shows it."""
    if value is None:
        return words.ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
