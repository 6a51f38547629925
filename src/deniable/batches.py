"""From drawn units to batches: a fast gather for tensors, a DataLoader for data sets."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from deniable.errors import PlanError
from deniable.events import Event, GaussianEvent
from deniable.grouping import Unit
from deniable.sampling import Sampler

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A physical part of a logical batch.

    Attributes:
        rows: how many rows of the data set it holds; 0 when nothing was drawn.
        sizes: how many of them make up each unit; None when every row is one.
        last: whether the logical batch is whole with it.
        event: what releasing the logical batch is.
        sampler_state: the sampler after the logical batch was drawn.
    """

    rows: int
    sizes: Sequence[int] | None
    last: bool
    event: Event
    sampler_state: dict[str, Any]


class Drawn:
    """Draws logical batches and cuts them into pieces of whole units, of at most `rows` rows.

    A unit of more rows than that is a piece of its own. A DataLoader reads ahead, so each piece is
    remembered, in order, with the sampler's state.
    """

    def __init__(
        self, sampler: Sampler, noise: GaussianEvent, unit: Unit, steps: int, rows: int | None
    ) -> None:
        self.sampler, self.noise, self.unit = sampler, noise, unit
        self.steps, self.rows = steps, rows
        self.pieces: deque[Piece] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a piece; an empty batch is one piece of no rows."""
        return (indices.tolist() for indices in self.indices())

    def indices(self) -> Iterator[Indices]:
        """The same as arrays."""
        for _ in range(self.steps):
            drawn, sizes = self.unit.rows(self.sampler.draw(), self.sampler.generator)
            event, state = self.sampler.event(self.noise), self.sampler.state()
            if self.rows is None or len(drawn) <= self.rows:
                self.pieces.append(Piece(len(drawn), sizes, True, event, state))
                yield drawn
                continue
            ends = np.cumsum(np.ones(len(drawn), int) if sizes is None else sizes)
            cuts = _cuts(ends, self.rows)
            for first, stop in pairwise(cuts):
                start = ends[first - 1] if first else 0
                piece = drawn[start : ends[stop - 1]]
                within = None if sizes is None else sizes[first:stop]
                last = stop == cuts[-1]
                self.pieces.append(Piece(len(piece), within, last, event, state))
                yield piece


def _cuts(ends: NDArray[np.int64], rows: int) -> list[int]:
    """Where pieces of at most `rows` rows begin, in units, and where the last one ends."""
    cuts = [0]
    while cuts[-1] < len(ends):
        start = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(ends, start + rows, side="right"))))
    return cuts


def examples_in(data: Any) -> int:
    """How many examples a data set holds.

    Raises:
        PlanError: it has no length, or its tensors disagree.
    """
    tensors = tensors_of(data)
    if tensors is None:
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise PlanError(
                "private.batches expects tensors or a map-style data set (with __len__ and "
                f"__getitem__), got {type(data).__name__}. An iterable stream cannot be sampled "
                "at random."
            )
        return len(data)
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) != 1:
        raise PlanError(f"Tensors of one data set must have the same length, got {lengths}.")
    return lengths.pop()


def tensors_of(data: Any) -> tuple[Tensor, ...] | None:
    """The tensors of a data set that is nothing else; None for every other data set."""
    if isinstance(data, Tensor):
        return (data,)
    if type(data) is TensorDataset:
        return data.tensors
    if isinstance(data, (tuple, list)) and data and all(isinstance(each, Tensor) for each in data):
        return tuple(data)
    return None


def batches(data: Any, drawn: Drawn, workers: int = 0) -> Iterator[tuple[Piece, Any]]:
    """Pieces and their rows, in the order drawn."""
    tensors = tensors_of(data)
    if tensors is None:
        yield from _from_data_set(data, drawn, workers)
        return
    for indices in drawn.indices():
        gathered = tuple(
            each.index_select(0, torch.from_numpy(indices).to(each.device)) for each in tensors
        )
        batch = gathered[0] if isinstance(data, Tensor) else gathered
        yield drawn.pieces.popleft(), drawn.unit.augment(batch)


def _from_data_set(data: Dataset[Any], drawn: Drawn, workers: int) -> Iterator[tuple[Piece, Any]]:
    loader = DataLoader(
        data,
        batch_sampler=drawn,
        num_workers=workers,
        collate_fn=_Collate(data),
    )
    for batch in loader:
        yield drawn.pieces.popleft(), drawn.unit.augment(batch)


class _Collate:
    """The default collation, which also knows what an empty batch looks like."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, samples: Sequence[Any]) -> Any:
        if samples:
            return default_collate(list(samples))
        template = default_collate([self.data[0]])
        return tree_map(lambda leaf: leaf[:0] if isinstance(leaf, Tensor) else leaf, template)


def fingerprint(data: Any, rows: int = 64) -> str:
    """A short digest that tells one data set from another: its shape and evenly spaced rows.

    For a data set that is not made of tensors, its length alone: its rows may be augmented anew at
    each reading.
    """
    digest = hashlib.sha256(str(examples_in(data)).encode())
    for tensor in tensors_of(data) or ():
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        spaced = torch.linspace(0, len(tensor) - 1, min(rows, len(tensor))).long()
        sample = tensor.detach()[spaced.to(tensor.device)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()[:16]
