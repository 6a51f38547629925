"""The moments accountant of the paper that introduced private deep learning."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from deniable.accounting.base import Counting
from deniable.accounting.rdp import ORDERS, ROUNDING
from deniable.accounting.tally import TalliedEvent, split

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The paper looks at 1 to 32. Moment lambda is Renyi divergence at order lambda + 1: these are the
# whole orders of the RDP accountant, so that the two differ in nothing but their last step.
MOMENTS = tuple(int(order) - 1 for order in ORDERS if order >= 2 and float(order).is_integer())


class MomentsAccountant(Counting):
    """Adds up the logarithms of the moments of the privacy loss, and bounds its tail by Markov.

    `alpha(l) = log E[(p / p0)^(l + 1)]`, the mean over noise alone, `p0`, of its density and that
    of noise with one unit's gradient in it, `p`, at whole `l`;
    `epsilon = min over l of (alpha(l) + log(1 / delta)) / l`.

    Source: Abadi et al., 2016, "Deep Learning with Differential Privacy", theorem 2 and section
    3.2, for Poisson sampling and Gaussian noise, add/remove relation. The moment of adding a unit,
    which the paper computes too, is never the larger one (Mironov, Talwar & Zhang, 2019, "Renyi
    Differential Privacy of the Sampled Gaussian Mechanism", section 3.1).

    Guarantees: never below `RdpAccountant`.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(0.01, GaussianEvent(4.0))
    >>> round(MomentsAccountant().epsilon(SelfComposedEvent(step, 10_000), 1e-5), 4)
    1.2586
    """

    name = "moments"
    summary = "follows the true loss of sampled noise, by its moments of whole order"

    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """Moments added up, and their tail bounded at the best order."""
        logarithms = sum(count * _log_moments(each) for each, count in counts.items())
        return float(np.min((logarithms + math.log(1 / delta)) / np.array(MOMENTS)))


@functools.lru_cache(maxsize=256)
def _log_moments(event: TalliedEvent) -> NDArray[np.float64]:
    """`alpha(l)` of one release for every `l` of `MOMENTS`.

    With `q` the rate, `s` the noise multiplier and `n = l + 1`, the moment is the mean over a
    binomial(n, q) number `k` of `exp(k (k - 1) / (2 s^2))`. Its excess over 1 is summed, in which
    all terms are positive: what is tiny keeps its digits.
    """
    from scipy.special import gammaln, logsumexp, xlog1py, xlogy

    rate, noise_multiplier = split(event)
    n = np.array(MOMENTS)[:, None] + 1
    k = np.arange(2, n.max() + 1)
    chosen = gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)
    drawn = chosen + xlogy(k, rate) + xlog1py(n - k, -rate)
    power = k * (k - 1) / (2 * noise_multiplier**2)
    excess = power + np.log(-np.expm1(-power))  # log(exp(power) - 1)
    terms = np.where(k <= n, drawn + excess, -np.inf)
    found: NDArray[np.float64] = np.logaddexp(0, logsumexp(terms, axis=1))
    found += ROUNDING * np.maximum(found, MOMENTS)
    return found
