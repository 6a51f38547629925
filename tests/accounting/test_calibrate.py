from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from deniable.accounting import ACCOUNTANTS, noise_multiplier_for, spent, steps_for
from deniable.accounting.calibrate import TOLERANCE
from deniable.errors import AccountingError
from deniable.events import Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent

every_accountant = pytest.mark.parametrize("accountant", ACCOUNTANTS)


def training(rate: float, steps: int) -> Callable[[float], Event]:
    return lambda noise: SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), steps)


@every_accountant
@pytest.mark.parametrize("epsilon", [0.01, 3.0, 1e3, 1e6])
@pytest.mark.parametrize(("rate", "steps"), [(0.004, 3_500), (0.09, 110), (1.0, 10)])
def test_the_solved_noise_spends_the_target_or_just_less(
    accountant: str, epsilon: float, rate: float, steps: int
) -> None:
    """From 0.01 to a million. Pitfall: privacy 3, users 9."""
    event_at = training(rate, steps)
    noise = noise_multiplier_for(event_at, epsilon, 1e-5, accountant)
    cost = spent(event_at(noise), 1e-5, accountant).epsilon
    assert (1 - TOLERANCE) * epsilon <= cost <= epsilon


@every_accountant
@pytest.mark.parametrize(
    ("rate", "noise", "epsilon"),
    [(256 / 60_000, 1.1, 3.0), (0.09, 2.0, 0.9), (0.2, 0.8, 20.0), (1.0, 3.0, 5.0)],
)
def test_the_solved_steps_fit_and_hardly_any_more_would(
    accountant: str, rate: float, noise: float, epsilon: float
) -> None:
    """Pitfall: privacy 3."""
    step = PoissonSampledEvent(rate, GaussianEvent(noise))

    def cost(count: int) -> float:
        return spent(SelfComposedEvent(step, count), 1e-5, accountant).epsilon

    steps = steps_for(step, epsilon, 1e-5, accountant)
    assert cost(steps) <= epsilon
    assert cost(steps) >= (1 - TOLERANCE) * epsilon or cost(steps + 1) > epsilon


def test_no_step_fits_where_one_is_too_dear() -> None:
    assert steps_for(GaussianEvent(0.5), 1.0, 1e-5) == 0


def test_steps_that_are_no_limit_are_said_to_be_none() -> None:
    step = PoissonSampledEvent(1e-6, GaussianEvent(1e6))
    with pytest.raises(AccountingError, match="no limit"):
        steps_for(step, 1e3, 1e-5)


def test_a_target_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(AccountingError, match="No noise multiplier between"):
        noise_multiplier_for(lambda _: GaussianEvent(1.0), 1.0, 1e-5)


@every_accountant
@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1e-5, 1e8, math.inf, math.nan])
def test_a_target_that_is_no_positive_number_is_refused(accountant: str, epsilon: float) -> None:
    with pytest.raises(AccountingError, match="A target epsilon must lie"):
        noise_multiplier_for(GaussianEvent, epsilon, 1e-5, accountant)
    with pytest.raises(AccountingError, match="A target epsilon must lie"):
        steps_for(GaussianEvent(1.0), epsilon, 1e-5, accountant)
