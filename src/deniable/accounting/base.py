"""What every accountant here begins with: the releases, counted by kind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from typing import final

from deniable.accounting.tally import TalliedEvent, check_delta, is_noiseless, tally
from deniable.events import Event


class Counting(ABC):
    """An accountant to whom the order of releases does not matter."""

    @final
    def epsilon(self, event: Event, delta: float) -> float:
        """The epsilon at which `event` is (epsilon, delta)-private; infinite without noise.

        Raises:
            AccountingError: delta is not strictly between 0 and 1.
            UnknownEventError: an event that is not known here.
        """
        check_delta(delta)
        counts = tally(event)
        if is_noiseless(counts):
            return math.inf
        return self._of_counts(counts, delta) if counts else 0.0

    @abstractmethod
    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """The same for releases that all have noise, at least one of them."""
