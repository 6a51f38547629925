"""Exposure: how much likelier a model finds a secret than it would by chance, in bits.

Carlini, Liu, Erlingsson, Kos & Song (2019, "The Secret Sharer: Evaluating and Testing Unintended
Memorization in Neural Networks", section 4). A secret was drawn at random from a space of secrets.
Order the whole space by the loss that a model gives to each; the exposure of the secret is

    log2(size of the space) - log2(its rank).

Of a model that has never met the secret the rank is uniform, so that exposure exceeds e bits with
probability 2^-e at most, and is 1.44 bits on average. One that names it first has exposure
log2(size), the most there is. It is an attack and no bound: a low exposure proves nothing.

The space is too large to be gone through, so there are three ways to the rank. They take losses,
from whatever model, and need numpy and scipy alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from deniable.errors import SettingsError

Losses = Sequence[float] | npt.NDArray[np.floating]


def by_rank(rank: int, space: int) -> float:
    """The exposure of a secret whose rank is known (definition 3 of the paper).

    Args:
        rank: how many secrets of the space have its loss or a smaller one, itself included.
        space: how many secrets there are.

    Raises:
        SettingsError: the rank is not one of the space.

    >>> by_rank(1, 1024), by_rank(512, 1024)
    (10.0, 1.0)
    """
    if not 1 <= rank <= space:
        raise SettingsError(f"A rank among {space:,} secrets must lie from 1 to that, got {rank}.")
    return math.log2(space) - math.log2(rank)


def interpolated(loss: float, others: Losses, space: int) -> float:
    """The exposure by the share of other secrets with such a small loss (section 4.3 of the paper).

    The share is (1 + how many others have its loss or a smaller one) / (1 + how many others). Of a
    secret that a model has never met, and others drawn independently from the same space, it
    is at most u with probability at most u, whatever the model is. No exposure beyond
    log2(1 + number of others) can be seen.

    Args:
        loss: of the secret.
        others: losses of secrets drawn uniformly from the space.
        space: how many secrets there are.

    Raises:
        SettingsError: no others, or a loss that is not a number.

    >>> interpolated(0.5, [1.0, 2.0, 3.0], space=1000)
    2.0
    """
    losses = _checked(loss, others)
    share = (1 + np.count_nonzero(losses <= loss)) / (1 + len(losses))
    return min(-math.log2(share), math.log2(space))


def extrapolated(loss: float, others: Losses, space: int) -> float:
    """The exposure by a skew normal distribution fitted to the others (section 4.3 of the paper).

    It reaches beyond what sampling can see, as far as the losses follow that distribution.

    Args:
        loss: of the secret.
        others: losses of secrets drawn uniformly from the space; at least 100.
        space: how many secrets there are; exposure is at most its logarithm.

    Raises:
        SettingsError: too few others, or a loss that is not a number.

    >>> losses = np.random.default_rng(0).normal(20.0, 1.0, 4000)
    >>> round(extrapolated(18.0, losses, space=10**9)), extrapolated(2.0, losses, space=1024)
    (5, 10.0)
    """
    losses = _checked(loss, others, at_least=100)
    most = math.log2(space)
    if np.ptp(losses) == 0:
        return most if loss < losses[0] else 0.0
    with warnings.catch_warnings():
        # The search for the best fit tries values for which the density is not defined.
        warnings.simplefilter("ignore", RuntimeWarning)
        fitted = stats.skewnorm(*stats.skewnorm.fit(losses))
        share = float(fitted.cdf(loss))
    return most if share <= 0 else min(max(0.0, -math.log2(share)), most)


def chance(exposures: Losses) -> float:
    """How likely secrets that a model has never met would look so exposed, taken together.

    The p-value of Fisher's test: of such a secret exposure times ln 2 is exponential at most, and
    the sum of independent ones follows a gamma distribution.

    Args:
        exposures: by `by_rank` or `interpolated`, of secrets drawn independently.

    Raises:
        SettingsError: no exposures, or one that is not a number.

    >>> round(chance([1.0, 2.0, 1.5]), 2), chance([25.0, 25.0]) < 1e-10
    (0.4, True)
    """
    values = _checked(0.0, exposures)
    return float(stats.gamma.sf(values.sum() * math.log(2), len(values)))


def _checked(loss: float, others: Losses, at_least: int = 1) -> npt.NDArray[np.float64]:
    losses = np.asarray(others, np.float64)
    if losses.ndim != 1 or len(losses) < at_least:
        raise SettingsError(
            f"At least {at_least} values in one row are needed, got shape {losses.shape}."
        )
    if not (np.isfinite(losses).all() and math.isfinite(loss)):
        raise SettingsError("Every value must be a finite number.")
    return losses
