"""What may be spent on a data set, and whether a release still fits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from deniable.accounting import spent
from deniable.accounting.accountants import accountant_named
from deniable.errors import BudgetError
from deniable.events import Event
from deniable.ledger.statement import composed
from deniable.numeric import is_number


@dataclass(frozen=True)
class Budget:
    """The most that all releases on a data set may cost together.

    Attributes:
        epsilon: the most that may be spent.
        delta: the probability at which it is counted.
        accountant: who counts.

    Raises:
        BudgetError: a value out of range.
        AccountingError: there is no such accountant.
    """

    epsilon: float
    delta: float
    accountant: str = "pld"

    def __post_init__(self) -> None:
        wrong = [each for each in (self.epsilon, self.delta) if not is_number(each)]
        if wrong:
            raise BudgetError(f"A budget is two numbers, epsilon and delta; got {wrong[0]!r}.")
        if not 0 < self.epsilon < math.inf:
            raise BudgetError(
                f"A budget needs an epsilon that is finite and above 0, got {self.epsilon!r}."
            )
        if not 0 < self.delta < 1:
            raise BudgetError(
                f"A budget needs a delta strictly between 0 and 1, got {self.delta!r}. Take one "
                "well below one over the number of examples, such as 1e-5."
            )
        accountant_named(self.accountant)

    def cost(self, counts: Counter[Event]) -> float:
        """The epsilon that counted events cost, as this budget counts."""
        return spent(composed(counts), self.delta, self.accountant).epsilon


class Guard:
    """Says whether releases fit a budget, and asks the accountant only where that is not known.

    Composition only adds: what is contained in a total that fits, fits. The RDP bound lies above
    the PLD bound, so that what fits by the first, which is quick, fits by the second.
    """

    def __init__(self) -> None:
        self._budget: Budget | None = None
        self._fits: Counter[Event] = Counter()

    def admits(self, budget: Budget, total: Counter[Event]) -> bool:
        """Whether `total`, which is everything on the data set, stays within the budget."""
        if budget != self._budget:
            self._budget, self._fits = budget, Counter()
        if total <= self._fits:
            return True
        if not _within(budget, total):
            return False
        self._fits = total
        return True


def _within(budget: Budget, total: Counter[Event]) -> bool:
    quick = spent(composed(total), budget.delta, "rdp").epsilon <= budget.epsilon
    if quick and budget.accountant in ("rdp", "pld"):
        return True
    return budget.accountant != "rdp" and budget.cost(total) <= budget.epsilon
