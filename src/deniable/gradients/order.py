"""Rows that a model reorders, picks or packs: whose each index of a tensor is.

Shapes cannot tell `x` from `x[order]`: a bound that took one row for another would bound neither.
So from the first call that may move rows, each tensor carries whose its indices are. Calls that
only move values (indexing, transposing, packing) are run once more on the owners themselves; calls
that work value by value keep them; what a call of another kind makes of them is not known, and a
parameter that meets it raises.

Nothing of this costs anything in a forward that moves no rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from deniable.errors import CaptureError
from deniable.gradients.calls import Key
from deniable.gradients.layout import Fold, Layout, Owners, candidates
from deniable.gradients.moves import (
    ADDING,
    ALONG,
    INDICES,
    MATRIX,
    MOVING,
    OVERWRITING,
    POINTWISE,
    REORDERING,
    beside,
    plain_name,
    touched,
    values,
)
from deniable.gradients.rules import RULES
from deniable.gradients.tree import tensors_in, tensors_within
from deniable.gradients.whose import (
    IN_ORDER,
    NOBODYS,
    WRITTEN,
    Known,
    Lost,
    Met,
    alike,
    owners_of,
    version,
)

if TYPE_CHECKING:
    from deniable.gradients.mode import Watch


class Order:
    """Follows the owners of tensors through one forward.

    Args:
        watch: sees the calls.

    Attributes:
        recomputing: whether activation checkpointing runs a part of the model again.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch: Watch = weakref.proxy(watch)  # a cycle would hold the batch for a while
        self.forward, self.tracking = watch.forward, watch.forward.tracking
        self.of, self.note = self.tracking.noted, self.tracking.note
        self._call: tuple[Key, int, int] = ((), 0, 0)
        self._before: dict[int, Known] = {}
        self.recomputing = False

    @property
    def begun(self) -> bool:
        """Whether rows may have moved."""
        return self.tracking.reordered is not None

    # -- what is known ---------------------------------------------------------------------------

    def known(self, leaf: Tensor) -> Known:
        """Whose a tensor is: in order before rows moved, lost after a call nobody saw."""
        known = self.of(leaf)
        if known is not None:
            return known
        if leaf.grad_fn is None:
            seen = self.tracking.marked(leaf)
            seen = self.forward.inputs.get(id(leaf)) if seen is None else seen
            return IN_ORDER if seen is None or seen == version(leaf) else WRITTEN
        born, since = leaf.grad_fn._sequence_nr(), self.tracking.reordered
        return IN_ORDER if since is None or born <= since else Lost("a function of your own")

    def settle(self, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Before a call, which may write to its arguments: what is known of them."""
        self._before = {id(leaf): self.known(leaf) for leaf in tensors_in(args, kwargs)}
        if args and self._is_blank(plain_name(func), args[0]):
            self._before[id(args[0])] = NOBODYS

    def _is_blank(self, name: str, target: Tensor) -> bool:
        """Whether a call writes to what holds nothing yet, and belongs to nobody."""
        if name in ADDING:
            return not (target.requires_grad or target.any())
        if name not in OVERWRITING or target.requires_grad:
            return False
        if [each.fold for each in candidates(target, self.forward.rows)] == [Fold.PLAIN]:
            return False  # what is not written to stays its row's
        return not (self._carries(target) and target.any())

    def _met(self, leaf: Tensor) -> Known:
        """Whose an argument of the present call was when the call began."""
        known = self._before.get(id(leaf))
        return self.known(leaf) if known is None else known

    def _carries(self, tensor: Tensor) -> bool:
        return self.of(tensor) is not NOBODYS and self.forward.carries_rows(tensor)

    def note_packed(self, packed: PackedSequence) -> None:
        """A batch that was packed before the model met it."""
        if self.forward.rows == 1:
            return
        self._begin()
        self.note(packed.data, Owners(0, Fold.OWNED, owners_of(packed)))

    def passed(self, key: Key) -> None:
        """A call that takes parameters: those without are counted from it on.

        So that what a forward leaves out this time does not shift the numbers of all that follow.
        """
        self._call = (key, 0, 0)

    # -- calls without parameters ----------------------------------------------------------------

    def follow(self, func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Note whose the results of a call without parameters are."""
        if self.forward.rows <= 1:
            return
        name = plain_name(func)
        if "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"), *args)
        self._call = (self._call[0], self._call[1] + 1, 0)
        if not self.begun and not self._starts(name, args, kwargs):
            return
        results = tensors_in(result) or (tensors_in(args[:1]) if name == "setitem" else [])
        found = self._whose(name, func, args, kwargs, results)
        for each, whose in zip_longest(results, found[: len(results)]):
            fits = not isinstance(whose, Owners) or whose.names(each)
            self.note(each, NOBODYS if not each.ndim else whose if whose and fits else Lost(name))

    def _whose(
        self, name: str, func: Any, args: Any, kwargs: Any, results: list[Tensor]
    ) -> list[Known]:
        data = [leaf for leaf in values(name, args, kwargs) if leaf.ndim]
        known = [self._met(leaf) for leaf in data]
        owned = [each for each in known if isinstance(each, Owners)]
        lost = next((each for each in known if isinstance(each, Lost)), None)
        if lost is not None:
            return [lost] * len(results)
        reorders = self._reorders(name, args, kwargs)
        if name in MOVING and (owned or reorders):
            stays = not reorders and all(each.in_order for each in owned)
            unknown: Known = IN_ORDER if stays else Lost(name)
            return self._moved(name, func, args, kwargs) or [unknown] * len(results)
        if name in ("sort", "argsort") and data and data[0].ndim == 1:
            places = results[-1]  # they say where, as every index does, and are data of nobody
            rows = owned[0].rows[places] if owned else places
            ordered: list[Known] = [Owners.found(0, rows, self.forward.rows)]
            return ordered * (len(results) - 1) + [NOBODYS]
        if owned:
            return self._kept(func, name, args, kwargs, data, results)
        everything = NOBODYS if all(each is NOBODYS for each in known) else IN_ORDER
        return [everything] * len(results)

    def _starts(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether this call is the first of the forward that moves rows."""
        if name in ("sort", "argsort"):
            starts = args[0].ndim == 1 and self._carries(args[0])
        else:
            starts = self._reorders(name, args, kwargs)
        if starts:
            self._begin()
        return starts

    def _reorders(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether a call may bring rows into another order, or leave some out."""
        if name == "pack_padded_sequence":
            return True
        if name not in REORDERING or not self._touches_rows(name, args, kwargs):
            return False
        # What is written over stays where it is.
        moved = values(name, args, kwargs)[name in OVERWRITING or name in ADDING :]
        return any(map(self._carries, moved))

    def _touches_rows(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether the dimensions in which values move could be those of the rows."""
        target, n = args[0], self.forward.rows
        return any(
            dim < target.ndim and target.shape[dim] and target.shape[dim] % n == 0
            for dim in touched(name, args, kwargs)
        )

    def _begin(self) -> None:
        if not self.begun:
            with torch.enable_grad():
                marker = torch.zeros((), requires_grad=True).clone()
            assert marker.grad_fn is not None
            self.tracking.reordered = marker.grad_fn._sequence_nr()

    def _moved(self, name: str, func: Any, args: Any, kwargs: Any) -> list[Known] | None:
        """Run the call once more, on owners; None where that cannot be done."""
        adds = (
            kwargs.get("reduce")
            or kwargs.get("accumulate")
            or (name == "index_put" and len(args) > 3 and args[3])
        )
        if adds or not args or tensors_in([v for k, v in kwargs.items() if k not in INDICES]):
            return None
        try:
            if name in ADDING:
                return [self._added(name, *args, **kwargs)]
            shadows = [
                self._shadows(each, name) if k in MOVING[name] else each
                for k, each in enumerate(args)
            ]
            before = self._shadows(args[0], name) if name in OVERWRITING else torch.empty(0)
        except _Unknown:
            return None
        if name == "pad_packed_sequence":
            shadows[3] = -1
        try:
            with torch.no_grad():
                moved = func(*shadows, **kwargs)
        except (RuntimeError, TypeError, IndexError):
            return None
        if name == "setitem":
            moved = shadows[0]
        if name in OVERWRITING:  # a place that is overwritten with a constant stays its row's
            moved = torch.where(moved < 0, before, moved)
        if name == "pack_padded_sequence":
            return [self._collapsed(moved[0]), NOBODYS]
        if name == "pad_packed_sequence":
            first = moved[0].flatten(2).amax((1 if args[2] else 0, 2))
            return [self._collapsed(moved[0]), self._collapsed(first)]
        return [self._collapsed(each) for each in tensors_in(moved)]

    def _added(
        self, name: str, target: Tensor, dim: int, index: Tensor, source: Tensor, **_: Any
    ) -> Known:
        """Whose a tensor is that was added to: nobody's places become those of what they got."""
        write, read = ADDING[name]
        there, theirs = self._shadows(target, name), self._shadows(source, name)
        if name == "scatter_add":
            theirs = theirs[tuple(slice(size) for size in index.shape)]
        moved = write(there, dim, index, theirs)
        moved = torch.where(moved < 0, there, moved)
        met = (read(moved, dim, index) != theirs) & (theirs >= 0)
        if bool(met.any()) or bool(((there >= 0) & (moved != there)).any()):
            return Lost(name, mixed=True)
        return self._collapsed(moved)

    def _shadows(self, value: Any, name: str) -> Any:
        """Whose every element of a tensor is; -1 for values that are nobody's."""
        if isinstance(value, (list, tuple)):
            return [self._shadows(each, name) for each in value]
        if not isinstance(value, Tensor):
            return -1
        known = self._met(value)
        if not isinstance(known, Owners):
            if known is NOBODYS or not self._carries(value):
                return torch.full(value.shape, -1, device=value.device)
            layout = self._layout(value, name)
            rows = layout.owners(value.shape[layout.dim], self.forward.rows, value.device)
            known = Owners(layout.dim, Fold.OWNED, rows)
        shape = [-1 if dim == known.dim else 1 for dim in range(value.ndim)]
        return known.rows.view(shape).expand(value.shape).clone()

    def _layout(self, tensor: Tensor, name: str) -> Layout:
        """Where the rows of a tensor in the batch's own order lie.

        Where shapes leave it open, the model is run again: see `probe.py`.
        """
        found = candidates(tensor, self.forward.rows)
        if len(found) == 1 and found[0].fold is Fold.PLAIN:
            return found[0]
        if id(tensor) in self.forward.inputs and (places := self.forward.places(tensor)):
            return places[0]
        self._call = (*self._call[:2], self._call[2] + 1)
        key = (self._call, f"{name} on rows", ())
        layout = self.watch.where(key, tensor) if found and not self.recomputing else None
        if layout is None:
            raise _Unknown
        return layout

    def _collapsed(self, owners: Tensor) -> Known:
        """The dimension that tells owners apart, from whose every element is.

        Rows that came back into the batch's order stay known as that.
        """
        n = self.forward.rows
        for dim in range(owners.ndim):
            lead = owners.movedim(dim, 0).flatten(1) if owners.ndim > 1 else owners[:, None]
            rows = lead.amax(1) if lead.shape[1] else lead.new_full((len(lead),), -1)
            if not bool(((lead == rows[:, None]) | (lead < 0)).all()):
                continue
            if len(rows) and not bool((rows >= 0).any()):
                return NOBODYS
            return Owners.found(dim, rows, n)
        return Lost("indexing")

    def _kept(
        self, func: Any, name: str, args: Any, kwargs: Any, data: list[Tensor],
        results: list[Tensor],
    ) -> list[Known]:  # fmt: skip
        """Whose the results of a call are that does not move its values."""
        owned = [(leaf, self._met(leaf)) for leaf in data]
        strangers = any(
            not isinstance(known, Owners) and self._carries(leaf) and leaf.ndim
            for leaf, known in owned
        )
        tagged = [(leaf, known) for leaf, known in owned if isinstance(known, Owners)]
        first, whose = tagged[0]
        behind = first.ndim - whose.dim  # counted from the last dimension, as broadcasting does
        same = not strangers and all(
            leaf.ndim - known.dim == behind and torch.equal(known.rows, whose.rows)
            for leaf, known in tagged
        )
        in_order = all(known.in_order for _, known in tagged)
        unknown = IN_ORDER if in_order else Lost(name)
        if not same:
            mixed = Lost(name, mixed=name in POINTWISE)
            return [unknown if in_order else mixed] * len(results)
        found: list[Known] = []
        for each in results:
            dim: int | None = None
            if name in POINTWISE or (name in MATRIX and whose.dim < first.ndim - 2):
                dim = each.ndim - behind
            elif name in ALONG:
                dim = beside(whose.dim, first, each, args, kwargs)
            else:  # a layer whose parameters are frozen
                dim = _after(func, name, args, first, whose.dim, each)
            after = None if dim is None or dim < 0 else whose.at(dim)
            found.append(after if after and after.names(each) else unknown)
        return found

    # -- calls with parameters -------------------------------------------------------------------

    def meets(
        self, func: Callable[..., Any], args: Any, data: list[Tensor], outputs: list[Tensor]
    ) -> Met | Lost | None:
        """What a call that takes parameters met: owners by identity, and those of its output.

        Returns:
            None where all data lie in the batch's order.
        """
        name = plain_name(func)
        known = {id(leaf): self._met(leaf) for leaf in data}
        lost = next((each for each in known.values() if isinstance(each, Lost)), None)
        if lost is not None:
            self._note_all(outputs, lost)
            return lost
        owned = {key: each for key, each in known.items() if isinstance(each, Owners)}
        if not owned:
            self._note_all(outputs, IN_ORDER)
            return None
        whose = next(iter(owned.values()))
        mixed = any(id(leaf) not in owned and self._carries(leaf) for leaf in data) or any(
            not torch.equal(each.rows, whose.rows) for each in owned.values()
        )
        leaf = next(leaf for leaf in data if id(leaf) in owned)
        dim = None if mixed else _after(func, name, args, leaf, whose.dim, outputs[0])
        if dim is None or not whose.at(dim).names(outputs[0]):
            if all(each.in_order for each in owned.values()):
                self._note_all(outputs, IN_ORDER)
                return None
            self._note_all(outputs, Lost(name))
            return Lost(name)
        self._note_all(outputs, whose.at(dim))
        return Met(owned, whose.at(dim))

    def meets_unrecorded(self, args: Any, kwargs: Any) -> None:
        """A call with parameters whose graph is built later, on copies of its data.

        Raises:
            CaptureError: the copies will not say whose their rows are.
        """
        for leaf in tensors_in(args, kwargs):
            known = self.known(leaf)
            if isinstance(known, Lost) or (isinstance(known, Owners) and not known.in_order):
                self.refuse("A layer under checkpoint(use_reentrant=True)", Lost("checkpointing"))

    def agree(self, call: str, whose: Known, beside: list[Tensor]) -> None:
        """Refuse tensors beside one whose rows along dimension 1 are others than `whose`.

        Raises:
            CaptureError: row for row, different units would meet.
        """
        for each in beside:
            known = self.known(each)
            if isinstance(known, Lost):
                self.refuse(call, known)
            elif self._carries(each) and not alike(known, whose):
                self.refuse(call, Lost("its state"))

    def refuse(self, call: str, lost: Lost) -> None:
        """Raise; but not while the model is run only to find out where its rows lie.

        Raises:
            CaptureError: rows could not be followed to a parameter.
        """
        if self.watch.observation is None:
            raise CaptureError(
                f"{call} met rows that the model had reordered, picked or packed, and {lost.by} "
                "left open whose they are, so they cannot be bounded. Bring them back into the "
                "batch's order first (pad_packed_sequence, x[order.argsort()]), or reorder the "
                "data outside the model."
            )

    def left(self, outputs: Any) -> None:
        """The model returns: whose each row of its outputs is must be known.

        Raises:
            CaptureError: a row may be made of several; the function that left it open is named.
        """
        for each in tensors_within(outputs):
            known = self.of(each)
            if not (each.requires_grad and isinstance(known, Lost)):
                continue
            if known.mixed:
                raise CaptureError(
                    f"The model's output mixes rows of the batch: {known.by} met rows in two "
                    "orders. What one row's loss depends on must be that row alone. Mix examples "
                    "before they are drawn, as data of their own, or leave the mixing out."
                )
            self.refuse("The model's output", known)

    def carry(self, whose: Known, tensor: Tensor, dim: int) -> None:
        """Note that a tensor's rows, along `dim`, are those of another."""
        self.note(tensor, whose.at(dim) if isinstance(whose, Owners) else whose)

    def _note_all(self, tensors: list[Tensor], known: Known) -> None:
        for each in tensors:
            self.note(each, known)


class _Unknown(Exception):
    """Where the rows lie could not be found out."""


def _after(func: Any, name: str, args: Any, leaf: Tensor, dim: int, out: Tensor) -> int | None:
    """Where the rows lie after a layer; None if that is not known."""
    if name == "embedding":
        return dim
    if func not in RULES and name not in POINTWISE | {"bilinear"}:
        return None
    first = 1 if name == "addmm" else 0
    if name in ("matmul", "mm", "addmm") and leaf is not args[first]:
        mixed = 2
    else:
        mixed = _features(name, args, leaf)
    after = dim + out.ndim - leaf.ndim
    return after if 0 <= after < out.ndim and dim < leaf.ndim - mixed else None


def _features(name: str, args: Any, leaf: Tensor) -> int:
    """How many dimensions of its input, the last ones, a layer mixes."""
    if name in ("linear", "bilinear", "matmul", "mm", "addmm"):
        return 1
    if name in ("layer_norm", "rms_norm"):
        return len(args[1])
    if name in ("group_norm", "instance_norm") or name.startswith("conv"):
        return leaf.ndim - 1
    return 0
