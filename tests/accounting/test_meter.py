"""The meter: quick, and never below what the accountant states."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deniable.accounting import ACCOUNTANTS, Meter
from deniable.errors import AccountingError, UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
)
from oracles.privacy_curves import epsilon_at, gaussian_delta

DUST = 1e-12


def phase(rate: float, noise: float, count: int) -> SelfComposedEvent:
    return SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), count)


KNOWN = phase(256 / 60_000, 1.1, 14_040)
# A short run of the demo's shape, rare but large losses, little noise, no sampling, two phases.
WHOLES = [
    KNOWN,
    phase(1024 / 1437, 17.2, 300),
    phase(0.005, 0.6, 200),
    phase(0.2, 0.5, 50),
    SelfComposedEvent(GaussianEvent(8.0), 40),
    ComposedEvent((phase(0.01, 2.0, 300), phase(0.03, 1.2, 120))),
]


def part(whole: Event, share: float) -> Event:
    match whole:
        case SelfComposedEvent(step, count):
            return SelfComposedEvent(step, math.ceil(share * count))
        case ComposedEvent(phases):
            return ComposedEvent(tuple(part(each, share) for each in phases))
    raise AssertionError(whole)


@pytest.mark.parametrize("whole", WHOLES, ids=range(len(WHOLES)))
def test_it_is_never_below_the_accountant_and_hardly_above(whole: Event) -> None:
    """The accountant is the slow twin: its grid is finer, its convolutions are dp-accounting's.

    Read a twentieth too early, it would be below.
    """
    meter, accountant = Meter(whole, 1e-5), ACCOUNTANTS["pld"]
    for share in (1e-9, 0.3, 1.0):
        stated = accountant.epsilon(part(whole, share), 1e-5)
        read = meter.epsilon(part(whole, share))
        assert stated * (1 - DUST) <= read
        assert read <= 1.02 * stated + 1e-3
    assert meter.epsilon(part(whole, 0.95)) < accountant.epsilon(whole, 1e-5)


def test_random_wholes_and_parts() -> None:
    draws = np.random.default_rng(5)
    accountant = ACCOUNTANTS["pld"]
    for _ in range(6):
        rate, noise = 10 ** draws.uniform(-3, 0), 10 ** draws.uniform(-0.3, 1.2)
        whole = phase(rate, noise, int(10 ** draws.uniform(0, 3)))
        some = part(whole, draws.uniform())
        stated, read = accountant.epsilon(some, 1e-6), Meter(whole, 1e-6).epsilon(some)
        assert stated * (1 - DUST) <= read <= 1.03 * stated + 1e-3


def test_it_is_never_below_the_exact_curve_of_gaussians() -> None:
    whole = SelfComposedEvent(GaussianEvent(10.0), 100)
    meter = Meter(whole, 1e-5)
    for count in (1, 10, 99, 100):
        exact = epsilon_at(lambda e, n=count: gaussian_delta(10 / n**0.5, e), 1e-5)  # type: ignore[misc]
        assert exact <= meter.epsilon(SelfComposedEvent(GaussianEvent(10.0), count)) < 1.01 * exact


def test_it_grows_with_every_release() -> None:
    meter = Meter(KNOWN, 1e-5, epsilon=2.38)
    read = [
        meter.epsilon(SelfComposedEvent(KNOWN.event, count)) for count in range(0, 14_041, 1_080)
    ]
    assert read[0] == 0
    assert read == sorted(read)
    assert len(set(read[:-2])) == len(read) - 2


def test_no_part_is_read_above_what_the_whole_is_known_to_cost() -> None:
    stated = ACCOUNTANTS["pld"].epsilon(KNOWN, 1e-5)
    meter = Meter(KNOWN, 1e-5, epsilon=stated)
    assert meter.epsilon(KNOWN) == stated
    assert meter.epsilon(SelfComposedEvent(KNOWN.event, 14_039)) <= stated
    assert stated < Meter(KNOWN, 1e-5).epsilon(KNOWN)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    "event",
    [
        SelfComposedEvent(KNOWN.event, 14_041),
        GaussianEvent(3.0),
        SelfComposedEvent(GaussianEvent(0.0), 1),
    ],
    ids=["more", "other", "bare"],
)
def test_what_is_no_part_of_the_whole_is_answered_by_the_accountant(
    accountant: str, event: Event
) -> None:
    meter = Meter(KNOWN, 1e-5, accountant, epsilon=0.1)
    assert meter.epsilon(event) == ACCOUNTANTS[accountant].epsilon(event, 1e-5)


@pytest.mark.parametrize(
    ("whole", "delta"),
    [
        (SelfComposedEvent(GaussianEvent(0.0), 3), 1e-5),
        (phase(1e-3, 2.0, 2 * 10**6), 1e-5),
        (phase(0.5, 1e-3, 30), 1e-5),
    ],
    ids=["bare", "very-long", "beyond-exponentials"],
)
def test_where_distributions_are_no_help_it_is_the_accountant(whole: Event, delta: float) -> None:
    """Pitfall: users 9."""
    some = part(whole, 0.5)
    stated = ACCOUNTANTS["pld"].epsilon(some, delta)
    assert Meter(whole, delta).epsilon(some) >= stated * (1 - DUST)
    assert Meter(whole, delta, "rdp").epsilon(some) == ACCOUNTANTS["rdp"].epsilon(some, delta)


@pytest.mark.parametrize("noise", [2e-4, 1e-3, 1e-2])
def test_a_noise_as_small_as_any_that_counts_is_answered(noise: float) -> None:
    """Where delta is the rate or more, epsilon is 0 at any noise: solving a plan asks for it."""
    assert Meter(phase(0.01, noise, 1), 0.02).epsilon(phase(0.01, noise, 1)) < math.inf


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(AccountingError, match="strictly between 0 and 1"):
        Meter(KNOWN, 0.0)
    with pytest.raises(AccountingError, match="accountant must be one of"):
        Meter(KNOWN, 1e-5, "gdp")
    with pytest.raises(UnknownEventError):
        Meter(KNOWN, 1e-5).epsilon(object())  # type: ignore[arg-type]
