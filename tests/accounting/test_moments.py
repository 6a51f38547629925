"""The moments, against the paper's two integrals with 20 digits."""

from __future__ import annotations

import mpmath
import pytest

from deniable.accounting.moments import MOMENTS, _log_moments
from deniable.events import GaussianEvent, PoissonSampledEvent

SETTINGS = [(0.01, 4.0), (256 / 60_000, 0.7), (1e-5, 20.0), (0.9, 0.5)]


def integrals(rate: float, noise: float, moment: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    """`E1` and `E2` of Abadi et al., 2016, section 3.2: removing and adding a unit."""
    with mpmath.workdps(20):
        q, s = mpmath.mpf(rate), mpmath.mpf(noise)

        def plain(z: mpmath.mpf) -> mpmath.mpf:
            return mpmath.npdf(z, 0, s)

        def ratio(z: mpmath.mpf) -> mpmath.mpf:
            return 1 - q + q * mpmath.exp((2 * z - 1) / (2 * s**2))

        ends = [-40 * s, 0, moment / 2, moment + 1, moment + 1 + 40 * s]
        first = mpmath.quad(lambda z: plain(z) * ratio(z) ** -moment, ends)
        second = mpmath.quad(lambda z: plain(z) * ratio(z) ** (moment + 1), ends)
        return mpmath.log(first), mpmath.log(second)


@pytest.mark.parametrize(("rate", "noise"), SETTINGS)
def test_the_moments_are_those_of_the_paper(rate: float, noise: float) -> None:
    """Never below the larger integral, which is that of removing."""
    found = _log_moments(PoissonSampledEvent(rate, GaussianEvent(noise)))
    for moment in (1, 7, 32):
        adding, removing = integrals(rate, noise, moment)
        mine = found[MOMENTS.index(moment)]
        assert adding <= removing <= mine
        assert mine == pytest.approx(float(removing), rel=1e-9, abs=1e-12)


def test_high_moments_are_not_understated() -> None:
    """Against the exact binomial mean, summed with 40 digits."""
    rate, noise = 0.02, 3.0
    found = _log_moments(PoissonSampledEvent(rate, GaussianEvent(noise)))
    with mpmath.workdps(40):
        for moment in (62, 255, 2047):
            n, q = moment + 1, mpmath.mpf(rate)
            exact = mpmath.log(
                mpmath.fsum(
                    mpmath.binomial(n, k)
                    * q**k
                    * (1 - q) ** (n - k)
                    * mpmath.exp(mpmath.mpf(k * (k - 1)) / (2 * noise**2))
                    for k in range(n + 1)
                )
            )
            mine = found[MOMENTS.index(moment)]
            assert exact <= mine <= exact * (1 + 1e-12) + 1e-10


def test_the_moments_are_those_of_the_paper_and_more() -> None:
    assert MOMENTS[:32] == tuple(range(1, 33))
    assert MOMENTS[-1] > 1_000
