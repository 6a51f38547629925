"""Batches that are drawn in another way than planned are told apart from those that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.planted import BUGS
from deniable.audit.sampling import probabilities_of, sampling_of
from deniable.plan import Plan
from deniable.sampling import FixedSizeSampler, PoissonSampler, Sampler, ShuffledSampler

TESTS = 1000  # so that a correct sampler is refuted in 1 of 100,000 tests


def plan(**changes: Any) -> Plan:
    given = {"examples": 300, "batch_size": 30, "steps": 50, "noise_multiplier": 1.0}
    return Plan(**(given | {"delta": 1e-3} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 200},
        {"batch_size": 1},
        {"sampling": "fixed-size"},
        {"sampling": "shuffled"},
        {"sampling": "truncated-poisson", "max_batch_size": 80},
        {"sampling": "truncated-poisson", "max_batch_size": 30},
        {"batch_size": 300},
    ],
    ids=str,
)
def test_every_sampler_draws_as_it_says(changes: dict[str, Any]) -> None:
    found = sampling_of(plan(**changes), TESTS)
    assert found.holds, found.says


@pytest.mark.parametrize("size", [3, 30, 200])
def test_shuffled_batches_recorded_as_poisson_samples_are_refuted(size: int) -> None:
    """Pitfall: privacy 1."""
    with BUGS["shuffled, recorded as Poisson"](0):
        assert not sampling_of(plan(batch_size=size), TESTS).holds


def drawn(sampler: Sampler, steps: int = 200) -> np.ndarray:
    found = np.zeros((steps, sampler.examples), dtype=bool)
    for step in range(steps):
        found[step, sampler.draw()] = True
    return found


@pytest.mark.parametrize("claimed", [PoissonSampler, FixedSizeSampler, ShuffledSampler])
@pytest.mark.parametrize("true", [PoissonSampler, FixedSizeSampler, ShuffledSampler])
def test_no_sampler_passes_for_another(claimed: type[Sampler], true: type[Sampler]) -> None:
    """Each is improbable under the laws of the others, and only there."""
    least = min(probabilities_of(claimed(120, 40), drawn(true(120, 40))).values())
    assert (least > 1e-6) is (claimed is true)


def test_a_larger_rate_than_claimed_is_refuted() -> None:
    least = min(probabilities_of(PoissonSampler(300, 30), drawn(PoissonSampler(300, 36))).values())
    assert least < 1e-6


def test_the_probability_of_honest_draws_is_even() -> None:
    """Of 100 histories with 4 looks each: more than 15 below 0.01 in 1 of 100,000 cases."""
    low = 0
    for seed in range(100):
        sampler = PoissonSampler(150, 20, np.random.default_rng(seed))
        low += min(probabilities_of(sampler, drawn(sampler, 60)).values()) < 0.01
    assert low <= 15
