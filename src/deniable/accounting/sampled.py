"""What one release on a sampled batch tells about a unit: pairs of distributions to tell apart.

A unit contributes a vector of norm 1 at most, and `N(x)` is noise of standard deviation `s` around
`x`. A unit is in the batch with probability `q`.

- *Added*: `(1 - q) N(0) + q N(1)` against `N(0)`, either way round. Poisson sampling, adding or
  removing: Zhu, Dong & Wang, 2022, "Optimal Accounting of Differential Privacy via Characteristic
  Function", theorem 11.
- *Replaced*: `(1 - q) N(0) + q N(1)` against `(1 - q) N(0) + q N(-1)`. Poisson sampling,
  replacement. For contributions `u` and `v` the divergence at each epsilon is the mean of a convex
  function of `exp(<u, z>) - c exp(<v, z>)` over normal `z`, which grows as the correlation of
  `<u, z>` and `<v, z>` falls (Slepian's inequality): opposite directions are the worst.
- *Displaced*: as *added*, at every epsilon the larger of the two ways round. Sampling without
  replacement, replacement, with the noise over how far the sum moves: a drawn unit takes the place
  of another (Balle, Barthe & Gaboardi, 2018, "Privacy Amplification by Subsampling", theorem 9). It
  bounds *replaced* too, by the convexity of the divergence (the same, theorem 2).

A truncated Poisson sample is Poisson while the others leave room in the batch. When they do not,
who is kept pushes another out, and the sum moves by 2 where it moved by 1. An observer who is told
which of the two it was sees a mixture of both losses, which bounds the truth. The probability that
there is no room is taken for as many others as there are examples, and `q` for that of being kept:
both are upper bounds, for a data set with one unit more or one less.

Two releases are on all data, with delta 0 and epsilon `1 / s`:

- *Laplace*: a Laplace density of scale `s` around 0, and around 1. A sum that moves by 1 in L1 norm
  moves each of its coordinates by a part of that, and the parts together tell no more than one
  coordinate that moves by all of it: of two, with `e` for epsilon and moves `u` and `v <= u`, delta
  is `1 - exp((e - u - v) / 2) * (1 + w)` with some `w >= 0`, against the same without `w`.
- *Pure*: two answers of which one is `exp(1 / s)` times as likely as the other, either way round.
  No other release of that epsilon tells more (Kairouz, Oh & Viswanath, 2015, theorem 2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from deniable.accounting.tally import TalliedEvent
from deniable.errors import UnknownEventError
from deniable.events import (
    GaussianEvent,
    LaplaceEvent,
    PoissonSampledEvent,
    PureEvent,
    SampledWithoutReplacementEvent,
    TruncatedPoissonSampledEvent,
)
from deniable.units import Neighbouring

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution


@dataclass(frozen=True)
class Pair:
    """Two distributions that bound what one release tells.

    Attributes:
        kind: which two, as above.
        rate: `q`, above 0.
        noise: `s`.
    """

    kind: Literal["added", "replaced", "displaced", "laplace", "pure"]
    rate: float
    noise: float


def pairs(event: TalliedEvent) -> list[tuple[float, Pair]]:
    """The pairs that a release is one of, each with its probability.

    Raises:
        UnknownEventError: an event of which none are known.

    >>> pairs(PoissonSampledEvent(0.01, GaussianEvent(1.0, Neighbouring.REPLACE)))
    [(1.0, Pair(kind='replaced', rate=0.01, noise=2.0))]
    """
    match event:
        case GaussianEvent(noise):
            return [(1.0, Pair("added", 1.0, noise))]
        case LaplaceEvent(noise):
            return [(1.0, Pair("laplace", 1.0, noise))]
        case PureEvent(epsilon):
            return [(1.0, Pair("pure", 1.0, 1 / epsilon))]
        case PoissonSampledEvent(rate, GaussianEvent(noise, Neighbouring.ADD_OR_REMOVE)):
            return [(1.0, Pair("added", rate, noise))]
        case PoissonSampledEvent(rate, GaussianEvent(noise, Neighbouring.REPLACE)):
            return [(1.0, Pair("replaced", rate, 2 * noise))]
        case SampledWithoutReplacementEvent(examples, batch_size, GaussianEvent(noise)):
            return [(1.0, Pair("displaced", batch_size / examples, noise))]
        case TruncatedPoissonSampledEvent(_, rate, _, GaussianEvent(noise, neighbouring) as inner):
            no_room = _no_room(event)
            [(_, with_room)] = pairs(PoissonSampledEvent(rate, inner))
            without = (
                Pair("added", rate, noise / 2)
                if neighbouring is Neighbouring.ADD_OR_REMOVE
                else Pair("displaced", rate, noise)
            )
            return [(1 - no_room, with_room), (no_room, without)]
    raise UnknownEventError(f"What {event!r} tells about a unit is not known.")


def losses(event: TalliedEvent, interval: float) -> PrivacyLossDistribution:
    """The privacy loss of one release, rounded up to multiples of `interval`."""
    (_, first), *rest = pairs(event)
    found = _losses(first, interval)
    for probability, pair in rest:
        if probability:
            found = _losses(pair, interval).compute_mixture(found, probability)
    return found


def _no_room(event: TruncatedPoissonSampledEvent) -> float:
    """The probability that so many others are drawn as fill the batch."""
    from scipy.stats import binom

    return float(binom.sf(event.max_batch_size - 1, event.examples, event.sampling_rate))


def _losses(pair: Pair, interval: float) -> PrivacyLossDistribution:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import (
        from_gaussian_mechanism,
        from_laplace_mechanism,
    )

    if pair.kind == "displaced":
        return _displaced(pair, interval)
    if pair.kind == "laplace":
        return from_laplace_mechanism(pair.noise, value_discretization_interval=interval)
    if pair.kind == "pure":
        return _pure(1 / pair.noise, interval)
    added = pair.kind == "added"
    return from_gaussian_mechanism(
        pair.noise,
        sampling_prob=pair.rate,
        value_discretization_interval=interval,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE
        if added
        else NeighboringRelation.REPLACE_ONE,
    )


def _pure(epsilon: float, interval: float) -> PrivacyLossDistribution:
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    highest = math.ceil(epsilon / interval)
    grid = np.arange(-highest, highest + 1)
    at = grid * interval
    # (exp(epsilon) - exp(at)) / (1 + exp(epsilon)), and below -epsilon, 1 - exp(at)
    likelier = -np.expm1(np.minimum(at - epsilon, 0)) / (1 + math.exp(-epsilon))
    divergences = np.maximum(likelier, -np.expm1(np.minimum(at, 0)))
    return PrivacyLossDistribution(create_pmf_pessimistic_connect_dots(interval, grid, divergences))


def _displaced(pair: Pair, interval: float) -> PrivacyLossDistribution:
    """The losses whose divergence is, at every epsilon, the larger one of adding and removing."""
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    ways = [
        GaussianPrivacyLoss(pair.noise, sampling_prob=pair.rate, adjacency_type=way)
        for way in (AdjacencyType.ADD, AdjacencyType.REMOVE)
    ]
    ends = [way.connect_dots_bounds() for way in ways]
    lowest = np.floor(min(each.epsilon_lower for each in ends) / interval)
    highest = np.ceil(max(each.epsilon_upper for each in ends) / interval)
    grid = np.arange(lowest, highest + 1).astype(int)
    divergences = np.max([way.get_delta_for_epsilon(grid * interval) for way in ways], axis=0)
    return PrivacyLossDistribution(create_pmf_pessimistic_connect_dots(interval, grid, divergences))
