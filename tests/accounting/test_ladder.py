"""What must hold between the accountants, for 300 plans drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deniable.accounting import ACCOUNTANTS, noise_multiplier_for
from deniable.accounting.pld import RESOLUTION
from deniable.events import Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent

# Shrinking a failure would look at thousands of plans more.
drawn_300_times = settings(max_examples=300, phases=[Phase.generate])

COMPARED = 1e-12  # of two float64 sums
FAST = [each for name, each in ACCOUNTANTS.items() if name != "pld"]
RDP, PLD = ACCOUNTANTS["rdp"], ACCOUNTANTS["pld"]
UNSUMMED = 0.01  # RDP is looser by less where low orders do not converge, which can come and go


@dataclass(frozen=True)
class Training:
    rate: float
    noise: float
    steps: int
    delta: float

    @property
    def event(self) -> Event:
        return SelfComposedEvent(
            PoissonSampledEvent(self.rate, GaussianEvent(self.noise)), self.steps
        )


def power(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


trainings = st.builds(
    Training,
    rate=power(-3.5, 0),
    noise=power(-0.2, 1.5),
    steps=power(0, 4.3).map(round),
    delta=power(-9, -4.5),  # below the rate: above it, not being drawn is all the privacy it takes
)

dearer = st.sampled_from(
    [
        lambda each: replace(each, rate=min(1.0, 1.3 * each.rate)),
        lambda each: replace(each, noise=each.noise / 1.2),
        lambda each: replace(each, steps=each.steps + each.steps // 3 + 1),
        lambda each: replace(each, delta=each.delta / 10),
    ]
)


def least(epsilon: float) -> float:
    """The least that the exact epsilon can be, by what PLD states of its own error."""
    return epsilon - max(RESOLUTION * epsilon, 1e-4)


@pytest.mark.slow
@drawn_300_times
@given(trainings, dearer)
def test_each_rung_is_above_the_next_and_grows_with_what_is_released(training, change) -> None:  # type: ignore[no-untyped-def]
    """Epsilon grows with steps and rate, falls with noise and delta; no valid rung is below PLD."""
    changed = change(training)
    costs = {
        each.name: each.epsilon(training.event, training.delta) for each in ACCOUNTANTS.values()
    }
    assert costs["pld"] <= costs["rdp"] <= costs["moments"] * (1 + COMPARED)
    assert costs["amplified"] <= costs["strong"] * (1 + COMPARED)
    assert costs["strong"] <= costs["basic"] * (1 + COMPARED)
    assert min(costs.values()) >= least(costs["pld"])
    for each in FAST:
        grown = each.epsilon(changed.event, changed.delta)
        assert grown >= costs[each.name] * (1 - UNSUMMED if each is RDP else 1 - COMPARED)
    assert PLD.epsilon(changed.event, changed.delta) >= least(costs["pld"])


@pytest.mark.slow
@drawn_300_times
@given(trainings, st.sampled_from(list(ACCOUNTANTS)), power(-1.5, 2))
def test_solving_and_accounting_agree_within_a_hundredth(
    training: Training, accountant: str, epsilon: float
) -> None:
    """Pitfall: privacy 3."""

    def cost(noise: float) -> float:
        return ACCOUNTANTS[accountant].epsilon(event_at(noise), training.delta)

    def event_at(noise: float) -> Event:
        return replace(training, noise=noise).event

    noise = noise_multiplier_for(event_at, epsilon, training.delta, accountant)
    assert 0.99 * epsilon <= cost(noise) <= epsilon
