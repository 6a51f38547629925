"""How errors trade off: of a Gaussian mechanism, of a claim, and as an attack has them.

Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from deniable.accounting import gaussian
from deniable.units import PrivacyCurve, Spent

MOST = 64.0  # an epsilon beyond this says no more than this one does
HALVINGS = 32


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Delta of the Gaussian mechanism with sensitivity over deviation `mu`, at epsilon.

    `Phi(-epsilon / mu + mu / 2) - exp(epsilon) Phi(-epsilon / mu - mu / 2)` (Balle & Wang, 2018,
    "Improving the Gaussian Mechanism for Differential Privacy", theorem 8).

    >>> round(gaussian_delta(1.0, 1.0), 4)
    0.1269
    """
    if mu <= 0:
        return max(0.0, -math.expm1(epsilon)) if epsilon < 0 else 0.0
    return float(gaussian.gaussian_delta(epsilon, mu))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism with sensitivity over deviation `mu`, at delta.

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if not math.isfinite(mu):
        return math.inf
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    return largest(lambda each: gaussian_delta(mu, each) > delta, high)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The Gaussian mechanism whose epsilon at delta this is.

    >>> round(gaussian_mu(gaussian_epsilon(0.7, 1e-5), 1e-5), 6)
    0.7
    """
    return largest(lambda mu: gaussian_delta(mu, epsilon) < delta, 2 * MOST)


def least_false_positives(claim: Spent | PrivacyCurve, rate: float) -> float:
    """The fewest false positives at which any test has the true-positive rate, under a claim.

    The inverse of `attacker_true_positive_rate`.

    >>> claim = Spent(epsilon=3.0, delta=1e-5)
    >>> round(least_false_positives(claim, claim.attacker_true_positive_rate(0.01)), 6)
    0.01
    """
    least = 0.0
    for each in claim.points if isinstance(claim, PrivacyCurve) else (claim,):
        if each.is_private and each.epsilon < 700:
            grown = math.exp(each.epsilon)
            least = max(least, (rate - each.delta) / grown, 1 - each.delta - grown * (1 - rate))
    return least


def largest(refuted: Callable[[float], bool], high: float = MOST) -> float:
    """The largest value that is refuted, where all smaller ones are too; 0 where none is."""
    if not refuted(0.0):
        return 0.0
    low = 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
