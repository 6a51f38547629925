"""The composition theorems: all that they know of one release is its (epsilon, delta).

Each release gets a share of delta and costs the epsilon that its noise has there (one with delta 0
needs no share); the theorems say what they cost together. What is lost is everything else about the
noise, which the accountants of `moments`, `rdp` and `pld` keep.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deniable.accounting.base import Counting
from deniable.accounting.gaussian import gaussian_epsilon
from deniable.accounting.sampled import pairs
from deniable.accounting.tally import TalliedEvent, is_pure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# How much of delta goes to the releases; the rest is what the strong theorem spends on top. The
# best of these is taken, and at 1 nothing is left, so that the epsilons just add up.
SPLITS = np.array([*np.arange(1, 20) / 20, 0.98, 0.99, 0.999, 1])


class BasicAccountant(Counting):
    """Basic composition: epsilons add up, and so do deltas.

    Source: Dwork et al., 2006, "Our Data, Ourselves", theorem 1; the epsilon of one release is the
    exact one of its Gaussian noise (Balle & Wang, 2018). Of sampling, it looks at how far a unit
    can move the sum and no more, so that this holds for batches drawn in any way.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(0.01, GaussianEvent(4.0))
    >>> round(BasicAccountant().epsilon(SelfComposedEvent(step, 10_000), 1e-5))
    13956
    """

    name = "basic"
    summary = "adds up the steps, as if every one went as badly as it can"

    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """Epsilons at their shares of delta, added up."""
        return _basic(_Releases.of(counts), delta)


class StrongAccountant(Counting):
    """Strong composition: it is unlikely that all steps go badly, so epsilon grows like a root.

    Source: Kairouz, Oh & Viswanath, 2015, "The Composition Theorem for Differential Privacy",
    theorem 3.5, which is Dwork, Rothblum & Vadhan, 2010, "Boosting and Differential Privacy",
    theorem III.3, with better constants and for steps that differ. Holds for batches drawn in any
    way, as basic composition does.

    Guarantees: never above basic composition.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(0.01, GaussianEvent(4.0))
    >>> round(StrongAccountant().epsilon(SelfComposedEvent(step, 10_000), 1e-5))
    9191
    """

    name = "strong"
    summary = "hardly all steps go badly; but of each it knows epsilon and delta only"

    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """Epsilons at their shares of delta, composed by theorem 3.5."""
        return _strong(_Releases.of(counts), delta)


class AmplifiedAccountant(Counting):
    """Strong composition of steps that each see a random part of the data.

    A release at (epsilon, delta) on a batch that each unit joins with probability q is
    (log(1 + q (exp(epsilon) - 1)), q delta)-private.

    Source: Balle, Barthe & Gaboardi, 2018, "Privacy Amplification by Subsampling", theorems 2, 8
    and 9, on the pairs of `sampled`. Composed as in `StrongAccountant`. Where nothing is known of
    how a batch was drawn, q is 1.

    Guarantees: never above strong composition.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(0.01, GaussianEvent(4.0))
    >>> round(AmplifiedAccountant().epsilon(SelfComposedEvent(step, 10_000), 1e-5), 2)
    14.19
    """

    name = "amplified"
    summary = "the same, of steps that tell less because each sees a random batch"

    def _of_counts(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """The same, each amplified by its sampling before."""
        return _amplified(_Releases.of(counts), delta)


@dataclass(frozen=True)
class _Releases:
    """What was released: one entry for each kind, every array of shape (kinds, 1)."""

    rate: Array
    noise: Array
    pure: Array
    count: Array

    @classmethod
    def of(cls, counts: Counter[TalliedEvent]) -> _Releases:
        rows = [(*_worst(event), is_pure(event), count) for event, count in counts.items()]
        return cls(*np.array(rows, float).T[..., None])

    def shares(self, delta: float) -> Array:
        """What each release of a kind gets of `delta`; a release with less noise gets more.

        In proportion to 1 / noise, which is close to the cheapest way to share it out.
        """
        weights = np.where(self.pure, 0, 1 / self.noise)
        shares: Array = delta * weights / (np.sum(self.count * weights) or 1)
        return shares

    def epsilons(self, shares: Array) -> Array:
        """What one release of each kind costs at its share of delta."""
        found: Array = np.where(
            self.pure,
            1 / self.noise,
            gaussian_epsilon(self.noise, np.where(self.pure, 0.5, shares)),
        )
        return found


def _worst(event: TalliedEvent) -> tuple[float, float]:
    """The chance to be drawn, and the noise over the furthest that a drawn unit moves the sum."""
    possible = [pair for probability, pair in pairs(event) if probability]
    noises = [each.noise / 2 if each.kind == "replaced" else each.noise for each in possible]
    return possible[0].rate, min(noises)


def _basic(releases: _Releases, delta: float) -> float:
    return float(np.sum(releases.count * releases.epsilons(releases.shares(delta))))


def _strong(releases: _Releases, delta: float) -> float:
    shares = releases.shares(delta) * SPLITS
    return _kairouz(releases.epsilons(shares), releases.count, delta)


def _amplified(releases: _Releases, delta: float) -> float:
    shares = releases.shares(delta) * SPLITS / releases.rate
    sampled = _sampled(releases.epsilons(shares), releases.rate)
    return _kairouz(sampled, releases.count, delta)


def _sampled(epsilon: Array, rate: Array) -> Array:
    """`log(1 + rate * (exp(epsilon) - 1))`; beyond 500 an upper bound that needs no larger exp."""
    small = np.minimum(epsilon, 500)
    found: Array = np.log1p(rate * np.expm1(small)) + (epsilon - small)
    return found


def _kairouz(epsilon: Array, count: Array, delta: float) -> float:
    """The least of theorem 3.5's three bounds, for the best of `SPLITS`.

    Args:
        epsilon: of one release, shape (kinds, splits).
        count: how many there are, shape (kinds, 1).
        delta: what all of it may cost.
    """
    added = np.sum(count * epsilon, axis=0)
    mean = np.sum(count * epsilon * np.tanh(epsilon / 2), axis=0)
    square = np.sum(count * epsilon**2, axis=0)
    mean, square, slack = mean[:-1], square[:-1], delta * (1 - SPLITS[:-1])
    tail = np.minimum(np.log(1 / slack), np.log(math.e + np.sqrt(square) / slack))
    return float(min(np.min(added), np.min(mean + np.sqrt(2 * square * tail))))
