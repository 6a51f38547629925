"""What a claim says when many workers made the releases: against whom it holds, and how far."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from deniable import words
from deniable.accounting import spent
from deniable.accounting.coalition import without_shares
from deniable.ledger import RunRecord
from deniable.modes import Shares

TRUSTED = (
    "The coordinator, and the links to it, are trusted: sums reach it without noise. Against it "
    "nothing is claimed; the claim holds against everybody else, other workers included."
)
IN_TIME = (
    "Whether a worker's sum came in time did not depend on what is in the data. A sum that was "
    "left out told nothing; what was added was not less noise for it."
)
DISJOINT = (
    "The parts of the workers are disjoint, and who is in which was not chosen by looking at the "
    "data. Releases on disjoint parts cost what the costliest of them costs, not their sum."
)
OWN_NOISE = (
    "Every worker added all of its noise before anything left it, so that the claim holds against "
    "the coordinator too. Each worker's own ledger states the cost of its part."
)
HONEST = (
    "Workers outside a coalition added their shares of the noise as they should, and tell nobody."
)
MOST_LISTED = 8  # sizes of a coalition, each of which takes the accountant a moment
PART = "It is about one part of the data: that of worker {worker}, of {units:,} units."
FOR_COORDINATOR = (
    "This ledger is a worker's own: its epsilon is the one that holds against the coordinator, "
    "which sees every upload by itself."
)


def collaboration(records: Sequence[RunRecord]) -> Iterator[str]:
    """What rests on how workers shared the releases, in sentences.

    Args:
        records: the runs that a claim is about.
    """
    for record in records:
        about = record.description.get("collaboration")
        if isinstance(about, dict):
            yield from _of_one(record, about)


def _of_one(record: RunRecord, about: dict[str, Any]) -> Iterator[str]:
    mode = about["mode"]
    if about.get("part"):
        yield PART.format(**about["part"])
    match mode["name"]:
        case "central":
            yield TRUSTED
            yield IN_TIME
        case "local":
            yield OWN_NOISE
            yield DISJOINT
        case "shares" if about.get("part"):
            yield FOR_COORDINATOR
        case "shares":
            yield from coalitions(record, about["workers"], mode["survives"])
            yield HONEST
            yield IN_TIME


def coalitions(record: RunRecord, workers: int, survives: int) -> Iterator[str]:
    """Epsilon for each size of coalition: of workers that pool what they know of their shares.

    All up to `MOST_LISTED`, or k, and the largest.

    Args:
        record: a run whose noise came in shares.
        workers: how many there are.
        survives: k, where `workers - k` shares add up to the plan's noise.
    """
    plan = record.plan
    share = plan["noise_multiplier"] * Shares(survives).share(workers)
    listed = {*range(1, max(MOST_LISTED, survives) + 1), workers - 1}
    for told in sorted(each for each in listed if 1 <= each < workers):
        event = without_shares(record.event, share, told)
        cost = spent(event, plan["delta"], plan["accountant"]).epsilon
        who = "one worker" if told == 1 else f"{told} workers together"
        says = f"epsilon is {words.rounded_up(cost)}" if math.isfinite(cost) else "nothing is left"
        yield (
            f"Against {who}, subtracting what they added themselves, {says} for the units of the "
            f"other {workers - told} at delta {plan['delta']:g}."
        )
