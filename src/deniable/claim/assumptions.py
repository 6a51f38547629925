"""What a claim rests on and no ledger can show, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deniable.claim.together import collaboration
from deniable.events import Event, RepeatAndSelectEvent, notes, singles, to_json
from deniable.ledger import Contents, RunRecord
from deniable.ledger.book import EXAMPLE


def assumptions(
    contents: Contents, event: Event, records: Sequence[RunRecord], delta: float
) -> Iterator[str]:
    """What a claim rests on.

    Args:
        contents: of the ledger.
        event: what the claim is about.
        records: the runs that released it.
        delta: of the claim.
    """
    yield from _of_noise(contents, records)
    yield from collaboration(records)
    sizes = sorted({each.plan["examples"] for each in records if "examples" in each.plan})
    for each in sizes:
        yield f"That there are {each:,} units in the data is public."
        if delta * each >= 1:
            yield (
                f"Delta is large beside one in {each:,}: it would permit to publish a unit chosen "
                "at random."
            )
    if any("sampled" in kind for kind in kinds(event)):
        yield "Who was in which batch was drawn at random as stated, and nobody knows it."
    yield from notes(event)
    yield "What a unit adds to a sum depends on that unit alone: no loss or layer mixes units."
    yield (
        f"Protected is {contents.unit or EXAMPLE}; who is in the data several times over is "
        "protected less."
    )
    yield (
        "Nothing was released from these data, and nothing chosen by looking at them, but what the "
        "ledger lists."
    )
    yield (
        "How much noise there was, and how many releases, was not chosen by looking at what these "
        "data released before."
    )
    yield (
        "The program that released recorded what it did. The ledger shows whether it was changed "
        "afterwards."
    )
    yield "The proof is about real numbers; computers calculate with floats."


def _of_noise(contents: Contents, records: Sequence[RunRecord]) -> Iterator[str]:
    """How the noise was drawn, by every opening of the runs."""
    noises = [
        opening["description"].get("noise")
        for each in records
        for opening in contents.runs[each.run_id].openings
    ]
    if any(isinstance(each, dict) and each.get("seeded") for each in noises):
        yield (
            "The noise came from a seed: against whoever knows or guesses it, nothing is claimed. "
            "No two runs on these data had the same seed."
        )
    known = [each for each in noises if isinstance(each, dict) and not each.get("seeded")]
    if any(each.get("secure") for each in known):
        yield (
            "The noise is an AES-256 keystream in float64; its key came from the operating system, "
            "and nobody has it."
        )
    if any(not each.get("secure") for each in known):
        yield (
            "The noise came from the usual generator of the device; its key came from the "
            "operating system, and nobody has it."
        )
    if any(not isinstance(each, dict) for each in noises):
        yield (
            "How noise was drawn is not on record for all releases: it was drawn afresh for each, "
            "and nobody knows it."
        )


def kinds(event: Event) -> set[str]:
    """How the batches of all releases came about, by the kinds of their events."""
    found: set[str] = set()
    for each, _ in singles(event):
        found.add(str(to_json(each)["kind"]))
        if isinstance(each, RepeatAndSelectEvent):
            found |= kinds(each.event)
    return found
