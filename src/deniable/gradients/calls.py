"""One forward on a drawn piece, and how the calls in it are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from deniable.errors import CaptureError
from deniable.gradients.layout import Fold, Layout, candidates
from deniable.gradients.moves import POINTWISE
from deniable.gradients.tree import tensors_in
from deniable.gradients.whose import Tracking, version

Key = tuple[Any, ...]
"""Of a call: how often it was met before, the function's name, and the parameters that it takes."""
AGAIN = -1  # in place of a count: calls that checkpointing makes again cannot be told apart


def describe(key: Key) -> str:
    """The function and the bound parameters of a call, for a message."""
    return f"{key[1]} on parameter {', '.join(map(repr, key[2]))}" if key[2] else key[1]


# Functions that repeat what they are given, and those that read it where an index says.
_REPEATING = {"expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave"}
_READING = {"embedding", "__getitem__", "index_select"}


def may_hold(key: Key, layout: Layout, index: int) -> bool:
    """Whether the rows may lie so in what a call made of parameters alone.

    Args:
        key: of the call.
        layout: of its output.
        index: how many dimensions the tensors have that it was given besides.
    """
    if layout.fold is Fold.WHOLE:
        return False
    if layout.fold is Fold.PLAIN or key[1] in _REPEATING:
        return True
    if key[1].strip("_") in POINTWISE:
        return index > 0  # a parameter broadcast beside a mask, say, that is repeated for each row
    return key[1] in _READING and layout.dim < index


def mixed_before(key: Key, n: int) -> CaptureError:
    """A call met data in which there are no rows any more."""
    return CaptureError(
        f"{describe(key)} met data in which no dimension holds the batch's {n} rows: the rows were "
        "mixed before (a mean or sum over the batch?), and a mixture cannot be bounded per row. "
        "Keep the batch dimension."
    )


class ForwardCall:
    """One call of the model's forward on a drawn piece.

    Attributes:
        rows: how many units the piece holds.
        anchor: a leaf that joins calls on plain data to autograd's graph.
        tracking: what is known of the tensors of the piece.
        shapes: of every tensor among the arguments.
        inputs: the arguments that hold the rows, by identity, and their versions.
        packed: those of them that are packed sequences.
        random: the state of torch's generator when the forward began.
        probed: whether the forward was run again.
        asked: the calls for which it was.
        counted: how often each call was met in earlier forwards on the piece.
        constants: arguments that a forward on another number of rows has shown to hold no rows (a
            mask of `(T, T)`, where now `T` rows were drawn), and their versions.
        given: the batch as it was yielded, rows first.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rows: int,
        anchor: Tensor,
        tracking: Tracking,
        counted: Mapping[Key, int],
        constants: Sequence[tuple[Tensor, int]] = (),
        given: Sequence[Tensor] = (),
    ) -> None:
        self.counted, self.given = counted, given
        self.model, self.args, self.kwargs, self.rows = model, args, kwargs, rows
        self.anchor, self.tracking = anchor, tracking
        self.random, self.probed = torch.get_rng_state(), False
        self.asked: set[Key] = set()
        self.packed = [
            each
            for each in (*args, *kwargs.values())
            if isinstance(each, PackedSequence) and each.batch_sizes[0] == rows
        ]
        leaves = tensors_in(args, kwargs)
        self.shapes = [tuple(leaf.shape) for leaf in leaves if leaf.ndim]
        may_hold = [leaf for leaf in leaves if rows == 0 or candidates(leaf, rows)]
        holding = [leaf for leaf in may_hold if not _is_among(constants, leaf)]
        holding += [each.data for each in self.packed]
        self.inputs = {id(leaf): version(leaf) for leaf in holding}
        others = [(leaf, version(leaf)) for leaf in leaves if id(leaf) not in self.inputs]
        self.constants = others if rows > 1 and self.inputs else [*constants]

    def places(self, leaf: Tensor) -> list[Layout]:
        """The dimensions of an argument that may hold one index a row, the likeliest first.

        Where several do, and it is a tensor of the batch with its dimensions turned, that one.
        """
        found = plain(leaf, self.rows)
        if len(found) < 2:
            return found
        return sorted(found, key=lambda each: not self._is_given(leaf.movedim(each.dim, 0)))

    @property
    def lies(self) -> str:
        """In which dimension of each argument its rows lie, to be compared."""
        leaves = tensors_in(self.args, self.kwargs)
        return str([[each.dim for each in self.places(leaf)[:1]] for leaf in leaves])

    def _is_given(self, turned: Tensor) -> bool:
        return any(
            each.shape == turned.shape and torch.equal(each.to(turned), turned)
            for each in self.given
        )

    def carries_rows(self, tensor: Tensor) -> bool:
        """Whether a tensor was computed from the batch's rows.

        A view that is taken of a weight under `no_grad` says that it requires a gradient, but it
        hangs on no graph.
        """
        return (
            (tensor.requires_grad and not (tensor.is_leaf and tensor._is_view()))
            or id(tensor) in self.inputs
            or self.tracking.marked(tensor) is not None
        )


def _is_among(constants: Sequence[tuple[Tensor, int]], leaf: Tensor) -> bool:
    """Whether a tensor is, or equals, one that nobody has written to since."""
    return any(
        each is leaf
        or (each.shape == leaf.shape and each.dtype == leaf.dtype and torch.equal(each, leaf))
        for each, seen in constants
        if version(each) == seen
    )


def plain(tensor: Tensor, n: int) -> list[Layout]:
    """The dimensions that may hold one index a row, the likeliest first.

    A batch is laid out row by row, so transposed rows are found along the largest stride.
    """
    found = [each for each in candidates(tensor, n) if each.fold is Fold.PLAIN]
    return sorted(found, key=lambda each: -tensor.stride(each.dim))
