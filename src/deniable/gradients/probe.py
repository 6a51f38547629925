"""Finding the batch dimension of a call's tensors where their shapes leave it open.

Shapes alone cannot tell `(T, n)` from `(n, T)` when `T == n`, nor `(n * T)` from `(T * n)`. The
probe runs the model again on the same batch, and once more with one row replaced, and looks which
positions moved. It is needed once per kind of call, and only where shapes are ambiguous.

A constant with an extent of `n` (a class token expanded over the batch, or a table of positions
that happens to have `n` rows) does not move with the data. There the probe moves one index of the
constant itself, and looks whether anything beyond that row of the batch follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten, tree_map

from deniable.errors import CaptureError
from deniable.gradients.layout import Fold, Layout, candidates, confined
from deniable.gradients.tree import tensors_in

if TYPE_CHECKING:
    from deniable.gradients.capture import Capture

Key = tuple[Any, ...]


def describe(key: Key) -> str:
    """The function and the bound parameters of a call, for a message."""
    return f"{key[1]} on parameter {', '.join(map(repr, key[2]))}" if key[2] else key[1]


class ForwardCall:
    """One call of the model's forward on a drawn piece.

    Attributes:
        rows: how many units the piece holds.
        shapes: of every tensor among the arguments.
        inputs: the arguments that hold the rows, by identity.
        anchor: a leaf that joins calls on plain data to autograd's graph.
        reordered: since when rows may have moved, in autograd's count; see `order.py`.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rows: int,
        anchor: Tensor,
    ) -> None:
        self.model, self.args, self.kwargs, self.rows = model, args, kwargs, rows
        self.anchor = anchor
        self.reordered: int | None = None
        self.packed = [
            each
            for each in (*args, *kwargs.values())
            if isinstance(each, PackedSequence) and each.batch_sizes[0] == rows
        ]
        leaves = tensors_in(args, kwargs)
        self.shapes = [tuple(leaf.shape) for leaf in leaves if leaf.ndim]
        self.inputs = {id(leaf) for leaf in leaves if rows == 0 or candidates(leaf, rows)}
        self.inputs.update(id(each.data) for each in self.packed)

    def carries_rows(self, tensor: Tensor) -> bool:
        """Whether a tensor was computed from the batch's rows."""
        return (
            tensor.requires_grad
            or id(tensor) in self.inputs
            or getattr(tensor, "_deniable_rows", None) is self.inputs
        )

    def mark(self, tensor: Tensor) -> None:
        """Note that a tensor without gradient was computed from the batch's rows."""
        tensor._deniable_rows = self.inputs  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Verdict:
    """What is known of one call: whether it saw only constants, and where its units lie.

    Attributes:
        layouts: of each data tensor among the arguments, in order, then of each output.
    """

    constant: bool
    layouts: tuple[Layout | None, ...] = ()


@dataclass
class Observation:
    """The tensors that each call of one run met: data first, then outputs."""

    calls: dict[Key, list[Tensor]] = field(default_factory=dict)
    constants: set[Key] = field(default_factory=set)
    sites: set[Key] = field(default_factory=set)
    outputs: list[Tensor] = field(default_factory=list)
    nudge: tuple[Key, int] | None = None

    def record(self, key: Key, tensors: list[Tensor], constant: bool) -> None:
        """Keep copies: later in-place operations must not change what was seen."""
        self.calls[key] = [tensor.detach().clone() for tensor in tensors]
        if constant:
            self.constants.add(key)

    def nudged(self, key: Key, tensor: Tensor, rows: int) -> Tensor:
        """The output of a constant call, with the index under test moved."""
        if self.nudge is None or self.nudge[0] != key:
            return tensor
        unit, moved = self.nudge[1], tensor.detach().clone()
        for layout in candidates(moved, rows):
            if layout.fold is Fold.PLAIN:
                moved.select(layout.dim, unit).add_(1.0)
                break
        return moved


def probe(capture: Capture, forward: ForwardCall) -> dict[Key, Verdict]:
    """A verdict for every call in a forward.

    Raises:
        CaptureError: one row's values depend on another row, or nothing moved.
    """
    unit = forward.rows // 2
    verdicts: dict[Key, Verdict] = {}
    while True:
        base = _observe(capture, forward, forward.args, forward.kwargs, verdicts)
        layouts = _layouts(capture, forward, base, unit, verdicts)
        # A row can be dead (all its units inactive): what did not move with one may with another.
        other = _layouts(capture, forward, base, forward.rows - 1, verdicts)
        layouts = {
            key: tuple(a or b for a, b in zip(each, other.get(key, each), strict=True))
            for key, each in layouts.items()
        }
        found = {key: Verdict(False, each) for key, each in layouts.items()}
        sites = {key: found[key] for key in base.sites if key in found and key not in verdicts}
        if sites:
            verdicts |= sites
            continue
        constants = [key for key in base.constants if key in found and key not in verdicts]
        for key in constants:
            layout = _nudged_layout(capture, forward, base, key, unit, found, verdicts)
            found[key] = Verdict(layout is None, (*[layout] * len(base.calls[key]),))
        if not any(found[key].constant for key in constants):
            return {**found, **verdicts}
        verdicts |= {key: found[key] for key in constants if found[key].constant}


def _layouts(
    capture: Capture, forward: ForwardCall, base: Observation, unit: int,
    verdicts: dict[Key, Verdict],
) -> dict[Key, tuple[Layout | None, ...]]:  # fmt: skip
    """The layout of every tensor that moves with one unit."""
    try:
        moved = _observe(capture, forward, *_with_one_row_moved(forward, unit), verdicts)
    except CaptureError:
        raise
    except (RuntimeError, ValueError, IndexError):
        # Lengths of sorted sequences, say: one number a row may be bound to the others.
        spared = _with_one_row_moved(forward, unit, spare_numbers=True)
        moved = _observe(capture, forward, *spared, verdicts)
    return {
        key: tuple(
            _layout(before, after, unit, forward.rows, key)
            for before, after in zip(tensors, moved.calls[key], strict=True)
        )
        for key, tensors in base.calls.items()
        if key in moved.calls
    }


def _changed(before: Tensor, after: Tensor) -> Tensor:
    """The mask of positions that differ; NaN in both is no difference."""
    return (before != after) & ~((before != before) & (after != after))


def _layout(before: Tensor, after: Tensor, unit: int, n: int, key: Key) -> Layout | None:
    """The layout that confines what moved to one unit; None where nothing moved."""
    if before.shape != after.shape:
        return None
    changed = _changed(before, after)
    if not bool(changed.any()):
        return None
    for layout in candidates(before, n):
        if confined(changed, layout, unit, n):
            return layout
    raise CaptureError(
        f"{describe(key)} met values of one row that depend on another row of the batch, "
        "so no bound per row exists. Look for batch statistics, attention or "
        "sums across the batch before this call."
    )


def _nudged_layout(
    capture: Capture, forward: ForwardCall, base: Observation, key: Key, unit: int,
    found: dict[Key, Verdict], verdicts: dict[Key, Verdict],
) -> Layout | None:  # fmt: skip
    """The layout of a constant's output, if its indices belong to the rows of the batch."""
    plain = [each for each in candidates(base.calls[key][-1], forward.rows)
             if each.fold is Fold.PLAIN]  # fmt: skip
    if not plain:
        return None
    nudged = _observe(capture, forward, forward.args, forward.kwargs, verdicts, nudge=(key, unit))
    followed = False
    for other, tensors in base.calls.items():
        if other == key or found[other].constant or other in base.constants:
            continue
        for before, after, layout in zip(
            tensors, nudged.calls[other], found[other].layouts, strict=True
        ):
            changed = _changed(before, after)
            if layout is None or not bool(changed.any()):
                continue
            if not confined(changed, layout, unit, forward.rows):
                return None
            followed = True
    for before, after in zip(base.outputs, nudged.outputs, strict=True):
        changed = _changed(before, after)
        if not bool(changed.any()) or not candidates(before, forward.rows):
            continue
        if not any(confined(changed, each, unit, forward.rows)
                   for each in candidates(before, forward.rows)):  # fmt: skip
            return None
        followed = True
    return plain[0] if followed else None


def _observe(
    capture: Capture, forward: ForwardCall, args: Any, kwargs: Any,
    verdicts: dict[Key, Verdict], nudge: tuple[Key, int] | None = None,
) -> Observation:  # fmt: skip
    """Run the model's forward once, leaving its buffers and the random state as they were."""
    seen = Observation(nudge=nudge)
    call = ForwardCall(forward.model, args, kwargs, forward.rows, forward.anchor)
    with _undisturbed(forward.model), capture.observing(call, seen, verdicts):
        result = forward.model.forward(*args, **kwargs)
    seen.outputs = [
        leaf.detach().clone() for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)
    ]
    return seen


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)


def _with_one_row_moved(
    forward: ForwardCall, unit: int, spare_numbers: bool = False
) -> tuple[Any, Any]:
    """The same arguments, with one row of every batched tensor replaced.

    Args:
        forward: the call to change.
        unit: the row.
        spare_numbers: leave integers alone of which a row has only one.
    """
    n = forward.rows

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        plain = [each for each in candidates(leaf, n) if each.fold is Fold.PLAIN]
        if not plain or (spare_numbers and leaf.ndim == 1 and not leaf.is_floating_point()):
            return leaf
        moved = leaf.detach().clone()
        rows = moved.movedim(plain[0].dim, 0)
        if leaf.is_floating_point():
            spread = 1 + rows[unit].abs().mean()
            rows[unit] = rows[unit] + spread * torch.rand_like(rows[unit])
        else:
            others = [k for k in range(n) if not torch.equal(rows[k], rows[unit])]
            if others:
                differing = [(rows[k] != rows[unit]).sum() for k in others[:64]]
                rows[unit] = rows[others[int(torch.stack(differing).argmax())]]
        return moved

    with torch.random.fork_rng():
        moved: tuple[Any, Any] = tree_map(move, (forward.args, forward.kwargs))
    return moved
