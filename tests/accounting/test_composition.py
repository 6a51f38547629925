"""The composition theorems, against the exact answer to the question that they answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deniable.accounting import ACCOUNTANTS
from deniable.accounting.composition import SPLITS
from deniable.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from oracles.composition import optimal_delta
from oracles.privacy_curves import epsilon_at, gaussian_delta

BASIC, STRONG, AMPLIFIED = (ACCOUNTANTS[name] for name in ("basic", "strong", "amplified"))


def of_one_release(noise: float, delta: float) -> float:
    return epsilon_at(lambda epsilon: gaussian_delta(noise, epsilon), delta)


def optimum(noise: float, count: int, delta: float, rate: float = 1.0) -> float:
    """The least epsilon that composition can state, over the ways to split delta."""
    found = []
    for split in SPLITS:
        share = split * delta / count
        epsilon = math.log1p(rate * math.expm1(of_one_release(noise, share / rate)))
        found.append(
            epsilon_at(lambda e, e0=epsilon, d0=share: optimal_delta(e0, d0, count, e), delta)  # type: ignore[misc]
        )
    return min(found)


def test_basic_composition_adds_up_the_exact_epsilons_of_equal_shares() -> None:
    event = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(2.0)), 40)
    expected = 40 * of_one_release(2.0, 1e-5 / 40)
    assert BASIC.epsilon(event, 1e-5) == pytest.approx(expected, rel=1e-5)
    assert BASIC.epsilon(event, 1e-5) >= expected


@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (5.0, 30), (20.0, 400), (0.5, 20)])
def test_strong_composition_is_above_the_optimum_and_close(noise: float, count: int) -> None:
    best = optimum(noise, count, 1e-5)
    event = SelfComposedEvent(GaussianEvent(noise), count)
    assert best * (1 - 1e-9) <= STRONG.epsilon(event, 1e-5) <= 1.12 * best


@pytest.mark.parametrize(("rate", "noise", "count"), [(0.01, 1.0, 100), (0.2, 3.0, 30)])
def test_amplified_composition_is_above_the_optimum_of_amplified_steps(
    rate: float, noise: float, count: int
) -> None:
    best = optimum(noise, count, 1e-5, rate)
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), count)
    assert best * (1 - 1e-9) <= AMPLIFIED.epsilon(event, 1e-5) <= 1.2 * best


def test_sampling_helps_where_it_is_known_and_nowhere_else() -> None:
    sampled = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(4.0)), 10_000)
    whole = SelfComposedEvent(GaussianEvent(4.0), 10_000)
    for each in (BASIC, STRONG):
        assert each.epsilon(sampled, 1e-5) == each.epsilon(whole, 1e-5)
    assert AMPLIFIED.epsilon(whole, 1e-5) == pytest.approx(STRONG.epsilon(whole, 1e-5), rel=1e-12)
    assert AMPLIFIED.epsilon(sampled, 1e-5) < STRONG.epsilon(sampled, 1e-5) / 100


def test_losses_beyond_the_exponential_function_are_amplified_too() -> None:
    """At noise 0.01 one release costs thousands. Pitfall: users 9."""
    event = PoissonSampledEvent(0.5, GaussianEvent(0.01))
    exact = of_one_release(0.01, 2e-5) + math.log(0.5)
    assert AMPLIFIED.epsilon(event, 1e-5) == pytest.approx(exact, rel=1e-6)


def test_releases_that_differ_share_delta_well() -> None:
    """Close to the best of many ways to share it out between a loud and a quiet kind."""
    loud, quiet = GaussianEvent(0.5), GaussianEvent(20.0)
    event = ComposedEvent((SelfComposedEvent(loud, 10), SelfComposedEvent(quiet, 200)))
    ways = [
        10 * of_one_release(0.5, share * 1e-5 / 10)
        + 200 * of_one_release(20.0, (1 - share) * 1e-5 / 200)
        for share in np.linspace(0.01, 0.99, 99)
    ]
    assert min(ways) * (1 - 1e-4) <= BASIC.epsilon(event, 1e-5) <= min(ways) * 1.002
