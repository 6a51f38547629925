from __future__ import annotations

import pytest

from deniable.accounting import ACCOUNTANTS
from deniable.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent

RDP, PLD = ACCOUNTANTS["rdp"], ACCOUNTANTS["pld"]


def optimistic(rate: float, noise: float, count: int, delta: float) -> float:
    """A lower bound of epsilon, from the same distribution rounded down, on a fine grid."""
    from dp_accounting.pld import privacy_loss_distribution

    distribution = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        pessimistic_estimate=False,
        use_connect_dots=False,
        value_discretization_interval=1e-4,
    )
    return float(distribution.self_compose(count).get_epsilon_for_delta(delta))


@pytest.mark.parametrize(
    ("rate", "noise", "count"), [(0.01, 1.0, 100), (0.1, 5.0, 1_000), (0.3, 2.0, 20)]
)
def test_epsilon_lies_above_a_lower_bound_and_below_the_rdp_bound(
    rate: float, noise: float, count: int
) -> None:
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), count)
    tight = PLD.epsilon(event, 1e-6)
    assert optimistic(rate, noise, count, 1e-6) <= tight < RDP.epsilon(event, 1e-6)


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
