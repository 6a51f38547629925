"""Privacy bugs to plant into the code, each of which an audit must find.

Each is a context in which deniable does what its name says, and otherwise what it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deniable.bounds import Clip, Gradients, Limited, Observed
from deniable.bounds.views import Scaled
from deniable.noise import Gaussian
from deniable.noise.generators import KeystreamGenerator
from deniable.sampling import PoissonSampler
from deniable.units import BoundedSum


@contextmanager
def half_the_noise(_: int) -> Iterator[None]:
    """Noise is scaled to half of what was recorded."""
    from deniable.noise import gaussian

    scale_for = gaussian.scale_for

    def half(*arguments: Any) -> float:
        return scale_for(*arguments) / 2

    with patch.object(gaussian, "scale_for", half):
        yield


@contextmanager
def clipping_after_averaging(_: int) -> Iterator[None]:
    """The mean gradient is clipped, not each unit's."""

    def clipped(
        bound: Clip, gradients: Gradients, kept: object = None
    ) -> tuple[BoundedSum, Observed]:
        norms, units = gradients.norms(), max(1, gradients.units)
        sums = dict(gradients.weighted_sums(torch.ones_like(norms)))
        mean = float(sum(each.square().sum() for each in sums.values())) ** 0.5 / units
        factor = bound.norm / max(bound.norm, mean)
        of_each = torch.full_like(norms, factor)
        sensitivity = bound.sensitivity(gradients.parameters)
        return BoundedSum({name: each * factor for name, each in sums.items()}, sensitivity), (
            Observed(norms, of_each)
        )

    with patch.object(Clip, "__call__", clipped):
        yield


@contextmanager
def a_layer_without_noise(run: int) -> Iterator[None]:
    """One parameter is released as it was summed: another one in each run."""
    add = Gaussian.add

    def but_one(noise: Gaussian, bounded: BoundedSum, generator: Any) -> dict[str, Tensor]:
        noisy = add(noise, bounded, generator)
        names = list(bounded.sums)
        spared = names[run % len(names)]
        if len(names) > 1:
            noisy[spared] = bounded.sums[spared].clone()
        return noisy

    with patch.object(Gaussian, "add", but_one):
        yield


@contextmanager
def an_unclipped_bias(_: int) -> Iterator[None]:
    """What clips a gradient leaves its biases as they are."""
    limit = Clip.limit

    def but_biases(bound: Clip, gradients: Gradients) -> Limited:
        factors = limit(bound, gradients).factors
        by_name = {
            name: torch.ones_like(factors) if name.endswith("bias") else factors
            for name in gradients.parameters
        }
        return Limited(Scaled(gradients, by_name), factors)

    with patch.object(Clip, "limit", but_biases):
        yield


@contextmanager
def shuffled_not_poisson(_: int) -> Iterator[None]:
    """Batches are cut from shuffled epochs, and recorded as Poisson samples."""
    left: dict[int, NDArray[np.int64]] = {}

    def cut(sampler: PoissonSampler) -> NDArray[np.int64]:
        order = left.get(id(sampler), np.empty(0, np.int64))
        if len(order) < sampler.batch_size:
            order = sampler.generator.permutation(sampler.examples)
        left[id(sampler)] = order[sampler.batch_size :]
        return np.sort(order[: sampler.batch_size])

    with patch.object(PoissonSampler, "draw", cut):
        yield


@contextmanager
def noise_again_after_resuming(_: int) -> Iterator[None]:
    """A resumed session begins its stream of noise anew."""
    restore = KeystreamGenerator.restore

    def rewound(generator: KeystreamGenerator, state: Any) -> None:
        restore(generator, {**state, "position": 0})

    with patch.object(KeystreamGenerator, "restore", rewound):
        yield


BUGS: dict[str, Callable[[int], AbstractContextManager[None]]] = {
    "noise scaled by half": half_the_noise,
    "clipping after averaging": clipping_after_averaging,
    "a layer without noise": a_layer_without_noise,
    "an unclipped bias": an_unclipped_bias,
    "shuffled, recorded as Poisson": shuffled_not_poisson,
    "noise again after resuming": noise_again_after_resuming,
}


def correct(_: int) -> AbstractContextManager[None]:
    """The code as it is."""
    return nullcontext()
