"""What one event costs under every accountant, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from deniable.accounting.accountants import ACCOUNTANTS, Accountant
from deniable.errors import UnknownEventError
from deniable.events import Event


@dataclass(frozen=True)
class Rung:
    """One accountant's answer.

    Attributes:
        accountant: who answers.
        epsilon: its bound; None where its argument does not hold for the event.
        refusal: why not, in its own words; None where it answers.
    """

    accountant: Accountant
    epsilon: float | None
    refusal: str | None = None


def ladder(event: Event, delta: float) -> tuple[Rung, ...]:
    """Every accountant's bound for `event`, in the order of `ACCOUNTANTS`.

    Raises:
        AccountingError: delta is not strictly between 0 and 1.

    >>> from deniable.events import GaussianEvent
    >>> [round(rung.epsilon, 2) for rung in ladder(GaussianEvent(5.0), 1e-5)]
    [0.73, 0.73, 0.73, 0.98, 0.79, 0.73]
    """
    return tuple(_rung(each, event, delta) for each in ACCOUNTANTS.values())


def _rung(accountant: Accountant, event: Event, delta: float) -> Rung:
    try:
        return Rung(accountant, accountant.epsilon(event, delta))
    except UnknownEventError as refusal:
        return Rung(accountant, None, str(refusal))
