from __future__ import annotations

import mpmath
import numpy as np
import pytest

from deniable.accounting.gaussian import gaussian_epsilon


def exact_delta(epsilon: float, noise: float) -> mpmath.mpf:
    """The closed form with 60 digits."""
    with mpmath.workdps(60):
        shift = 1 / mpmath.mpf(noise)
        at = mpmath.mpf(epsilon) / shift
        return mpmath.ncdf(shift / 2 - at) - mpmath.exp(epsilon) * mpmath.ncdf(-shift / 2 - at)


@pytest.mark.parametrize("noise", [1e-4, 0.03, 0.5, 4.0, 100.0, 1e5, 1e7])
def test_epsilon_is_enough_and_hardly_more_than_enough(noise: float) -> None:
    for delta in (0.3, 1e-3, 1e-5, 1e-10, 1e-20):
        epsilon = float(gaussian_epsilon(noise, delta))
        assert exact_delta(epsilon, noise) <= delta
        if epsilon:
            assert exact_delta(epsilon * (1 - 1e-4), noise) > delta


def test_arrays_are_answered_as_their_entries_are() -> None:
    noise, delta = np.array([[0.7], [3.0]]), np.array([1e-3, 1e-6, 1e-9])
    together = gaussian_epsilon(noise, delta)
    alone = [[float(gaussian_epsilon(s, d)) for d in delta] for s in noise[:, 0]]
    assert together.tolist() == alone


def test_a_delta_of_one_allows_everything() -> None:
    assert gaussian_epsilon(1.0, [1.0, 7.0]).tolist() == [0, 0]
