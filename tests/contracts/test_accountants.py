"""The contract of every accountant: an upper bound, whatever the event, or a refusal in words."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import pytest

from deniable.accounting import ACCOUNTANTS, Accountant
from deniable.errors import AccountingError, UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from oracles.privacy_curves import (
    epsilon_at,
    gaussian_delta,
    sampled_gaussian_delta,
    twice_sampled_gaussian_delta,
)

# A new accountant joins by being registered.
every_accountant = pytest.mark.parametrize("accountant", ACCOUNTANTS.values(), ids=ACCOUNTANTS)

STEP = PoissonSampledEvent(0.01, GaussianEvent(1.0))


def repeated(rate: float, noise_multiplier: float, count: int) -> Event:
    return SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise_multiplier)), count)


def check_bounds_gaussians(accountant: Accountant) -> None:
    """`count` Gaussian releases are exactly one with `sqrt(count)` times less noise."""
    for noise, count in [(0.1, 1), (1.0, 1), (5.0, 1), (10.0, 100), (100.0, 10_000), (80.0, 4)]:
        for delta in (1e-3, 1e-5, 1e-9, 1e-12):
            exact = epsilon_at(lambda e, s=noise / count**0.5: gaussian_delta(s, e), delta)  # type: ignore[misc]
            for event in (
                SelfComposedEvent(GaussianEvent(noise), count),
                repeated(1.0, noise, count),
            ):
                assert accountant.epsilon(event, delta) >= exact * (1 - 1e-12)


def check_bounds_sampled_gaussian(accountant: Accountant) -> None:
    for rate, noise in [(0.001, 0.5), (0.01, 1.0), (0.3, 0.7), (0.3, 20.0), (0.9, 3.0)]:
        for delta in (1e-4, 1e-8):
            exact = epsilon_at(lambda e, q=rate, s=noise: sampled_gaussian_delta(q, s, e), delta)  # type: ignore[misc]
            assert accountant.epsilon(repeated(rate, noise, 1), delta) >= exact * (1 - 1e-9)
    for rate, noise in [(0.01, 0.6), (0.3, 1.0), (0.9, 3.0)]:
        exact = of_two_releases(rate, noise, 1e-5)
        assert accountant.epsilon(repeated(rate, noise, 2), 1e-5) >= exact * (1 - 1e-7)


@functools.cache
def of_two_releases(rate: float, noise: float, delta: float) -> float:
    return epsilon_at(lambda e: twice_sampled_gaussian_delta(rate, noise, e), delta, halvings=40)


@every_accountant
def test_composed_gaussians_are_never_below_the_exact_curve(accountant: Accountant) -> None:
    check_bounds_gaussians(accountant)


@every_accountant
def test_a_sampled_gaussian_is_never_below_the_exact_curve(accountant: Accountant) -> None:
    check_bounds_sampled_gaussian(accountant)


@dataclass(frozen=True)
class Optimist:
    """The negative control: understates by a hundredth."""

    honest: Accountant
    name: str = "optimist"
    summary: str = "understates"

    def epsilon(self, event: Event, delta: float) -> float:
        return 0.99 * self.honest.epsilon(event, delta)


def test_an_accountant_that_understates_by_a_hundredth_is_caught() -> None:
    optimist = Optimist(ACCOUNTANTS["pld"])
    with pytest.raises(AssertionError):
        check_bounds_gaussians(optimist)
    with pytest.raises(AssertionError):
        check_bounds_sampled_gaussian(optimist)


@every_accountant
@pytest.mark.parametrize("delta", [0.3, 1e-5, 1e-15])
@pytest.mark.parametrize("noise", [3e-3, 0.05, 0.4, 30.0, 1e7])
@pytest.mark.parametrize("rate", [1e-6, 0.004, 0.5, 1.0])
def test_every_epsilon_is_a_number_that_is_not_negative(
    accountant: Accountant, rate: float, noise: float, delta: float
) -> None:
    """Pitfall: users 9."""
    assert 0 <= accountant.epsilon(repeated(rate, noise, 300), delta) < math.inf


@every_accountant
@pytest.mark.parametrize("rate", [1.0, 0.3, 1e-5])
def test_no_noise_is_too_small_or_too_large_for_an_answer(
    accountant: Accountant, rate: float
) -> None:
    """Noise that hides nothing is as none at all; more than can be told apart still costs little.

    Pitfall: users 9.
    """
    for noise in (5e-324, 1e-200, 1e-5):
        assert accountant.epsilon(repeated(rate, noise, 3), 1e-5) == math.inf
    for noise in (1e9, 1e300):
        assert 0 <= accountant.epsilon(repeated(rate, noise, 3), 1e-5) < 0.01


@every_accountant
def test_it_says_in_a_clause_what_it_knows(accountant: Accountant) -> None:
    assert 10 < len(accountant.summary) < 80
    assert not accountant.summary.endswith(".")


@every_accountant
def test_epsilon_grows_with_the_releases(accountant: Accountant) -> None:
    costs = [accountant.epsilon(repeated(0.01, 1.0, 10**power), 1e-6) for power in range(8)]
    assert costs == sorted(costs)


@every_accountant
def test_epsilon_falls_with_noise_and_with_delta_and_grows_with_the_rate(
    accountant: Accountant,
) -> None:
    by_noise = [accountant.epsilon(repeated(0.02, noise, 500), 1e-6) for noise in (0.5, 1, 2, 8)]
    by_delta = [
        accountant.epsilon(repeated(0.02, 1.0, 500), 10.0**-power) for power in range(1, 14, 3)
    ]
    by_rate = [accountant.epsilon(repeated(rate, 1.0, 500), 1e-6) for rate in (0, 0.1, 0.9, 1)]
    assert by_noise == sorted(by_noise, reverse=True)
    assert by_delta == sorted(by_delta)
    assert by_rate == sorted(by_rate)


@every_accountant
@pytest.mark.parametrize(
    "event",
    [ComposedEvent(()), SelfComposedEvent(STEP, 0), PoissonSampledEvent(0.0, GaussianEvent(0.0))],
    ids=["nothing", "no-times", "nobody"],
)
def test_what_touches_no_data_costs_nothing(accountant: Accountant, event: Event) -> None:
    assert accountant.epsilon(event, 1e-5) == 0


@every_accountant
def test_one_release_without_noise_makes_everything_infinite(accountant: Accountant) -> None:
    bare = PoissonSampledEvent(1e-9, GaussianEvent(0.0))
    assert accountant.epsilon(ComposedEvent((STEP, bare)), 1e-5) == math.inf


@every_accountant
def test_neither_order_nor_nesting_matters(accountant: Accountant) -> None:
    other = GaussianEvent(50.0)
    flat = ComposedEvent((SelfComposedEvent(STEP, 60), SelfComposedEvent(other, 4)))
    nested = SelfComposedEvent(
        ComposedEvent((other, SelfComposedEvent(ComposedEvent((STEP,) * 5), 6), other)), 2
    )
    expected = accountant.epsilon(flat, 1e-6)
    assert accountant.epsilon(nested, 1e-6) == pytest.approx(expected, rel=1e-9)


@every_accountant
def test_different_releases_compose(accountant: Accountant) -> None:
    one, other = repeated(0.01, 1.0, 100), repeated(0.05, 3.0, 200)
    alone = [accountant.epsilon(event, 1e-6) for event in (one, other)]
    together = accountant.epsilon(ComposedEvent((one, other)), 1e-6)
    assert max(alone) < together < accountant.epsilon(one, 5e-7) + accountant.epsilon(other, 5e-7)


@dataclass(frozen=True)
class Novelty:
    """An event of a later version."""


@every_accountant
@pytest.mark.parametrize("hide", [lambda e: e, lambda e: SelfComposedEvent(ComposedEvent((e,)), 2)])
def test_an_unknown_event_is_refused_however_deep_it_lies(accountant: Accountant, hide) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UnknownEventError, match="Novelty"):
        accountant.epsilon(hide(Novelty()), 1e-5)


@every_accountant
@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_a_delta_outside_0_to_1_is_refused(accountant: Accountant, delta: float) -> None:
    with pytest.raises(AccountingError, match="strictly between 0 and 1"):
        accountant.epsilon(STEP, delta)
