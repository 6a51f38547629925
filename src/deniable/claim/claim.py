"""The claim itself: what it says, in values and in words, and its serial form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from deniable import words
from deniable.accounting import privacy_curve, spent
from deniable.claim.assumptions import assumptions, kinds
from deniable.errors import SettingsError
from deniable.events import to_json
from deniable.ledger import Contents, RunRecord
from deniable.ledger.book import EXAMPLE
from deniable.units import Neighbouring, finite

VERSION = 2
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
USUAL_DELTA, USUAL_ACCOUNTANT = 1e-5, "pld"


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
        unfinished: the runs that had not come to the end of their plans: how many steps of each
            count as released, and how many were planned.
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
    unfinished: dict[str, list[int]]
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

        >>> from deniable.claim import verify
        >>> from deniable.events import GaussianEvent
        >>> from deniable.ledger import Ledger
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
        if delta is None:
            delta = planned_delta(records)
        if accountant is None:
            named = {each.plan["accountant"] for each in records if "accountant" in each.plan}
            accountant = named.pop() if len(named) == 1 else USUAL_ACCOUNTANT
        cost, curve = spent(event, delta, accountant), privacy_curve(event, accountant)
        return cls(
            run=run,
            epsilon=cost.epsilon,
            delta=delta,
            neighbouring=cost.neighbouring,
            unit=contents.unit or EXAMPLE,
            sampling=tuple(sorted(kinds(event))),
            accountant=accountant,
            attacker={
                str(rate): min(each.attacker_true_positive_rate(rate) for each in (cost, curve))
                for rate in FALSE_POSITIVE_RATES
            },
            everything=spent(contents.event(), delta, accountant).epsilon,
            unfinished={
                each.run_id: [each.steps, each.planned]
                for each in records
                if each.planned is not None and each.steps < each.planned
            },
            assumptions=tuple(assumptions(contents, event, records, delta)),
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
        said += [
            f"Run {run} had not come to the end of its plan when this was stated: of its "
            f"{planned:,} steps, {steps:,} count as released."
            for run, (steps, planned) in self.unfinished.items()
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
            values[name] = finite(values[name])
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
            found["unfinished"] = {
                str(run): [int(steps), int(planned)]
                for run, (steps, planned) in found["unfinished"].items()
            }
            for name in ("sampling", "assumptions"):
                found[name] = tuple(str(each) for each in found[name])
            for name in ("unit", "accountant", "ledger", "last_entry"):
                found[name] = str(found[name])
            _check_values(found)
        except (TypeError, ValueError, AttributeError) as problem:
            raise SettingsError(f"This claim cannot be read: {problem}.") from problem
        return cls(**found)


def planned_delta(records: Sequence[RunRecord]) -> float:
    """The smallest delta that a plan in a ledger names, or 1e-5."""
    named = [each.plan["delta"] for each in records if "delta" in each.plan]
    return min(named, default=USUAL_DELTA)


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
