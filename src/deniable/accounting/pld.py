"""Epsilon through privacy loss distributions: the tightest upper bound here."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING

from deniable.accounting.rdp import RdpAccountant
from deniable.accounting.tally import SingleEvent, is_noiseless, split, tally
from deniable.events import Event

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

# What rounding in the Fourier transforms can take from delta, for each composed release: some 60
# times what was found against the exact curve of the Gaussian mechanism.
ROUNDING = 1e-15
MOST_RELEASES = 10**6
FINEST_INTERVAL = 1e-7
MOST_POINTS = 30_000


class PldAccountant:
    """Composes the distribution of the privacy loss itself, discretised upwards.

    Source: Koskela, Jalko & Honkela, 2020, "Computing Tight Differential Privacy Guarantees Using
    FFT"; Doroshenko et al., 2022, "Connect the Dots". Pessimistic estimate, add/remove relation.
    Computed by dp-accounting on a grid fitted to the events.

    Guarantees: never above the RDP bound, which stands in where the Fourier transforms would be too
    coarse: for more than a million releases, or delta below `1e-14 * releases`.
    """

    name = "pld"

    def epsilon(self, event: Event, delta: float) -> float:
        """The epsilon at which `event` is (epsilon, delta)-private; infinite without noise.

        Raises:
            AccountingError: delta is not strictly between 0 and 1.
            UnknownEventError: an event that is not known here.

        >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
        >>> step = PoissonSampledEvent(256 / 60_000, GaussianEvent(1.1))
        >>> round(PldAccountant().epsilon(SelfComposedEvent(step, 14_040), 1e-5), 3)
        2.38
        """
        bound = RdpAccountant().epsilon(event, delta)
        counts = tally(event)
        if not 0 < bound < math.inf or not is_composable(counts, delta):
            return bound
        step, allowance = _interval(counts, bound), ROUNDING * counts.total()
        tight = _composed(tuple(counts.items()), step).get_epsilon_for_delta(delta - allowance)
        return min(bound, tight) if tight >= 0 else bound


def is_composable(counts: Counter[SingleEvent], delta: float) -> bool:
    """Whether the Fourier transforms are fine enough for these releases."""
    releases = counts.total()
    exact = 0 < releases <= MOST_RELEASES and releases * ROUNDING <= delta / 10
    return exact and not is_noiseless(counts)


def _interval(counts: Counter[SingleEvent], bound: float) -> float:
    """The grid of the privacy loss: fine beside the loss of one release, and beside epsilon.

    Connecting the dots adds at most `interval^2 / 4` to the variance of the loss of each release,
    so that a 25th of its standard deviation costs about 2e-4 of epsilon. A rare but large loss
    can ask for more points than are worth their time: the grid is then coarser, epsilon looser.
    Rounded to a power of two, so that neighbouring questions share their work.
    """
    deviation = _deviation(counts)
    fitted = min(deviation / 25, max(bound / 10_000, deviation / 200))
    return _affordable(fitted, counts)


def coarse_interval(counts: Counter[SingleEvent]) -> float:
    """A grid for quick looks: it adds some 0.3% to epsilon, and contains every coarser one."""
    return _affordable(_deviation(counts) / 4, counts)


def _deviation(counts: Counter[SingleEvent]) -> float:
    """The standard deviation of the loss of one release, over all of them."""
    variance = sum(count * _loss_variance(event) for event, count in counts.items())
    return math.sqrt(variance / counts.total())


def _affordable(interval: float, counts: Counter[SingleEvent]) -> float:
    """The interval, or a wider one that needs no more than `MOST_POINTS`, as a power of two."""
    fewest = max(map(_largest_loss, counts)) / MOST_POINTS
    return float(2.0 ** math.floor(math.log2(max(interval, fewest, FINEST_INTERVAL))))


def _loss_variance(event: SingleEvent) -> float:
    """The variance of the privacy loss of one release, roughly."""
    rate, noise_multiplier = split(event)
    full = noise_multiplier**-2
    return min(full, rate**2 * math.expm1(min(full, 100.0)))


def _largest_loss(event: SingleEvent) -> float:
    """The privacy loss of one release where the noise is 10 standard deviations out."""
    rate, noise_multiplier = split(event)
    full = 10 / noise_multiplier + noise_multiplier**-2 / 2
    return full if full > 100 else math.log1p(rate * math.expm1(full))


@functools.lru_cache(maxsize=32)
def _composed(
    items: tuple[tuple[SingleEvent, int], ...], interval: float
) -> PrivacyLossDistribution:
    distributions = [single(event, interval).self_compose(count) for event, count in items]
    return functools.reduce(lambda left, right: left.compose(right), distributions)


@functools.lru_cache(maxsize=64)
def single(event: SingleEvent, interval: float) -> PrivacyLossDistribution:
    """The loss of one release, on a grid of multiples of `interval`."""
    from dp_accounting.pld import privacy_loss_distribution

    rate, noise_multiplier = split(event)
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=rate, value_discretization_interval=interval
    )
