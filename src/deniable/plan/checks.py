"""What a plan can be asked for, and what is wrong with the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deniable.accounting import ACCOUNTANTS
from deniable.errors import PlanError
from deniable.numeric import is_number, is_whole
from deniable.plan.schedule import Schedule, sized
from deniable.plan.terms import Terms
from deniable.sampling import Sampling, make_sampling
from deniable.units import Neighbouring


def check_sizes(examples: int, batch_size: int | None, schedule: Schedule) -> None:
    """Refuses sizes that are not those of a data set and of batches of it, in any phase."""
    if not (is_whole(examples) and examples >= 1):
        raise PlanError(f"examples must be a whole number of at least 1, got {examples!r}.")
    if batch_size is None:
        return
    if not (is_whole(batch_size) and 1 <= batch_size <= examples):
        raise PlanError(
            f"batch_size must be a whole number between 1 and examples = {examples}, "
            f"got {batch_size!r}."
        )
    largest = sized(batch_size, schedule.most)
    if not largest <= examples:
        raise PlanError(
            f"The schedule takes the batch size to {largest}, which is more than examples = "
            f"{examples}. Use smaller factors or a smaller batch_size."
        )


def check_schedules(*schedules: Schedule) -> None:
    """Refuses lists and texts in the place of schedules."""
    for each in schedules:
        if not isinstance(each, Schedule):
            raise PlanError(
                f"A schedule must be a deniable.Schedule, got {each!r}. Make one with "
                "Schedule.linear(1.0, 0.5, phases=3), or read a text with Schedule.parse."
            )


def check_steps(steps: int) -> None:
    """Refuses what is no number of steps."""
    if not (is_whole(steps) and steps >= 1):
        raise PlanError(f"steps must be a whole number of at least 1, got {steps!r}.")


def check_epochs(epochs: float, steps: int | None) -> None:
    """Refuses what is no number of passes, or one beside a number of steps."""
    if steps is not None:
        raise PlanError(f"Give steps or epochs, not both: got {steps!r} and {epochs!r}.")
    if not (is_number(epochs) and 0 < epochs < math.inf):
        raise PlanError(f"epochs must be finite and above 0, got {epochs!r}.")


def check_privacy(
    delta: float, epsilon: float | None, noise_multiplier: float | None, accountant: str
) -> None:
    """Refuses what no accountant can answer for."""
    if not (is_number(delta) and 0 < delta < 1):
        raise PlanError(
            f"delta must lie strictly between 0 and 1, got {delta!r}. Take one well below "
            "1 / examples, such as 1e-5."
        )
    if epsilon is not None and not (is_number(epsilon) and 0 < epsilon < math.inf):
        raise PlanError(f"epsilon must be finite and above 0, got {epsilon!r}.")
    if noise_multiplier is not None and not (
        is_number(noise_multiplier) and 0 <= noise_multiplier < math.inf
    ):
        raise PlanError(
            f"noise_multiplier must be finite and at least 0, got {noise_multiplier!r}."
        )
    if accountant not in ACCOUNTANTS:
        raise PlanError(
            f"accountant must be one of {', '.join(sorted(ACCOUNTANTS))}, got {accountant!r}."
        )


def check_one_left_out(quantities: Mapping[str, object]) -> None:
    """Refuses a plan in which nothing is to be solved, or more than one quantity."""
    given = [name for name, value in quantities.items() if value is not None]
    if len(given) != len(quantities) - 1:
        raise PlanError(
            "Give exactly three of batch_size, epsilon, noise_multiplier and steps (or epochs), "
            f"and the fourth is solved; got {', '.join(given) or 'none of them'}."
        )


def terms(
    examples: int,
    sampling: str,
    max_batch_size: int | None,
    neighbouring: Neighbouring | str | None,
    batch_schedule: Schedule,
    noise_schedule: Schedule,
) -> Terms:
    """The terms of a plan, with the relation that is usual for the sampling if none is named."""
    if max_batch_size is not None:
        if not is_whole(max_batch_size):
            raise PlanError(f"max_batch_size must be a whole number, got {max_batch_size!r}.")
        max_batch_size = int(max_batch_size)
    chosen = make_sampling(sampling, examples, 1, max_batch_size)
    relation = _relation(neighbouring, chosen)
    return Terms(examples, sampling, max_batch_size, relation, batch_schedule, noise_schedule)


def _relation(neighbouring: Neighbouring | str | None, sampling: Sampling) -> Neighbouring:
    if neighbouring is None:
        return sampling.relations[0]
    try:
        found = Neighbouring(neighbouring)
    except ValueError:
        known = ", ".join(each.value for each in Neighbouring)
        raise PlanError(f"neighbouring must be one of {known}, got {neighbouring!r}.") from None
    if found not in sampling.relations:
        raise PlanError(
            f"sampling='{sampling.name}' is no guarantee under neighbouring='{found.value}': "
            f"{sampling.why_not}. Use neighbouring='{sampling.relations[0].value}', or "
            "sampling='poisson'."
        )
    return found
