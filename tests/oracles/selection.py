"""What the best of a random number of runs tells exactly, where a run is one noisy number.

Each run adds normal noise to 0 or, where the unit is in the data, to 1, and the largest result is
released: its distribution function is the generating function of the number of runs, at that of one
run. Nothing here is shared with the library.
"""

from __future__ import annotations

import numpy as np
from scipy import integrate, stats


def generating_slope(x: np.ndarray, mean: float, shape: float | None) -> np.ndarray:
    """The derivative of the generating function `E[x^K]` of the number of runs."""
    if shape is None:
        return mean * np.exp(mean * (x - 1))
    low, high = 1e-12, 1.0
    for _ in range(200):  # the mean falls as gamma grows
        gamma = (low + high) / 2
        found = (
            (1 / gamma - 1) / np.log(1 / gamma)
            if shape == 0
            else shape * (1 / gamma - 1) / (1 - gamma**shape)
        )
        low, high = (gamma, high) if found > mean else (low, gamma)
    rest = 1 - gamma
    if shape == 0:
        return rest / (1 - rest * x) / np.log(1 / gamma)
    return shape * rest * (1 - rest * x) ** (-shape - 1) / (gamma**-shape - 1)


def selected_delta(noise: float, mean: float, shape: float | None, epsilon: float) -> float:
    """The larger hockey-stick divergence of the two best results, with and without the unit."""
    z = np.linspace(-12 * noise, 12 * noise + 1, 80_001)
    densities = [
        stats.norm.pdf(z, at, noise) * generating_slope(stats.norm.cdf(z, at, noise), mean, shape)
        for at in (0.0, 1.0)
    ]
    return max(
        float(integrate.simpson(np.maximum(p - np.exp(epsilon) * q, 0), x=z))
        for p, q in (densities, densities[::-1])
    )
