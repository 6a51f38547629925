"""The registry of accountants, and the one question they answer."""

from __future__ import annotations

from typing import Protocol

from deniable.accounting.composition import (
    AmplifiedAccountant,
    BasicAccountant,
    StrongAccountant,
)
from deniable.accounting.moments import MomentsAccountant
from deniable.accounting.pld import PldAccountant
from deniable.accounting.rdp import RdpAccountant
from deniable.errors import AccountingError
from deniable.events import Event, neighbouring_of, notes
from deniable.units import Spent


class Accountant(Protocol):
    """Turns released events into epsilon; reads nothing else (contract 3).

    Guarantees: the epsilon is an upper bound, never negative, never NaN; it grows with every event;
    an event for which the accountant's argument does not hold is refused, in words.
    """

    @property
    def name(self) -> str:
        """The name under which plans, commands and reports ask for it."""
        ...

    @property
    def summary(self) -> str:
        """What it knows of the releases, in a clause."""
        ...

    def epsilon(self, event: Event, delta: float) -> float:
        """The epsilon at which `event` is (epsilon, delta)-private.

        Raises:
            UnknownEventError: what it states would not hold for this event, or one inside it.
        """
        ...


# The ladder: each follows more of what was released than the one before.
ACCOUNTANTS: dict[str, Accountant] = {
    each.name: each
    for each in (
        BasicAccountant(),
        StrongAccountant(),
        AmplifiedAccountant(),
        MomentsAccountant(),
        RdpAccountant(),
        PldAccountant(),
    )
}

# Those by which claims are stated: tight enough to be worth it, and independent of each other.
STATED = ("rdp", "pld")


def accountant_named(name: str) -> Accountant:
    """The accountant registered under `name`.

    Raises:
        AccountingError: there is none.
    """
    if name not in ACCOUNTANTS:
        raise AccountingError(f"accountant must be one of {', '.join(ACCOUNTANTS)}, got {name!r}.")
    return ACCOUNTANTS[name]


def spent(event: Event, delta: float, accountant: str = "pld") -> Spent:
    """The (epsilon, delta) that the released `event` costs.

    Raises:
        AccountingError: delta is out of range, or there is no such accountant.
        UnknownEventError: an event that is not known here.

    >>> from deniable.events import GaussianEvent
    >>> round(spent(GaussianEvent(5.0), 1e-5).epsilon, 2)
    0.73
    """
    epsilon = accountant_named(accountant).epsilon(event, delta)
    return Spent(epsilon, delta, neighbouring_of(event), notes(event))
