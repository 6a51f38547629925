"""Epsilon by conventions that are no guarantee, for showing beside the one that holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deniable.accounting.accountants import spent
from deniable.events import Event, with_noise
from deniable.units import Spent


def excess(bound: Mapping[str, Any]) -> float | None:
    """How often the sensitivity that a bound's source takes goes into the one that holds.

    Args:
        bound: a bound as runs and ledgers describe it, with its `sensitivity` and, where its source
            takes it for another, `nominal_sensitivity`.

    Returns:
        None where the source takes it for what it is.

    >>> excess({"sensitivity": 200.0, "nominal_sensitivity": 1.0})
    200.0
    """
    nominal = bound.get("nominal_sensitivity")
    return None if nominal is None else float(bound["sensitivity"] / nominal)


def nominal_event(event: Event, bound: Mapping[str, Any]) -> Event:
    """The event as the bound's source would state it; the very event where that holds."""
    factor = excess(bound)
    return event if factor is None else with_noise(event, factor)


def nominal_spent(
    event: Event, delta: float, bound: Mapping[str, Any], accountant: str = "pld"
) -> Spent | None:
    """What the bound's source would say the event costs, **which is no guarantee**.

    Its notes say so. None where the bound's source says what holds.

    >>> from deniable.events import GaussianEvent
    >>> described = {"sensitivity": 200.0, "nominal_sensitivity": 1.0}
    >>> nominal_spent(GaussianEvent(0.01), 1e-5, described).epsilon < 3
    True
    """
    factor = excess(bound)
    if factor is None:
        return None
    found = spent(with_noise(event, factor), delta, accountant)
    note = (
        f"Nominal, not a guarantee: the bound's source counts as if no unit moved a sum by more "
        f"than {bound['nominal_sensitivity']:.6g}, and one can move it by "
        f"{bound['sensitivity']:.6g}."
    )
    return Spent(found.epsilon, found.delta, found.neighbouring, (*found.notes, note))
