"""Epsilon through privacy loss distributions: the tightest upper bound here."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from deniable.accounting import sampled
from deniable.accounting.base import Counting
from deniable.accounting.gaussian import gaussian_epsilon
from deniable.accounting.rdp import RdpAccountant
from deniable.accounting.tally import TalliedEvent, is_noiseless, noise_of
from deniable.events import GaussianEvent, RepeatAndSelectEvent

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

# What rounding in the Fourier transforms can take from delta, for each composed release: some 60
# times what was found against the exact curve of the Gaussian mechanism.
ROUNDING = 1e-15
MOST_RELEASES = 10**6
FINEST_INTERVAL, COARSEST_INTERVAL = 1e-7, 256.0
MOST_POINTS, MOST_COMPOSED_POINTS = 30_000, 2**19

# The most by which a coarse grid was seen to raise epsilon, relative to epsilon, and more.
RESOLUTION = 0.01


class PldAccountant(Counting):
    """Composes the distribution of the privacy loss itself, discretised upwards.

    Source: Koskela, Jalko & Honkela, 2020, "Computing Tight Differential Privacy Guarantees Using
    FFT"; Doroshenko et al., 2022, "Connect the Dots". Pessimistic estimate, computed by
    dp-accounting on a grid fitted to the events; `sampled` says what one release loses under each
    sampling and relation.

    Guarantees: exact for noise on the whole data, which composes to one release of less noise;
    otherwise less than `RESOLUTION` above the exact epsilon, where that is at least 0.01, and up to
    a few per cent where rare but large losses ask for a coarse grid (rates of 1e-4 and noise below
    1, over 1e5 steps). Never above the RDP bound, which stands in where the Fourier transforms
    would be too coarse: for more than a million releases, delta below `1e-14 * releases`, or losses
    in the hundreds; and where the best of many runs was released, of which no loss distribution is
    known.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(256 / 60_000, GaussianEvent(1.1))
    >>> round(PldAccountant().epsilon(SelfComposedEvent(step, 14_040), 1e-5), 3)
    2.38
    """

    name = "pld"
    summary = "keeps the whole distribution of the loss: all but rounding"

    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """Loss distributions composed, and never above the RDP bound."""
        bound = RdpAccountant()._of_counts(counts, delta)
        if bound == math.inf:
            return bound
        if all(isinstance(each, GaussianEvent) for each in counts):
            return float(gaussian_epsilon(_whole_noise(counts), delta))
        if bound == 0 or not is_composable(counts, delta):
            return bound
        composed = _composed(tuple(counts.items()), _interval(counts, bound))
        with np.errstate(over="ignore"):  # where the grid ends below epsilon: it answers infinity
            tight = composed.get_epsilon_for_delta(delta - ROUNDING * counts.total())
        return float(min(bound, tight)) if tight >= 0 else bound


def is_composable(counts: Counter[TalliedEvent], delta: float) -> bool:
    """Whether loss distributions are known, and the Fourier transforms fine enough for them."""
    if any(isinstance(each, RepeatAndSelectEvent) for each in counts):
        return False
    releases = counts.total()
    exact = 0 < releases <= MOST_RELEASES and releases * ROUNDING <= delta / 10
    return exact and not is_noiseless(counts) and _affordable(0, counts) <= COARSEST_INTERVAL


def _whole_noise(counts: Counter[TalliedEvent]) -> float:
    """The noise of the one Gaussian release that many on the whole data amount to."""
    return 1 / math.sqrt(sum(count / noise_of(event) ** 2 for event, count in counts.items()))


def _interval(counts: Counter[TalliedEvent], bound: float) -> float:
    """The grid of the privacy loss: fine beside the loss of one release, and beside epsilon.

    Connecting the dots adds at most `interval^2 / 4` to the variance of the loss of each release,
    so that a 25th of its standard deviation costs about 2e-4 of epsilon. A rare but large loss
    can ask for more points than are worth their time: the grid is then coarser, epsilon looser.
    Rounded to a power of two, so that neighbouring questions share their work.
    """
    deviation = math.sqrt(_variance(counts) / counts.total())
    fitted = min(deviation / 25, max(bound / 10_000, deviation / 200))
    return _affordable(fitted, counts)


def coarse_interval(counts: Counter[TalliedEvent]) -> float:
    """A grid for quick looks: it adds some 0.3% to epsilon, and contains every coarser one."""
    fitted = math.sqrt(_variance(counts) / counts.total()) / 4
    return _affordable(min(fitted, COARSEST_INTERVAL), counts)


def _affordable(interval: float, counts: Counter[TalliedEvent]) -> float:
    """The interval, or a wider one if that takes too many points, as a power of two."""
    possible = [
        (count * probability, pair)
        for event, count in counts.items()
        for probability, pair in sampled.pairs(event)
        if probability
    ]
    alone = max(_loss(pair, 10) for _, pair in possible) / MOST_POINTS
    rare = sum(times * pair.rate * _loss(pair, 3) ** 2 for times, pair in possible)
    composed = 20 * math.sqrt(max(_variance(counts), rare)) / MOST_COMPOSED_POINTS
    return float(2.0 ** math.floor(math.log2(max(interval, alone, composed, FINEST_INTERVAL))))


def _variance(counts: Counter[TalliedEvent]) -> float:
    """The variance of the composed privacy loss, roughly."""
    return sum(
        count * probability * _loss_variance(pair)
        for event, count in counts.items()
        for probability, pair in sampled.pairs(event)
    )


def _loss_variance(pair: sampled.Pair) -> float:
    """The variance of the privacy loss of one release, roughly."""
    full = pair.noise**-2
    if pair.kind in ("laplace", "pure"):
        return full
    exponent = min(full, 100.0)
    if pair.kind == "replaced":
        return min(4 * full, 4 * pair.rate**2 * math.sinh(exponent))
    return min(full, pair.rate**2 * math.expm1(exponent))


def _loss(pair: sampled.Pair, deviations: float) -> float:
    """The privacy loss of one release where the noise is so many standard deviations out."""
    if pair.kind in ("laplace", "pure"):
        return 1 / pair.noise
    full = deviations / pair.noise + pair.noise**-2 / 2
    return full if full > 100 else math.log1p(pair.rate * math.expm1(full))


@functools.lru_cache(maxsize=32)
def _composed(
    items: tuple[tuple[TalliedEvent, int], ...], interval: float
) -> PrivacyLossDistribution:
    distributions = [single(event, interval).self_compose(count) for event, count in items]
    return functools.reduce(lambda left, right: left.compose(right), distributions)


@functools.lru_cache(maxsize=64)
def single(event: TalliedEvent, interval: float) -> PrivacyLossDistribution:
    """The loss of one release, on a grid of multiples of `interval`."""
    return sampled.losses(event, interval)
