"""Epsilon while steps are being taken: a bound so quick that it can be read at every one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deniable.accounting.accountants import accountant_named
from deniable.accounting.pld import ROUNDING, coarse_interval, is_composable, single
from deniable.accounting.tally import TalliedEvent, check_delta, tally
from deniable.events import Event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TAIL = 1e-4  # of delta: the mass that may lie outside the window that is looked at
ORDERS = tuple(2.0**power for power in range(-3, 13))  # at which Chernoff's bound is taken
LARGEST = 700.0  # beyond it, exponentials leave the range of float64


class Meter:
    """Epsilon of any part of a whole that is known beforehand, such as the steps of a plan.

    The privacy loss distributions are those of `PldAccountant`, on a grid about eight times
    coarser, and their Fourier transforms are kept: a look at other counts of the same events costs
    one inverse transform, about a millisecond. Source: Koskela, Jalko & Honkela, 2020, "Computing
    Tight Differential Privacy Guarantees Using FFT", section 5; its tail is bounded by Chernoff.

    Guarantees: never below what the accountant states for the same event (coarser grids that
    contain each other dominate: Doroshenko et al., 2022, "Connect the Dots", section 4), and
    mostly within 1% of it. What is no part of the whole, and every accountant but "pld", is
    answered by the accountant itself.

    Args:
        whole: what may be released in all.
        delta: of the guarantee.
        accountant: whose epsilon is bounded.
        epsilon: what the whole costs, where that is known: no part of it costs more.

    Raises:
        AccountingError: delta is out of range, or there is no such accountant.

    >>> from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
    >>> step = PoissonSampledEvent(256 / 60_000, GaussianEvent(1.1))
    >>> meter = Meter(SelfComposedEvent(step, 14_040), delta=1e-5)
    >>> round(meter.epsilon(SelfComposedEvent(step, 7_020)), 2)
    1.64
    """

    def __init__(
        self, whole: Event, delta: float, accountant: str = "pld", epsilon: float = math.inf
    ) -> None:
        check_delta(delta)
        self._accountant = accountant_named(accountant)
        self._whole, self._delta, self._most = tally(whole), delta, epsilon
        self._directions: tuple[_Direction, ...] | None = None

    def epsilon(self, event: Event) -> float:
        """A bound on what the accountant states for `event`.

        Raises:
            UnknownEventError: an event that is not known here.
        """
        counts = tally(event)
        if not counts <= self._whole:
            return self._accountant.epsilon(event, self._delta)
        if not counts:
            return 0.0
        if counts == self._whole and math.isfinite(self._most):
            return self._most
        if self._accountant.name != "pld" or not is_composable(self._whole, self._delta):
            return min(self._most, self._accountant.epsilon(event, self._delta))
        if self._directions is None:
            self._directions = _directions(self._whole, TAIL * self._delta)
        delta = self._delta - ROUNDING * counts.total()
        found = max(each.epsilon(counts, delta) for each in self._directions)
        if math.isinf(found):
            found = self._accountant.epsilon(event, self._delta)
        return min(self._most, found)


def _directions(whole: Counter[TalliedEvent], tail: float) -> tuple[_Direction, ...]:
    """Removing a unit and adding one: either may lose more."""
    interval = coarse_interval(whole)
    found = {event: single(event, interval) for event in whole}
    return tuple(
        _Direction({event: _Losses.of(pmf) for event, pmf in pmfs.items()}, whole, interval, tail)
        for pmfs in (
            {event: each._pmf_remove for event, each in found.items()},
            {event: each._pmf_add for event, each in found.items()},
        )
    )


@dataclass(frozen=True)
class _Losses:
    """The privacy losses of one release, in whole intervals of the grid.

    Attributes:
        lowest: the first of them.
        masses: the probability of it and of those that follow.
        infinite: the probability of none of them.
    """

    lowest: int
    masses: Floats
    infinite: float

    @classmethod
    def of(cls, pmf: Any) -> _Losses:
        dense = pmf.to_dense_pmf()
        return cls(dense._lower_loss, np.asarray(dense._probs), dense._infinity_mass)

    def log_moments(self, tilts: Floats) -> Floats:
        """The logarithm of the sum of `mass * exp(tilt * place)`, for each tilt."""
        from scipy.special import logsumexp

        exponents = np.outer(tilts, np.arange(len(self.masses)))
        moments: Floats = logsumexp(exponents, axis=1, b=self.masses)
        return moments


class _Direction:
    """The composed loss in one direction, for any counts up to those of the whole."""

    def __init__(
        self,
        losses: dict[TalliedEvent, _Losses],
        whole: Counter[TalliedEvent],
        interval: float,
        tail: float,
    ) -> None:
        from scipy.fft import next_fast_len

        self._losses, self._interval, self._tail = losses, interval, tail
        self._tilts = np.array(ORDERS) * interval
        self._upper = {event: each.log_moments(self._tilts) for event, each in losses.items()}
        self._lower = {event: each.log_moments(-self._tilts) for event, each in losses.items()}
        low, high = self._window(whole)
        longest = max(len(each.masses) for each in losses.values())
        self._size = next_fast_len(max(high - low + 1, longest), real=True)
        self._transforms = {event: self._transform(each) for event, each in losses.items()}

    def epsilon(self, counts: Counter[TalliedEvent], delta: float) -> float:
        """The least epsilon at which the composed loss exceeds it by `delta` at most."""
        low, high = self._window(counts)
        composed = np.exp(sum(count * self._transforms[each] for each, count in counts.items()))
        masses = np.roll(np.fft.irfft(composed, self._size), -low)[: high - low + 1]
        lowest = low + sum(count * self._losses[each].lowest for each, count in counts.items())
        finite = sum(
            count * math.log1p(-self._losses[each].infinite) for each, count in counts.items()
        )
        losses = np.arange(lowest, lowest + len(masses), dtype=np.float64) * self._interval
        return _epsilon(losses, np.maximum(masses, 0), self._tail - math.expm1(finite), delta)

    def _transform(self, losses: _Losses) -> NDArray[np.complex128]:
        """The logarithm of the Fourier transform: composing is adding."""
        transform = np.fft.rfft(losses.masses, self._size)
        transform[transform == 0] = np.finfo(np.float64).tiny
        return np.log(transform)

    def _window(self, counts: Counter[TalliedEvent]) -> tuple[int, int]:
        """Places outside of which the composed loss has mass `tail` at most (Chernoff).

        It widens with every count, so what is inside for the whole is so for its parts.
        """
        room = math.log(2 / self._tail)
        above = sum(count * self._upper[event] for event, count in counts.items())
        below = sum(count * self._lower[event] for event, count in counts.items())
        last = sum(count * (len(self._losses[event].masses) - 1) for event, count in counts.items())
        high = min(last, math.ceil(np.min((above + room) / self._tilts)))
        low = max(0, math.floor(np.max((below + room) / -self._tilts)))
        return low, high


def _epsilon(losses: Floats, masses: Floats, infinite: float, delta: float) -> float:
    """The epsilon that the losses exceed by `delta`: their hockey-stick divergence, inverted.

    Infinite where it lies above `LARGEST`.
    """
    infinite += float(masses[losses > LARGEST].sum())
    looked_at = (losses > 0) & (losses <= LARGEST)
    losses, masses = losses[looked_at][::-1], masses[looked_at][::-1]
    upper, lower = infinite + np.cumsum(masses), np.cumsum(masses * np.exp(-losses))
    exceeding = upper - np.exp(losses) * lower > delta
    if infinite > delta:
        return math.inf
    above = int(np.argmax(exceeding)) if exceeding.any() else len(losses)
    if above == 0 or upper[above - 1] - delta <= lower[above - 1]:
        return 0.0
    return math.log((upper[above - 1] - delta) / lower[above - 1])
