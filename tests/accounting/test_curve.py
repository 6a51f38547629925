from __future__ import annotations

import math

import pytest
from scipy.special import ndtr, ndtri

from deniable.accounting import privacy_curve
from deniable.events import Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.units import PrivacyCurve

RATES = (0.001, 0.01, 0.1)


def best_against_gaussian(noise: float, releases: int, false_positives: float) -> float:
    """The exact trade-off of Gaussian releases (Dong, Roth & Su, 2022, sections 2.2, 3.2)."""
    return float(ndtr(ndtri(false_positives) + math.sqrt(releases) / noise))


def best_against_sampled(rate: float, noise: float, false_positives: float) -> float:
    """The exact trade-off of one Poisson-sampled Gaussian release, the better of two attacks.

    The likelihood ratio grows with the outcome, so that the best test names all above (or, told
    the other way round, below) a threshold (Neyman & Pearson).
    """

    def mixture_above(z: float) -> float:
        return (1 - rate) * float(ndtr(-z / noise)) + rate * float(ndtr((1 - z) / noise))

    there = mixture_above(float(-noise * ndtri(false_positives)))
    low, high = -50.0 * noise, 50.0 * noise
    for _ in range(200):  # where the mixture has `false_positives` below
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - mixture_above(middle) < false_positives else (low, middle)
    return max(there, float(ndtr(low / noise)))


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(("noise", "releases"), [(0.5, 1), (1.0, 1), (5.0, 1), (20.0, 100)])
@pytest.mark.parametrize("rate", RATES)
def test_no_test_against_gaussian_noise_beats_the_curve(
    noise: float, releases: int, rate: float, accountant: str
) -> None:
    """And by PLD the curve is hardly above the best test. Pitfall: users 7."""
    event = SelfComposedEvent(GaussianEvent(noise), releases)
    best = best_against_gaussian(noise, releases, rate)
    bound = privacy_curve(event, accountant).attacker_true_positive_rate(rate)
    assert best <= bound
    assert accountant == "rdp" or bound <= 1.03 * best


@pytest.mark.parametrize(("sampling", "noise"), [(0.01, 1.0), (0.3, 0.7), (0.9, 2.0)])
@pytest.mark.parametrize("rate", RATES)
def test_no_test_against_a_sampled_release_beats_the_curve(
    sampling: float, noise: float, rate: float
) -> None:
    event = PoissonSampledEvent(sampling, GaussianEvent(noise))
    best = best_against_sampled(sampling, noise, rate)
    assert best <= privacy_curve(event).attacker_true_positive_rate(rate) <= 1.03 * best


@pytest.mark.parametrize("rate", RATES)
def test_a_curve_of_more_noise_than_there_was_is_beaten(rate: float) -> None:
    """The negative control of the tests above."""
    best = best_against_gaussian(1.0, 1, rate)
    assert best > privacy_curve(GaussianEvent(1.1)).attacker_true_positive_rate(rate)


def test_the_curve_says_more_than_any_of_its_points() -> None:
    event: Event = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(1.0)), 1_000)
    curve = privacy_curve(event)
    for rate in RATES:
        best = curve.attacker_true_positive_rate(rate)
        assert best == min(each.attacker_true_positive_rate(rate) for each in curve.points)
        assert best < curve.points[0].attacker_true_positive_rate(rate)


def test_without_noise_the_curve_limits_nothing() -> None:
    curve = privacy_curve(GaussianEvent(0.0))
    assert not curve.is_private
    assert [curve.attacker_true_positive_rate(rate) for rate in RATES] == [1, 1, 1]
    assert PrivacyCurve(()).attacker_true_positive_rate(0.01) == 1


def test_who_releases_nothing_gives_nothing_away() -> None:
    curve = privacy_curve(SelfComposedEvent(GaussianEvent(1.0), 0))
    for rate in RATES:
        assert curve.attacker_true_positive_rate(rate) == pytest.approx(rate + 1e-5)
