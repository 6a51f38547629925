"""A claim held against its ledger."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deniable.claim.claim import Claim
from deniable.errors import SettingsError
from deniable.ledger import Ledger

# Two machines compute an epsilon alike but for its last digits.
ROUNDING = 1e-6
COMPUTED = ("epsilon", "attacker", "everything")


@dataclass(frozen=True)
class Difference:
    """A field of a claim that the ledger does not bear out.

    Attributes:
        field: which one.
        claimed: what the claim says.
        found: what the ledger says.
    """

    field: str
    claimed: Any
    found: Any


def verify(values: Mapping[str, Any], ledger: Ledger) -> tuple[Difference, ...]:
    """What of a claim the ledger does not bear out: nothing, if the claim is true.

    The claim is computed again from the entries that it was made from: what others released on the
    same data since then does not matter. If the run of the claim itself went on since, the claim
    is no longer true of it.

    Args:
        values: what `Claim.to_json` wrote.
        ledger: that the claim was made from.

    Raises:
        SettingsError: the values are no claim.
        LedgerError: the ledger is another one, or was cut short or changed.
    """
    claim = Claim.from_json(values)
    then = ledger.contents(until=claim.last_entry)
    found = Claim.of(then, claim.run, claim.delta, claim.accountant)
    differences = [
        Difference(each.name, getattr(claim, each.name), getattr(found, each.name))
        for each in fields(Claim)
        if not _same(each.name, getattr(claim, each.name), getattr(found, each.name))
    ]
    if values["in_words"] not in (claim.in_words(), found.in_words()):
        differences.append(Difference("in_words", values["in_words"], found.in_words()))
    if claim.run is not None:
        before, now = (
            each.runs[claim.run].statement.counts() for each in (then, ledger.contents())
        )
        if not Counter(now) <= Counter(before):
            totals = sum(before.values()), sum(now.values())
            differences.append(Difference("releases of the run since then", *totals))
    return tuple(differences)


def read_claim(path: Path) -> dict[str, Any]:
    """The values in a claim's file, for `verify`.

    Raises:
        SettingsError: there is no such file, or it holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SettingsError(f"A claim was expected at {path}: {problem}.") from problem
    if not isinstance(values, dict):
        raise SettingsError(f"A claim is a JSON object, got {type(values).__name__} in {path}.")
    return values


def _same(name: str, claimed: Any, found: Any) -> bool:
    match claimed, found:
        case (float(), float()) if name in COMPUTED:
            return math.isclose(claimed, found, rel_tol=ROUNDING)
        case (dict(), dict()) if name in COMPUTED:
            return claimed.keys() == found.keys() and all(
                _same(name, value, found[key]) for key, value in claimed.items()
            )
    return bool(claimed == found)
