"""Who is in a batch, and the event that this is (contract 4). One file a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deniable.errors import PlanError
from deniable.sampling.base import Sampler, Sampling
from deniable.sampling.fixed_size import FixedSizeSampler
from deniable.sampling.own_loader import OwnLoader
from deniable.sampling.poisson import PoissonSampler
from deniable.sampling.shuffled import ShuffledSampler
from deniable.sampling.truncated_poisson import TruncatedPoissonSampler

if TYPE_CHECKING:
    import numpy as np

SAMPLINGS: dict[str, type[Sampling]] = {
    each.name: each
    for each in (
        PoissonSampler,
        TruncatedPoissonSampler,
        FixedSizeSampler,
        ShuffledSampler,
        OwnLoader,
    )
}


def make_sampling(
    name: str,
    examples: int,
    batch_size: int,
    max_batch_size: int | None = None,
    generator: np.random.Generator | None = None,
) -> Sampling:
    """The sampling of a name, for these sizes.

    Args:
        name: one of `SAMPLINGS`.
        examples: the public number of examples.
        batch_size: the expected batch size, or the exact one where it is fixed.
        max_batch_size: the largest batch; of "truncated-poisson" alone.
        generator: the stream that decides who joins; keyed by the operating system if not given.

    Raises:
        PlanError: there is none of that name, or a size does not fit it.

    >>> make_sampling("fixed-size", examples=100, batch_size=10).batch_size
    10
    """
    if name not in SAMPLINGS:
        raise PlanError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {name!r}.")
    if name == TruncatedPoissonSampler.name:
        if max_batch_size is None:
            raise PlanError(
                f"{name} needs max_batch_size, the largest batch. Take batch_size + 5 * "
                "sqrt(batch_size), which is almost never reached."
            )
        return TruncatedPoissonSampler(
            examples, batch_size, generator, max_batch_size=max_batch_size
        )
    if max_batch_size is not None:
        raise PlanError(
            f"max_batch_size belongs to sampling='{TruncatedPoissonSampler.name}'; {name} knows "
            f"none, got {max_batch_size!r}."
        )
    kind = SAMPLINGS[name]
    return (
        kind(examples, batch_size, generator)
        if issubclass(kind, Sampler)
        else kind(examples, batch_size)
    )


__all__ = [
    "SAMPLINGS",
    "FixedSizeSampler",
    "OwnLoader",
    "PoissonSampler",
    "Sampler",
    "Sampling",
    "ShuffledSampler",
    "TruncatedPoissonSampler",
    "make_sampling",
]
