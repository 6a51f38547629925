from __future__ import annotations

import pytest

from deniable.accounting import ACCOUNTANTS
from deniable.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from oracles.privacy_curves import (
    curve_below,
    epsilon_at,
    gaussian_delta,
    twice_sampled_gaussian_delta,
)

RDP, PLD = ACCOUNTANTS["rdp"], ACCOUNTANTS["pld"]


def pessimistic(rate: float, noise: float, count: int, delta: float, **how: bool) -> float:
    """What dp-accounting states on its default grid."""
    from dp_accounting.pld import privacy_loss_distribution

    one = privacy_loss_distribution.from_gaussian_mechanism(noise, sampling_prob=rate, **how)
    return float(one.self_compose(count).get_epsilon_for_delta(delta))


@pytest.mark.parametrize(
    ("rate", "noise", "count", "interval"),
    [
        (0.01, 1.0, 100, 2e-4),
        (0.1, 5.0, 1_000, 1e-4),
        (0.3, 2.0, 20, 1e-4),
        (0.005, 0.6, 200, 4e-4),
    ],
)
def test_epsilon_lies_between_a_lower_bound_and_dp_accountings_pessimistic_value(
    rate: float, noise: float, count: int, interval: float
) -> None:
    """Below every loss rounded up; beside its own dots connected on 1e-4, within a part in 10^4."""
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), count)
    found = PLD.epsilon(event, 1e-6)
    below = epsilon_at(curve_below(rate, noise, count, interval), 1e-6, 30)
    assert below <= found <= pessimistic(rate, noise, count, 1e-6, use_connect_dots=False)
    assert found <= pessimistic(rate, noise, count, 1e-6) * (1 + 1e-4)
    assert found < RDP.epsilon(event, 1e-6)
    assert found <= below * 1.02, "the bounds are close enough to say something"


@pytest.mark.parametrize(
    ("rate", "noise"), [(0.01, 1.0), (0.2, 1.0), (0.3, 0.6), (0.9, 3.0), (0.002, 0.5)]
)
def test_of_two_releases_epsilon_is_hardly_above_the_exact_integral(
    rate: float, noise: float
) -> None:
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), 2)
    exact = epsilon_at(lambda e: twice_sampled_gaussian_delta(rate, noise, e), 1e-5, 40)
    assert exact * (1 - 1e-7) <= PLD.epsilon(event, 1e-5) <= exact * (1 + 1e-3)


@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-12])
def test_on_the_whole_data_epsilon_is_exact(delta: float) -> None:
    """Of releases at different noise, too: together they are one."""
    events = (SelfComposedEvent(GaussianEvent(8.0), 20), PoissonSampledEvent(1.0, GaussianEvent(2)))
    noise = (20 / 8.0**2 + 1 / 2.0**2) ** -0.5
    exact = epsilon_at(lambda e: gaussian_delta(noise, e), delta)
    assert exact <= PLD.epsilon(ComposedEvent(events), delta) <= exact * (1 + 1e-5)


@pytest.mark.parametrize(("count", "delta"), [(2 * 10**6, 1e-5), (10**4, 1e-11)])
def test_where_fourier_transforms_are_too_coarse_the_rdp_bound_stands_in(
    count: int, delta: float
) -> None:
    event = SelfComposedEvent(PoissonSampledEvent(1e-3, GaussianEvent(2.0)), count)
    assert PLD.epsilon(event, delta) == RDP.epsilon(event, delta)


def test_releases_of_very_different_sizes_share_a_grid() -> None:
    """Pitfall: users 12."""
    loud = SelfComposedEvent(PoissonSampledEvent(0.004, GaussianEvent(0.5)), 300)
    quiet = SelfComposedEvent(PoissonSampledEvent(0.004, GaussianEvent(500.0)), 300)
    alone, together = PLD.epsilon(loud, 1e-6), PLD.epsilon(ComposedEvent((loud, quiet)), 1e-6)
    assert alone <= together < alone * 1.001
