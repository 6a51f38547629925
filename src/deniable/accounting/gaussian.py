"""The exact privacy curve of the Gaussian mechanism."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# More than what rounding in float64 takes from delta, for noise from 1e-4 to 1e7: it was never
# above 1e-6 beside mpmath. Of epsilon it costs less than a hundred thousandth.
ROUNDING = 1e-5


def gaussian_epsilon(noise_multiplier: ArrayLike, delta: ArrayLike) -> NDArray[np.float64]:
    """The least epsilon at which one Gaussian release is (epsilon, delta)-private, rounded up.

    The inverse of `delta = N(m/2 - e/m) - exp(e) N(-m/2 - e/m)`, where N is the normal distribution
    function and `m = 1 / noise_multiplier` (Balle & Wang, 2018, "Improving the Gaussian Mechanism
    for Differential Privacy", theorem 8).

    Args:
        noise_multiplier: above 0, of any shape.
        delta: above 0, of a shape that goes with it.

    >>> gaussian_epsilon(1.0, [1e-5, 1e-3]).round(3)
    array([4.377, 3.139])
    """
    shift, target = np.broadcast_arrays(1 / np.asarray(noise_multiplier, float), delta)
    low = np.zeros(target.shape)
    # Zero-concentrated privacy bounds it (Bun & Steinke, 2016, propositions 1.3 and 1.6).
    high = shift**2 / 2 + shift * np.sqrt(2 * np.log(1 / np.minimum(target, 1)))
    high = np.where(_delta(low, shift) <= target, 0, high)
    for _ in range(64):
        middle = (low + high) / 2
        enough = _delta(middle, shift) <= target
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def gaussian_delta(epsilon: ArrayLike, shift: ArrayLike) -> NDArray[np.float64]:
    """Delta of the Gaussian mechanism at epsilon, but for rounding; see `gaussian_epsilon`.

    Args:
        epsilon: of any shape.
        shift: sensitivity over deviation, above 0, of a shape that goes with it.

    >>> float(gaussian_delta(1.0, 1.0).round(4))
    0.1269
    """
    from scipy.special import log_ndtr

    at, apart = np.asarray(epsilon, float), np.asarray(shift, float)
    likely = log_ndtr(apart / 2 - at / apart)
    unlikely = at + log_ndtr(-apart / 2 - at / apart)
    found: NDArray[np.float64] = -np.exp(likely) * np.expm1(np.minimum(unlikely - likely, 0))
    return found


def _delta(epsilon: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    return gaussian_delta(epsilon, shift) * (1 + ROUNDING)
