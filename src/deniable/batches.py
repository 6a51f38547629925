"""From drawn units to batches, and the handshake: what arrives is what was drawn.

Tensors are gathered directly; data sets are read through a DataLoader, by workers if asked, whose
batch sampler is the plan's. A loader reads ahead, so what was drawn is remembered in order and
compared with what arrives.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, StackDataset, TensorDataset, default_collate

from deniable.canaries import Canaries
from deniable.errors import AttachError, CheckpointError, DeniableWarning, PlanError, StepError
from deniable.events import SampledEvent
from deniable.grouping import Example, Unit
from deniable.numeric import is_whole
from deniable.plan import Draw, Drawing, Plan
from deniable.rows import examples_in, fingerprint, lengths_in, rows_in, tensors_of
from deniable.sampling import Sampler

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Which units of each piece are this process's: every `of`-th one, from `rank` on."""

    rank: int = 0
    of: int = 1

    def __call__(
        self, rows: Indices, sizes: Sequence[int] | None
    ) -> tuple[Indices, Sequence[int] | None]:
        """The rows of these units, and how many each has."""
        if self.of == 1:
            return rows, sizes
        if sizes is None:
            return rows[self.rank :: self.of], None
        owner = np.repeat(np.arange(len(sizes)), sizes) % self.of
        return rows[owner == self.rank], sizes[self.rank :: self.of]


@dataclass(frozen=True)
class Piece:
    """A physical part of a logical batch.

    Attributes:
        rows: how many rows of the data set it holds; 0 when nothing was drawn.
        sizes: how many of them make up each unit; None when every row is one.
        last: whether the logical batch is whole with it.
        event: what releasing the logical batch is.
        batch_size: how many units were expected in it.
        state: the drawing after it.
        canaries: which gradient canaries joined the logical batch; they come with its last piece.
    """

    rows: int
    sizes: Sequence[int] | None
    last: bool
    event: SampledEvent
    batch_size: int
    state: dict[str, Any]
    canaries: Indices | None = None


_EVERY = Share()


class DrawnBatches(torch.utils.data.Sampler[list[int]]):
    """A batch sampler for any DataLoader: draws logical batches, in pieces of at most `rows` rows.

    Pieces are of whole units; a unit of more rows is a piece of its own. Each is remembered, in
    order, until it arrives. Made by `PrivateSession.batch_sampler`.

    Args:
        drawing: who decides.
        unit: what is drawn.
        rows: the most rows of a piece; None: every batch is whole.
        steps: how many batches a pass through this sampler draws; asked when it begins.
        begin: called when a pass begins.
        share: which units are this process's, of those that are drawn.
        canaries: of an audit; they are drawn like the data set's own units.
    """

    def __init__(
        self,
        drawing: Drawing,
        unit: Unit,
        rows: int | None,
        steps: Callable[[], int],
        begin: Callable[[], None],
        share: Share,
        canaries: Canaries | None = None,
    ) -> None:
        self.drawing, self.unit, self.canaries = drawing, unit, canaries
        self.rows, self._steps, self._begin, self._share = rows, steps, begin, share
        self._drawn: deque[Piece] = deque()
        self._latest = 0

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a piece; an empty batch is one piece of no rows."""
        return (indices.tolist() for indices in self.indices())

    def __len__(self) -> int:
        """How many batches the latest pass has, or the next; unknown where they come in pieces."""
        if self.rows is not None:
            raise TypeError("The number of pieces is not known beforehand: batches vary in size.")
        return max(self._latest, self._steps())

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
        found = set(lengths_in(batch))
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
        self._latest = self._steps() or self._latest
        for _ in range(self._steps()):
            drawn, sizes, joined, draw = self._next()
            logical = draw.event, draw.batch_size, self.drawing.state()
            for piece, within, last in self._pieces(drawn, sizes):
                mine, units = self._share(piece, within)
                self._drawn.append(
                    Piece(len(mine), units, last, *logical, joined if last else None)
                )
                yield mine

    def _pieces(
        self, drawn: Indices, sizes: Sequence[int] | None
    ) -> Iterator[tuple[Indices, Sequence[int] | None, bool]]:
        """A logical batch cut into pieces, as many for every process: rows, units, whether last."""
        rows = None if self.rows is None else self.rows * self._share.of
        if rows is None or len(drawn) <= rows:
            yield drawn, sizes, True
            return
        ends = np.cumsum(np.ones(len(drawn), int) if sizes is None else sizes)
        cuts = _cuts(ends, rows)
        for first, stop in pairwise(cuts):
            start = ends[first - 1] if first else 0
            within = None if sizes is None else sizes[first:stop]
            yield drawn[start : ends[stop - 1]], within, stop == cuts[-1]

    def _next(self) -> tuple[Indices, Sequence[int] | None, Indices | None, Draw]:
        """The rows of the next logical batch, its units, its canaries, and how it was drawn.

        A unit may choose among its rows from the same stream: what is drawn next follows on that.
        """
        draw, sampler = self.drawing.next(), self.drawing.sampling
        assert draw.indices is not None and isinstance(sampler, Sampler)
        units, joined = draw.indices, None
        if self.canaries is not None:
            units, joined = self.canaries.split(draw.indices, sampler.examples)
        rows, sizes = self.unit.rows(units, sampler.generator, draw.batch_size)
        return rows, sizes, joined, draw


def _cuts(ends: NDArray[np.int64], rows: int) -> list[int]:
    """Where pieces of at most `rows` rows begin, in units, and where the last one ends.

    Units without rows go with others: no piece is empty unless all of them are.
    """
    cuts = [0]
    while cuts[-1] < len(ends):
        start = ends[cuts[-1] - 1] if cuts[-1] else 0
        first = ends[min(np.searchsorted(ends, start, side="right"), len(ends) - 1)]
        cuts.append(int(np.searchsorted(ends, max(start + rows, first), side="right")))
    return cuts


def batches(data: Any, drawn: DrawnBatches, workers: int = 0) -> Iterator[tuple[Piece, Any]]:
    """Pieces and their rows, in the order drawn."""
    tensors = tensors_of(data)
    if tensors is None:
        yield from arriving(data_loader(data, drawn, num_workers=workers), drawn)
        return
    for indices in drawn.indices():
        index = torch.from_numpy(indices)
        gathered = tuple(each.index_select(0, index.to(each.device)) for each in tensors)
        batch: Any = gathered[0] if isinstance(data, Tensor) else gathered
        if isinstance(data, Mapping):
            batch = dict(zip(data, gathered, strict=True))
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
    source = data
    if tensors is not None:
        source = StackDataset(**data) if isinstance(data, Mapping) else TensorDataset(*tensors)
    collate = _Collate(source, arguments.pop("collate_fn", None) or default_collate)
    # A loader seeds its workers from torch's global generator, unless it has its own. A model's
    # dropout must not depend on how often the data were begun: a resumed run repeats it.
    seed = hashlib.sha256(json.dumps(drawn.drawing.state(), sort_keys=True).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:8]) >> 1)
    given: dict[str, Any] = {"batch_sampler": drawn, "collate_fn": collate, "generator": generator}
    return DataLoader(source, **(given | arguments))


class _Collate:
    """A collation which also knows what an empty batch looks like."""

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.data, self.collate, self.looked = data, collate, False

    def __call__(self, samples: Sequence[Any]) -> Any:
        if not samples:
            return _emptied(self.collate([self.data[0]]))
        batch = self.collate(list(samples))
        if len(samples) > 1 and not self.looked:
            self.looked = True
            self._look(samples[:_LOOKED_AT], batch)
        return batch

    def _look(self, samples: Sequence[Any], batch: Any) -> None:
        """Says so where a row alone has another shape than among others."""
        together = [leaf.shape[1:] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        for sample in samples:
            try:
                leaves = tree_leaves(self.collate([sample]))
            except Exception:  # a collation that takes no single row
                return
            alone = [leaf.shape[1:] for leaf in leaves if isinstance(leaf, Tensor)]
            if alone != together:
                warnings.warn(
                    "collate_fn gives a row another shape among others than alone, as padding to "
                    "the longest row does. How long the others are may then change a row's "
                    "gradient, which no bound covers, unless the model leaves out what was padded "
                    "(a mask). Pad all rows to one public length, and cut what is longer.",
                    DeniableWarning,
                    stacklevel=2,
                )
                return


_LOOKED_AT = 8


def _emptied(batch: Any) -> Any:
    """What a batch of one row is without that row: its type, and the shapes of what it holds."""
    if isinstance(batch, Tensor):
        return batch[:0]
    if isinstance(batch, Mapping):
        return {name: _emptied(each) for name, each in batch.items()}
    if not isinstance(batch, (list, tuple)):
        return batch
    if len(batch) == 1 and not isinstance(batch[0], (Tensor, Mapping, list, tuple)):
        return batch[:0]  # one value a row, such as a text
    parts = [_emptied(each) for each in batch]
    if isinstance(batch, list):
        return parts
    return batch._make(parts) if hasattr(batch, "_make") else tuple(parts)


class Source:
    """Where a session's batches come from: the plan's sampler, or the user's own loader.

    Args:
        plan: how batches come about.
        unit: what is drawn.
        generator: the stream that decides who joins.
        left: how many logical batches are still to come.
        recognise: told the fingerprint of the data; raises where that is not the ledger's.
        share: which units are this process's, of those that are drawn.
        canaries: of an audit.

    Attributes:
        sampling: the plan's.
        state: the drawing as of the last released batch.
        data: the fingerprint of the data, once there is any.

    Raises:
        AttachError: the unit needs batches that are drawn, and the plan has none.
    """

    def __init__(
        self,
        plan: Plan,
        unit: Unit,
        generator: np.random.Generator,
        left: Callable[[], int],
        recognise: Callable[[str], None],
        share: Share = _EVERY,
        canaries: Canaries | None = None,
    ) -> None:
        self.plan, self.unit, self._share, self._canaries = plan, unit, share, canaries
        self._drawing = Drawing(plan, generator)
        self.sampling, self.state = self._drawing.sampling, self._drawing.state()
        self.data: str | None = None
        self._left, self._ledger_recognises = left, recognise
        if not isinstance(self.sampling, Sampler) and not isinstance(unit, Example):
            raise AttachError(
                f"{type(unit).__name__} decides which rows are read together, so that your own "
                "loader cannot. Make the plan with another sampling, or leave out unit."
            )
        if not isinstance(self.sampling, Sampler) and share.of > 1:
            raise AttachError(
                "Loaders on several ranks may read one example on two of them (DistributedSampler "
                "pads so), which would move the sum twice as far as is accounted. Make the plan "
                "with another sampling: each rank is then given its part of what is drawn."
            )

    def drawn(self, data: Any, rows: int | None, steps: int | None) -> DrawnBatches:
        """The batch sampler of passes over `data`, of `steps` batches each.

        Raises:
            PlanError: the data do not fit the plan, or the plan leaves the drawing to a loader.
        """
        if not (rows is None or (is_whole(rows) and rows >= 1)):
            raise PlanError(
                "rows, the most rows that are in memory at once, must be a whole number of at "
                f"least 1, or None for whole batches; got {rows!r}."
            )
        if not (steps is None or (is_whole(steps) and steps >= 0)):
            raise PlanError(
                "steps, the most logical batches of this pass, must be a whole number of at least "
                f"0, or None for all that are left; got {steps!r}."
            )
        if not isinstance(self.sampling, Sampler):
            raise PlanError(
                f"The plan's sampling is {self.plan.sampling!r}: deniable draws no batches. Give "
                "your loader to private.watch(loader), or make the plan with another sampling."
            )
        self.recognise(data)

        def left() -> int:
            return self._left() if steps is None else min(steps, self._left())

        def begin() -> None:
            if steps != 0:
                self._warn_if_over(7)
            self._drawing.restore(self.state)  # what was read ahead is drawn again

        return DrawnBatches(
            self._drawing, self.unit, rows, left, begin, self._share, self._canaries
        )

    def _warn_if_over(self, frames: int) -> None:
        """Says that a pass which begins now has no batch, to the loop so many frames above."""
        if not self._left():
            warnings.warn(
                f"This pass has no batch: the {self.plan.steps} steps of the plan are released, or "
                "the budget has no room for another. The model is that of the last step. To train "
                "it further, attach it with another plan: that is spent on top, and a ledger in a "
                "file says what all of it costs.",
                DeniableWarning,
                stacklevel=frames,
            )

    def begin_at(self, step: int, generator: np.random.Generator) -> None:
        """Go on before a step of the plan with another stream that decides who joins."""
        self._drawing.begin_anew(generator)  # the same one: loaders that were made go on with it
        self.sampling = self._drawing.sampling
        self.state = self._drawing.state() | {"step": step}

    def expect(self, step: int, state: dict[str, Any] | None = None) -> None:
        """What is drawn next is for this step of the plan: who steps is counted elsewhere.

        Args:
            step: counted from 0.
            state: the drawing after the latest batch; where it stands if not given.
        """
        self.state = (state or self.state) | {"step": step}
        self._drawing.step = step

    def check(self, loader: Any) -> None:
        """Refuses a loader whose batches come about otherwise than the plan says.

        Raises:
            PlanError: what is wrong, and the mend.
        """
        drawn = getattr(loader, "batch_sampler", None)
        if isinstance(drawn, DrawnBatches):
            if drawn.drawing is not self._drawing or not getattr(loader, "in_order", True):
                raise PlanError(
                    "A loader on drawn batches needs the batch_sampler of this very session, and "
                    "in_order=True."
                )
        elif isinstance(self.sampling, Sampler):
            raise PlanError(
                f"The plan's sampling is {self.plan.sampling!r}, but this loader draws its batches "
                "otherwise, so the plan's epsilon would be wrong. Use private.loader(data_set), or "
                "a DataLoader on private.batch_sampler(data_set), or make the plan with "
                "sampling='own-loader'."
            )
        else:
            _refuse_repeats(loader)
            if hasattr(getattr(loader, "dataset", None), "__len__"):
                self.recognise(loader.dataset)

    def arriving(self, loader: Any) -> Iterator[tuple[Piece, Any]]:
        """What a loader yields, each batch as the piece that it is."""
        drawn = getattr(loader, "batch_sampler", None)
        if isinstance(drawn, DrawnBatches):
            yield from arriving(loader, drawn)
            return
        self._warn_if_over(4)
        self._drawing.restore(self.state)
        for batch in loader:
            if not self._left():
                return
            draw = self._drawing.next()
            state = self._drawing.state()
            yield Piece(rows_in(batch), None, True, draw.event, draw.batch_size, state), batch

    def recognise(self, data: Any) -> None:
        """Refuses data of another size than the plan's, or other data than before.

        Raises:
            PlanError: the plan is for another number of units.
            CheckpointError: it is another data set.
            LedgerError: the ledger is that of another data set.
        """
        examples = self.unit.population(examples_in(data))
        if self._canaries is not None:
            examples += self._canaries.gradients
        if examples != self.plan.examples:
            raise PlanError(
                f"The plan is for {self.plan.examples} examples, got a data set of {examples}. "
                "The number of examples (or users) is public and decides the sampling rate: make "
                "the plan with examples=len(data), or the number of users."
            )
        found = fingerprint(data)
        if self.data not in (None, found):
            raise CheckpointError(
                "The data set is not the one that this session was trained on, so continuing "
                "would add the same noise to other data. Start a new run on the new data."
            )
        self._ledger_recognises(found)
        self.data = found


def _refuse_repeats(loader: Any) -> None:
    """Refuses a loader that is known to read an example twice into a batch."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    for sampler in (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)):
        if getattr(sampler, "replacement", False):
            raise PlanError(
                f"{type(sampler).__name__} draws with replacement, so that an example can be in a "
                "batch twice and move its sum twice as far as is accounted. Use replacement=False."
            )


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
        if name.startswith("_"):  # copy and pickle ask before there is a loader
            raise AttributeError(name)
        return getattr(self._loader, name)
