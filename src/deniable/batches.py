"""From drawn units to batches, and the handshake: what arrives is what was drawn.

Tensors are gathered directly; data sets are read through a DataLoader, by workers if asked, whose
batch sampler is the plan's. A loader reads ahead, so what was drawn is remembered in order and
compared with what arrives.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, TensorDataset, default_collate

from deniable.errors import PlanError, StepError
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


class DrawnBatches(torch.utils.data.Sampler[list[int]]):
    """A batch sampler for any DataLoader: draws logical batches, in pieces of at most `rows` rows.

    Pieces are of whole units; a unit of more rows is a piece of its own. Each is remembered, in
    order, until it arrives. Made by `PrivateSession.batch_sampler`.

    Args:
        sampler: who decides.
        noise: what is released of each batch.
        unit: what is drawn.
        rows: the most rows of a piece; None: every batch is whole.
        steps: how many batches a pass through this sampler draws; asked when it begins.
        begin: called when a pass begins.
    """

    def __init__(
        self,
        sampler: Sampler,
        noise: GaussianEvent,
        unit: Unit,
        rows: int | None,
        steps: Callable[[], int],
        begin: Callable[[], None],
    ) -> None:
        self.sampler, self.noise, self.unit = sampler, noise, unit
        self.rows, self._steps, self._begin = rows, steps, begin
        self._drawn: deque[Piece] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a piece; an empty batch is one piece of no rows."""
        return (indices.tolist() for indices in self.indices())

    def __len__(self) -> int:
        """How many batches the next pass draws; unknown where they come in pieces."""
        if self.rows is not None:
            raise TypeError("The number of pieces is not known beforehand: batches vary in size.")
        return self._steps()

    def arrived(self, batch: Any) -> Piece:
        """The piece that a batch is: the next one of those drawn.

        Raises:
            StepError: none is left, or the batch has another number of rows.
        """
        if not self._drawn:
            raise StepError(
                "A batch arrived that was not drawn. Read the data through one DataLoader on this "
                "batch sampler, and through nothing else."
            )
        piece = self._drawn.popleft()
        found = set(_lengths(batch))
        if piece.rows not in (found or {piece.rows}):
            raise StepError(
                f"A batch of {piece.rows} rows was drawn, and what arrived has lengths "
                f"{sorted(found)} along dimension 0. Leave out no row and add none: no filtering "
                "in collate_fn, no sharding of batches."
            )
        return piece

    def indices(self) -> Iterator[Indices]:
        """The same as arrays."""
        self._begin()
        self._drawn.clear()
        for _ in range(self._steps()):
            drawn, sizes = self.unit.rows(self.sampler.draw(), self.sampler.generator)
            event, state = self.sampler.event(self.noise), self.sampler.state()
            if self.rows is None or len(drawn) <= self.rows:
                self._drawn.append(Piece(len(drawn), sizes, True, event, state))
                yield drawn
                continue
            ends = np.cumsum(np.ones(len(drawn), int) if sizes is None else sizes)
            cuts = _cuts(ends, self.rows)
            for first, stop in pairwise(cuts):
                start = ends[first - 1] if first else 0
                piece = drawn[start : ends[stop - 1]]
                within = None if sizes is None else sizes[first:stop]
                last = stop == cuts[-1]
                self._drawn.append(Piece(len(piece), within, last, event, state))
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


def batches(data: Any, drawn: DrawnBatches, workers: int = 0) -> Iterator[tuple[Piece, Any]]:
    """Pieces and their rows, in the order drawn."""
    tensors = tensors_of(data)
    if tensors is None:
        yield from arriving(data_loader(data, drawn, num_workers=workers), drawn)
        return
    for indices in drawn.indices():
        gathered = tuple(
            each.index_select(0, torch.from_numpy(indices).to(each.device)) for each in tensors
        )
        batch = gathered[0] if isinstance(data, Tensor) else gathered
        yield drawn.arrived(batch), drawn.unit.augment(batch)


def arriving(loader: Iterable[Any], drawn: DrawnBatches) -> Iterator[tuple[Piece, Any]]:
    """What a loader on the drawn batches yields, each recognised."""
    for batch in loader:
        yield drawn.arrived(batch), drawn.unit.augment(batch)


def data_loader(data: Any, drawn: DrawnBatches, **arguments: Any) -> DataLoader[Any]:
    """A DataLoader of the drawn batches, in which an empty one is like any other.

    Raises:
        PlanError: an argument that would choose the rows, or their order, in another way.
    """
    for name in ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "in_order"):
        if name in arguments:
            raise PlanError(f"The plan decides which rows make up a batch; leave out {name}.")
    tensors = tensors_of(data)
    source = data if tensors is None else TensorDataset(*tensors)
    collate = _Collate(source, arguments.pop("collate_fn", None) or default_collate)
    return DataLoader(source, batch_sampler=drawn, collate_fn=collate, **arguments)


class _Collate:
    """A collation which also knows what an empty batch looks like."""

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.data, self.collate = data, collate

    def __call__(self, samples: Sequence[Any]) -> Any:
        if samples:
            return self.collate(list(samples))
        template = self.collate([self.data[0]])
        return tree_map(lambda leaf: leaf[:0] if isinstance(leaf, Tensor) else leaf, template)


def refuse_repeats(loader: Any) -> None:
    """Refuses a loader that is known to read an example twice into a batch.

    Raises:
        PlanError: its sampler draws with replacement.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)):
        if getattr(sampler, "replacement", False):
            raise PlanError(
                f"{type(sampler).__name__} draws with replacement, so that an example can be in a "
                "batch twice and move its sum twice as far as is accounted. Use replacement=False."
            )


def rows_in(batch: Any) -> int:
    """How many rows a batch holds.

    Raises:
        StepError: nothing in it has one entry for each row, or its parts disagree.
    """
    found = set(_lengths(batch))
    if len(found) != 1:
        raise StepError(
            "A batch must hold tensors with one row for each example along dimension 0, got "
            f"lengths {sorted(found)}. Let collate_fn stack what belongs to an example so."
        )
    return found.pop()


def _lengths(batch: Any) -> Iterator[int]:
    """The lengths of everything in a batch that may have one entry for each row."""
    match batch:
        case Tensor():
            yield from [len(batch)] if batch.dim() else []
        case PackedSequence():
            yield int(batch.batch_sizes[0]) if len(batch.batch_sizes) else 0
        case Mapping():
            for each in batch.values():
                yield from _lengths(each)
        case tuple() | list():
            parts = [each for each in batch if not isinstance(each, (str, bytes, int, float))]
            if len(parts) < len(batch):
                yield len(batch)
            for each in parts:
                yield from _lengths(each)


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


class Watched:
    """A loader whose batches are recognised as they arrive; made by `PrivateSession.watch`.

    Its length and every other attribute are the loader's.
    """

    def __init__(self, loader: Any, follow: Callable[[Any], Iterator[Any]]) -> None:
        self._loader, self._follow = loader, follow

    def __iter__(self) -> Iterator[Any]:
        return self._follow(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
