"""Laplace noise and releases of which only epsilon is known, by every accountant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from deniable.accounting import ACCOUNTANTS, Accountant, Meter, spent
from deniable.errors import UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    LaplaceEvent,
    PoissonSampledEvent,
    PureEvent,
    SelfComposedEvent,
)
from deniable.units import Neighbouring

KNOWING = {name: each for name, each in ACCOUNTANTS.items() if name != "moments"}
every_accountant = pytest.mark.parametrize("accountant", KNOWING.values(), ids=KNOWING)
DELTA = 1e-5


def laplace_delta(noise: float, epsilon: float) -> float:
    """One Laplace release: `max(0, 1 - exp((epsilon - 1 / noise) / 2))`."""
    return max(0.0, -math.expm1((epsilon - 1 / noise) / 2))


def response_delta(each: float, count: int, epsilon: float) -> float:
    """Randomised responses, by summing over how many of them were true."""
    true = np.arange(count + 1)
    p = 1 / (1 + math.exp(-each))
    here, there = stats.binom.pmf(true, count, p), stats.binom.pmf(true, count, 1 - p)
    return float(np.maximum(here - math.exp(epsilon) * there, 0).sum())


@every_accountant
def test_one_laplace_release_is_bounded_by_its_epsilon_and_not_below_its_curve(
    accountant: Accountant,
) -> None:
    for noise in (0.05, 0.7, 3.0, 40.0):
        for delta in (1e-9, 1e-5, 1e-2):
            found = accountant.epsilon(LaplaceEvent(noise), delta)
            assert found <= 1 / noise * (1 + 1e-12)
            assert laplace_delta(noise, found) <= delta * (1 + 1e-9)


@every_accountant
def test_composed_choices_are_not_below_randomised_response(accountant: Accountant) -> None:
    for each, count in [(1.0, 1), (0.1, 60), (0.05, 400), (3.0, 2)]:
        found = accountant.epsilon(SelfComposedEvent(PureEvent(each), count), DELTA)
        assert response_delta(each, count, found) <= DELTA * (1 + 1e-8)
        assert found <= each * count * (1 + 1e-12)


def test_pld_of_choices_is_tight() -> None:
    """Within a hundredth of what randomised response loses."""
    for each, count in [(0.1, 60), (0.05, 400)]:
        found = spent(SelfComposedEvent(PureEvent(each), count), DELTA).epsilon
        assert response_delta(each, count, 0.99 * found) > DELTA


def test_renyi_divergences_of_laplace_noise_are_those_of_its_density() -> None:
    from deniable.accounting.rdp import ORDERS, _divergences

    noise = 0.8
    found = dict(zip(ORDERS, _divergences(LaplaceEvent(noise)), strict=True))
    for order in (1.5, 3.0, 8.0):

        def moment(x: float, order: float = order) -> float:
            log_p, log_q = -abs(x) / noise, -abs(x - 1) / noise
            return math.exp(order * log_p + (1 - order) * log_q) / (2 * noise)

        value, _ = integrate.quad(moment, -60, 60, points=[0, 1], limit=500)
        assert found[order] == pytest.approx(math.log(value) / (order - 1), rel=1e-8)


@pytest.mark.parametrize("split", [0.5, 0.8, 0.99])
def test_a_move_shared_by_two_coordinates_tells_no_more_than_in_one(split: float) -> None:
    """Why a vector under Laplace noise is accounted as a number: by quadrature at every epsilon."""
    grid = np.linspace(-40, 41, 4001)
    step = grid[1] - grid[0]
    for size in (0.3, 1.0, 4.0):
        near, far = split * size, (1 - split) * size
        density = [np.exp(-np.abs(grid - shift)) / 2 * step for shift in (0, near, far)]
        here, there = np.outer(density[0], density[0]), np.outer(density[1], density[2])
        for epsilon in np.linspace(0, size, 6):
            both = float(np.maximum(here - math.exp(epsilon) * there, 0).sum())
            assert both <= laplace_delta(1 / size, float(epsilon)) + 1e-3


@every_accountant
def test_they_compose_with_training(accountant: Accountant) -> None:
    training = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(1.0)), 500)
    alone = accountant.epsilon(training, DELTA)
    for event in (PureEvent(0.3), LaplaceEvent(1 / 0.3)):
        together = accountant.epsilon(ComposedEvent((training, event)), DELTA)
        assert alone < together <= (alone + 0.3) * (1 + 1e-2)


@every_accountant
def test_replacing_costs_twice_where_only_adding_was_stated(accountant: Accountant) -> None:
    replaced = GaussianEvent(1e6, Neighbouring.REPLACE)  # costs next to nothing
    for event in (PureEvent(0.4), LaplaceEvent(2.5)):
        found = accountant.epsilon(ComposedEvent((event, replaced)), 1e-9)
        assert 0.79 < found < 0.82
    stated = PureEvent(0.4, Neighbouring.REPLACE)
    assert 0.39 < accountant.epsilon(ComposedEvent((stated, replaced)), 1e-9) < 0.42


@every_accountant
@pytest.mark.parametrize("event", [LaplaceEvent(0.0), LaplaceEvent(1e-6), PureEvent(1e6)])
def test_hardly_any_noise_counts_as_none(accountant: Accountant, event: Event) -> None:
    assert accountant.epsilon(event, DELTA) == math.inf


@every_accountant
@pytest.mark.parametrize("event", [LaplaceEvent(1e300), PureEvent(0.0), PureEvent(1e-300)])
def test_hardly_any_loss_costs_hardly_anything(accountant: Accountant, event: Event) -> None:
    assert 0 <= accountant.epsilon(SelfComposedEvent(event, 5), DELTA) <= 1e-6


@pytest.mark.parametrize("event", [LaplaceEvent(1.0), PureEvent(1.0)])
def test_the_moments_accountant_refuses_in_words(event: Event) -> None:
    with pytest.raises(UnknownEventError, match="Use pld or rdp"):
        ACCOUNTANTS["moments"].epsilon(event, DELTA)


def test_the_meter_is_never_below_the_accountant() -> None:
    for single in (LaplaceEvent(20.0), PureEvent(0.05)):
        meter = Meter(SelfComposedEvent(single, 100), DELTA)
        for count in (1, 30, 99):
            event = SelfComposedEvent(single, count)
            exact = spent(event, DELTA).epsilon
            assert exact <= meter.epsilon(event) <= 1.1 * exact
