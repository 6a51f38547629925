"""A search over hyper-parameters: how many runs it makes, what of them leaves, what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deniable.accounting.calibrate import noise_multiplier_for
from deniable.accounting.selection import number_of_runs, quantile
from deniable.errors import AccountingError
from deniable.events import Event, RepeatAndSelectEvent, SelfComposedEvent

FIXED = "fixed"
SHAPES: dict[str, float | None] = {
    "logarithmic": 0.0,
    "negative-binomial": 0.5,
    "geometric": 1.0,
    "poisson": None,
}
TRIALS = (FIXED, *SHAPES)


@dataclass(frozen=True)
class Search:
    """Several private runs on the same data, of which the best is kept.

    Two ways to pay for that. A *fixed* number of runs is their composition: everything about each
    of them may be released. A *random* number costs far less, if nothing but the best run is
    released (repeat-and-select; Papernot & Steinke, 2022, "Hyperparameter Tuning with Renyi
    Differential Privacy"): not the other models, not their scores, and not the number of runs. All
    runs cost as the dearest does, each chooses its hyper-parameters apart from the data, and which
    is best is decided on other data, or by a score that is itself one of the run's releases.

    Attributes:
        runs: how many runs are made: exactly, or on average.
        trials: "fixed", or from which distribution their number is drawn: "logarithmic" (mostly
            few runs, sometimes many; the cheapest for many), "negative-binomial" (of shape 1/2),
            "geometric" or "poisson" (close to its average, perhaps none).

    Raises:
        AccountingError: the number of runs is below 1, or not whole where it is fixed, or there are
            no such trials.

    >>> from deniable.accounting import spent
    >>> from deniable.events import GaussianEvent
    >>> run = GaussianEvent(3.0)
    >>> [round(spent(Search(10, each).event(run), 1e-5).epsilon, 2) for each in TRIALS]
    [4.65, 2.4, 2.65, 2.88, 3.19]
    """

    runs: float
    trials: str = FIXED

    def __post_init__(self) -> None:
        if self.trials not in TRIALS:
            raise AccountingError(
                f"trials must be one of {', '.join(TRIALS)}, got {self.trials!r}."
            )
        if not 1 <= self.runs < math.inf:
            raise AccountingError(f"A search makes at least one run, got runs={self.runs!r}.")
        if self.trials == FIXED and self.runs != int(self.runs):
            raise AccountingError(
                f"A fixed number of runs must be whole, got runs={self.runs!r}. An average need "
                f"not be: choose trials from {', '.join(SHAPES)}."
            )

    @property
    def is_fixed(self) -> bool:
        """Whether the number of runs is known, so that they compose."""
        return self.trials == FIXED

    def event(self, run: Event) -> Event:
        """What the whole search releases, where a single run releases `run` at most."""
        if self.is_fixed:
            return SelfComposedEvent(run, int(self.runs))
        return RepeatAndSelectEvent(run, float(self.runs), SHAPES[self.trials])

    def noise_multiplier(
        self,
        run_at: Callable[[float], Event],
        epsilon: float,
        delta: float,
        accountant: str = "pld",
    ) -> float:
        """The noise multiplier of each run with which the whole search costs `epsilon` at most.

        Args:
            run_at: what a single run with a noise multiplier releases.
            epsilon: the target.
            delta: of the guarantee.
            accountant: who states the cost.

        Raises:
            AccountingError: no noise reaches the target.
        """
        return noise_multiplier_for(
            lambda noise: self.event(run_at(noise)), epsilon, delta, accountant
        )

    def at_most(self, probability: float) -> int:
        """The number of runs that is not exceeded with this probability.

        >>> Search(10, "geometric").at_most(0.5), Search(10, "poisson").at_most(0.5)
        (7, 10)
        """
        if self.is_fixed:
            return int(self.runs)
        return quantile(float(self.runs), SHAPES[self.trials], probability)

    def draw(self, generator: np.random.Generator | None = None) -> int:
        """How many runs to make. Drawn once, before the first of them, and told to nobody.

        A Poisson number can be 0: then nothing is released.

        Args:
            generator: decides; keyed by the operating system if not given.
        """
        if self.is_fixed:
            return int(self.runs)
        chance = np.random.default_rng() if generator is None else generator
        return number_of_runs(float(self.runs), SHAPES[self.trials], chance)
