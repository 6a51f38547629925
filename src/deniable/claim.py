"""What a ledger proves, in a form to publish, and to check against the ledger again.

Importable without torch.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from deniable import words
from deniable.accounting import privacy_curve, spent
from deniable.errors import SettingsError
from deniable.events import Event, RepeatAndSelectEvent, notes, singles, to_json
from deniable.ledger import Contents, Ledger, RunRecord
from deniable.ledger.book import EXAMPLE
from deniable.units import Neighbouring

VERSION = 1
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
USUAL_DELTA, USUAL_ACCOUNTANT = 1e-5, "pld"

# Two machines compute an epsilon alike but for its last digits.
ROUNDING = 1e-6
COMPUTED = ("epsilon", "attacker", "everything")


@dataclass(frozen=True)
class Claim:
    """What a ledger proved when its last entry was `last_entry`; made by `Claim.of`.

    It holds nothing that was taken from the data without noise, so that it may be published.

    Attributes:
        run: whose releases it is about; None: everything in the ledger.
        epsilon: what they cost together, infinite without noise.
        delta: the probability with which epsilon may fail to hold.
        neighbouring: which data sets are compared.
        unit: what one of them has and the other has not.
        sampling: how batches came about, by the kinds of the events.
        accountant: who computed epsilon.
        attacker: the most true positives that any membership test can have, by its rate of false
            positives.
        everything: the epsilon of all that the ledger states, other runs on the same data included.
        assumptions: what it rests on, in sentences.
        releases: what was released, in the events' serial form.
        ledger: the hash of the ledger's first entry, which names it among all others.
        last_entry: the hash of its last entry, which every earlier one is part of.
    """

    run: str | None
    epsilon: float
    delta: float
    neighbouring: Neighbouring
    unit: str
    sampling: tuple[str, ...]
    accountant: str
    attacker: dict[str, float]
    everything: float
    assumptions: tuple[str, ...]
    releases: dict[str, Any]
    ledger: str
    last_entry: str

    @classmethod
    def of(
        cls,
        contents: Contents,
        run: str | None = None,
        delta: float | None = None,
        accountant: str | None = None,
    ) -> Self:
        """The claim that a ledger's contents support; what is reserved counts as released.

        Args:
            contents: from `Ledger.contents`.
            run: one run alone; everything in the ledger if not given.
            delta: to state epsilon at; the smallest that a plan names, or 1e-5, if not given.
            accountant: who states epsilon; the plan's, or "pld", if not given.

        Raises:
            LedgerError: there is no such run.
            AccountingError: delta is out of range, or there is no such accountant.

        >>> from deniable.events import GaussianEvent
        >>> book = Ledger(None)
        >>> book.release("mean of ages", GaussianEvent(5.0))
        >>> claim = Claim.of(book.contents())
        >>> round(claim.epsilon, 3), claim.delta, claim.unit
        (0.726, 1e-05, 'one example')
        >>> verify(claim.to_json(), book)
        ()
        """
        event = contents.event(run)
        records = [each for each in contents.records() if run in (None, each.run_id)]
        plans = list(_plans(records))
        if delta is None:
            delta = planned_delta(records)
        if accountant is None:
            named = {plan["accountant"] for plan in plans if "accountant" in plan}
            accountant = named.pop() if len(named) == 1 else USUAL_ACCOUNTANT
        cost, curve = spent(event, delta, accountant), privacy_curve(event, accountant)
        return cls(
            run=run,
            epsilon=cost.epsilon,
            delta=delta,
            neighbouring=cost.neighbouring,
            unit=contents.unit or EXAMPLE,
            sampling=tuple(sorted(_kinds(event))),
            accountant=accountant,
            attacker={
                str(rate): min(each.attacker_true_positive_rate(rate) for each in (cost, curve))
                for rate in FALSE_POSITIVE_RATES
            },
            everything=spent(contents.event(), delta, accountant).epsilon,
            assumptions=tuple(_assumptions(contents, event, records, delta)),
            releases=to_json(event),
            ledger=contents.identity,
            last_entry=contents.head,
        )

    def in_words(self) -> list[str]:
        """The claim in sentences, for who has never met epsilon."""
        what = (
            "Everything in this ledger" if self.run is None else f"All that run {self.run} released"
        )
        if not math.isfinite(self.epsilon):
            return [
                f"{what} is NOT PRIVATE: there are sums without noise in it, epsilon is infinite, "
                "and nothing is claimed."
            ]
        first, *others = [
            (words.out_of_hundred(found), words.out_of_hundred(float(rate)))
            for rate, found in self.attacker.items()
        ]
        said = [
            f"{what} costs epsilon {words.rounded_up(self.epsilon)} at delta {self.delta:g}, by "
            f"the accountant {self.accountant}, for data sets that differ in {self.unit} "
            f"({self.neighbouring}: {self.neighbouring.in_words}).",
            "There is a limit on how well anyone who studies what was released, by any method and "
            f"with whatever else they know, can tell whether {self.unit} was in the data. Of 100 "
            f"who were, no test finds more than {first[0]} while it wrongly names {first[1]} in "
            "100 of those who were not"
            + "".join(f", {most} at {wrong} in 100" for most, wrong in others)
            + ".",
        ]
        if self.run is not None and self.everything > self.epsilon:
            said.append(
                "The ledger of these data held other releases too. Everything together cost "
                f"epsilon {words.rounded_up(self.everything)} at the same delta."
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """The claim and its words as plain JSON values; None stands for an infinite epsilon."""
        values = asdict(self)
        for name in ("epsilon", "everything"):
            values[name] = values[name] if math.isfinite(values[name]) else None
        for name in ("sampling", "assumptions"):
            values[name] = list(values[name])
        values["neighbouring"] = self.neighbouring.value
        return {"version": VERSION, "in_words": self.in_words()} | values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The claim that `to_json` wrote; whether it is true is not looked at.

        Raises:
            SettingsError: it is no claim, or one of another version.
        """
        known = {"version", "in_words", *(each.name for each in fields(cls))}
        if values.get("version") != VERSION or set(values) != known:
            raise SettingsError(
                f"A claim of version {VERSION} has the fields {', '.join(sorted(known))}; got "
                f"version {values.get('version')!r} and {', '.join(sorted(values)) or 'none'}. "
                "Verify it with the version of deniable that wrote it."
            )
        found = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        try:
            for name in ("epsilon", "everything"):
                found[name] = math.inf if found[name] is None else float(found[name])
            found["delta"] = float(found["delta"])
            found["neighbouring"] = Neighbouring(found["neighbouring"])
            found["attacker"] = {str(float(k)): float(v) for k, v in found["attacker"].items()}
            for name in ("sampling", "assumptions"):
                found[name] = tuple(str(each) for each in found[name])
            for name in ("unit", "accountant", "ledger", "last_entry"):
                found[name] = str(found[name])
            _check_values(found)
        except (TypeError, ValueError, AttributeError) as problem:
            raise SettingsError(f"This claim cannot be read: {problem}.") from problem
        return cls(**found)


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


def planned_delta(records: Sequence[RunRecord]) -> float:
    """The smallest delta that a plan in a ledger names, or 1e-5."""
    return min((plan["delta"] for plan in _plans(records) if "delta" in plan), default=USUAL_DELTA)


def _plans(records: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    for each in records:
        plan = each.description.get("plan")
        if isinstance(plan, dict):
            yield plan


def _check_values(found: Mapping[str, Any]) -> None:
    """Refuses what no claim can say, with comparisons that NaN fails."""
    if not isinstance(found["run"], str | None):
        raise TypeError(f"run must be a name or null, got {found['run']!r}")
    for name in ("epsilon", "delta", "everything"):
        if not found[name] >= 0:
            raise ValueError(f"{name} must be at least 0, got {found[name]!r}")
    rates = [str(each) for each in FALSE_POSITIVE_RATES]
    if list(found["attacker"]) != rates or not all(
        0 <= each <= 1 for each in found["attacker"].values()
    ):
        raise ValueError(
            f"attacker must give a rate of true positives for each of {', '.join(rates)}, "
            f"got {found['attacker']!r}"
        )


def _same(name: str, claimed: Any, found: Any) -> bool:
    match claimed, found:
        case (float(), float()) if name in COMPUTED:
            return math.isclose(claimed, found, rel_tol=ROUNDING)
        case (dict(), dict()) if name in COMPUTED:
            return claimed.keys() == found.keys() and all(
                _same(name, value, found[key]) for key, value in claimed.items()
            )
    return bool(claimed == found)


def _kinds(event: Event) -> set[str]:
    """How the batches of all releases came about, by the kinds of their events."""
    found: set[str] = set()
    for each, _ in singles(event):
        found.add(str(to_json(each)["kind"]))
        if isinstance(each, RepeatAndSelectEvent):
            found |= _kinds(each.event)
    return found


def _assumptions(
    contents: Contents, event: Event, records: Sequence[RunRecord], delta: float
) -> Iterator[str]:
    """What the claim rests on and the ledger cannot show."""
    yield from _of_noise(contents, records)
    sizes = sorted({plan["examples"] for plan in _plans(records) if "examples" in plan})
    for each in sizes:
        yield f"That there are {each:,} units in the data is public."
        if delta * each >= 1:
            yield (
                f"Delta is large beside one in {each:,}: it would permit to publish a unit chosen "
                "at random."
            )
    if any("sampled" in kind for kind in _kinds(event)):
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
            "The noise came from a seed: against whoever knows or guesses it, nothing is claimed."
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
