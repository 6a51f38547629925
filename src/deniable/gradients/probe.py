"""Running a forward again, to see where the rows lie and that they stay apart.

The first forward of each kind is run again on the same batch, some of its rows replaced by others,
in as many ways as it takes for each row to be replaced where any other one stays. What a call with
parameters met, and what the model returned, may then differ in the replaced rows alone. Whatever
lets rows meet (batch statistics, attention across the batch, a shift of rows) is found so, wherever
in the model it is, and whether or not this library knows the function that did it.

The same runs say which dimension of a call's tensors holds the rows, where shapes leave it open:
`(T, n)` or `(n, T)` when `T == n`, `(n * T)` or `(T * n)` always. A constant with an extent of `n`
(a class token expanded over the batch, or a table of positions that happens to have `n` rows) does
not move with the data. There the probe moves one index of the constant itself, and looks whether
anything beyond that row of the batch follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from deniable.errors import CaptureError
from deniable.gradients.calls import AGAIN, ForwardCall, Key, describe, may_hold, mixed_before
from deniable.gradients.layout import WHOLE, Layout, Owners, candidates
from deniable.gradients.trace import Trace
from deniable.gradients.tree import mapped, tensors_in, tensors_within
from deniable.gradients.undisturbed import (
    Place,
    begin_with_another,
    held,
    left_since,
    numbers_held,
    undisturbed,
    unsaved,
)
from deniable.gradients.whose import Lost, Tracking, owners_of

if TYPE_CHECKING:
    from deniable.gradients.capture import Capture

OUTPUT: Key = ("output",)
BUFFER, ATTRIBUTE, NUMBER = "buffer", "attribute", "number"  # where a model may leave something
FEW = 11  # rows: enough to tell them apart, and rarely the size of anything else


@dataclass(frozen=True)
class Verdict:
    """What is known of one call: whether it saw only constants, and where its units lie.

    Attributes:
        layouts: of each data tensor among the arguments, in order, then of each output.
        several: whether calls that cannot be told apart have layouts of their own.
    """

    constant: bool
    layouts: tuple[Layout | None, ...] = ()
    several: bool = False

    def beside(self, other: Verdict | None) -> Verdict:
        """The verdict on two calls that cannot be told apart."""
        if other is None or (other.layouts == self.layouts and not other.several):
            return self
        return replace(self, several=True)


@dataclass(frozen=True)
class Nudge:
    """What is moved in a run: the output of a call, at some indices along a dimension."""

    key: Key
    dim: int
    indices: Tensor


@dataclass
class Observation:
    """What each call of one run met: data first, then outputs; and what the model returned."""

    rows: int
    exact: bool
    calls: dict[Key, list[Trace]] = field(default_factory=dict)
    constants: set[Key] = field(default_factory=set)
    sites: set[Key] = field(default_factory=set)
    reordered: bool = False
    random: Tensor = field(default_factory=lambda: torch.empty(0))
    nudge: Nudge | None = None
    numbers: list[Tensor] = field(default_factory=list)
    left: dict[Place, Tensor] = field(default_factory=dict)
    trail: set[tuple[str, str]] = field(default_factory=set)

    def record(self, key: Key, tensors: list[Tensor], whose: dict[int, Owners]) -> None:
        """Note what a call met; `whose` holds by identity what is known of moved rows."""
        self.calls[key] = [
            Trace.of(each, self.rows, whose.get(id(each)), self.exact) for each in tensors
        ]

    def nudged(self, key: Key, tensor: Tensor) -> Tensor:
        """The output of a call, with the indices under test moved."""
        if self.nudge is None or self.nudge.key != key:
            return tensor
        moved = tensor.detach().clone()
        lead, indices = moved.movedim(self.nudge.dim, 0), self.nudge.indices.to(moved.device)
        # By different amounts: a normalisation or a softmax undoes what is alike.
        shift = torch.linspace(1, 2, lead[indices].numel(), device=lead.device)
        lead[indices] += shift.view_as(lead[indices]).to(lead.dtype)
        return moved


@dataclass(frozen=True)
class Seen:
    """What running a forward again has shown.

    Attributes:
        verdicts: on each call.
        trail: which call followed which.
        settled: whether every row could be told from every other.
        carried: the attributes that hold values of rows afterwards: module and name.
    """

    verdicts: dict[Key, Verdict]
    trail: set[tuple[str, str]]
    settled: bool
    carried: set[tuple[nn.Module, str]]


def probe(
    capture: Capture, forward: ForwardCall, wanted: Iterable[Key], trail: set[tuple[str, str]]
) -> Seen:
    """Run a forward again.

    The first few rows say as much as all, in a fraction of the time and memory. All of them are run
    where the few are no batch that the model accepts, or do not lead to the calls in question, in
    the order in question. What a model does with many rows alone shows in what it returns: all of
    them are run without gradients before the very first forward.

    Args:
        capture: watches the runs.
        forward: what is run again.
        wanted: the calls in question.
        trail: which call followed which, up to now.

    Raises:
        CaptureError: one row's values depend on another row, or stay behind in a buffer.
    """
    leaves = tensors_in(forward.args, forward.kwargs)
    holding = [leaf for leaf in leaves if id(leaf) in forward.inputs]
    if not forward.packed and not any(map(forward.places, holding)):
        raise CaptureError(
            f"None of the model's arguments is a tensor with one dimension of {forward.rows}, the "
            "rows that were drawn. Give the model tensors (or lists, tuples and dictionaries of "
            "them) that hold one index a row."
        )
    found = None
    few = forward.rows > FEW and not capture.together  # which might fail on this rank alone
    if few and all(map(forward.places, holding)):
        with suppress(RuntimeError, ValueError, IndexError):
            runs = Runs(capture, forward, FEW)
            seen = runs.seen()
            if trail <= seen.trail and all(key in seen.verdicts for key in wanted):
                found = seen
        if found and not trail and runs.exact:
            Runs(capture, forward, forward.rows).refuse_meeting_halves()
    return found or Runs(capture, forward, forward.rows).seen()


def _verdicts(runs: Runs) -> dict[Key, Verdict]:
    while True:
        base = runs.observe()
        if base.reordered and runs.exact:
            runs.exact = False
            continue
        layouts = _layouts(runs, base)
        found = {key: Verdict(False, each) for key, each in layouts.items()}
        sites = {key: found[key] for key in base.sites if key not in runs.verdicts}
        if sites:
            runs.verdicts |= sites
            continue
        constants = [key for key in base.constants if key not in runs.verdicts]
        for key in constants:
            layout = _nudged_layout(runs, base, key, found)
            found[key] = Verdict(layout is None, (*[layout] * len(base.calls[key]),))
        if not any(found[key].constant for key in constants):
            _refuse_mixed_numbers(runs, base)
            _refuse_numbers_left(runs, base)
            _settle_unmoved(runs, base, found)
            return {**found, **runs.verdicts}
        runs.verdicts |= {key: found[key] for key in constants if found[key].constant}


def _layouts(runs: Runs, base: Observation) -> dict[Key, tuple[Layout | None, ...]]:
    """The layout of every tensor that moves with its units; None where it never moved."""
    apart: dict[tuple[Key, int], list[Layout]] = {}
    for units in separating(runs.rows):
        other, moved = runs.observe(units), False
        for site, before, after in _in_both(base, other):
            if not before.comparable(after) or not before.moved(after):
                continue
            moved = True
            if site[0][0] == BUFFER and runs.repeats(base, site):
                raise _left_behind(site[0][1])
            if site[0][0] in (BUFFER, ATTRIBUTE):
                runs.carried.add(site[0][1:])
                continue
            if site[0][0] == NUMBER:
                runs.numbers.add(site[0][1:])
                continue
            confined = before.confined(after, units)
            apart[site] = [each for each in confined if each in apart.get(site, confined)]
            if not apart[site]:
                if runs.exact and not runs.repeat(base, other):
                    runs.exact = False
                    return _layouts(runs, runs.observe())
                raise _mixed(site[0], before, runs.rows)
        runs.settled &= moved
    return {
        key: tuple(next(iter(apart.get((key, k), [])), None) for k in range(len(traces)))
        for key, traces in base.calls.items()
    }


def _refuse_mixed_numbers(runs: Runs, base: Observation) -> None:
    """A number that a model returns, such as its own loss, must be a sum of one for each row.

    Then what two sets of rows change together is what each of them changes alone.

    Raises:
        CaptureError: it is not.
    """
    if not base.numbers or runs.rows < 2:
        return
    rows, third = torch.arange(runs.rows), runs.rows // 3
    first, second = rows < third, (rows >= third) & (rows < 2 * third)
    by: Tensor | None = rows[2 * third : 3 * third]
    if not third:  # of two rows, each by the other
        first, second, by = rows == 0, rows == 1, None
    changed = [runs.observe(units, by=by) for units in (first, second, first | second)]
    if any(not torch.equal(base.random, each.random) for each in changed):
        return
    for values in zip(base.numbers, *(each.numbers for each in changed), strict=False):
        none, one, other, both = (float(each) for each in values)
        size = max(abs(none), abs(one), abs(other), abs(both))
        if abs(none - one - other + both) > 256 * torch.finfo(values[0].dtype).eps * size:
            raise CaptureError(
                "A number that the model returns (its own loss, perhaps) is no sum over the rows "
                "of the batch: what one row adds to it depends on the others, as in a mean over "
                "tokens of which rows have unequal numbers, a contrastive loss, or a penalty on "
                "the balance of experts. Return what each row has, compute one loss a row, and "
                "call private.backward(losses)."
            )


def _refuse_numbers_left(runs: Runs, base: Observation) -> None:
    """What a model computes may not follow a number that it left behind from rows before.

    Such as a running mean; the loss of the latest batch, which nothing reads, may stay.

    Raises:
        CaptureError: it does.
    """
    places = sorted(runs.numbers & base.left.keys())
    again = _in_both(base, runs.observe()) if places else ()
    same = {site for site, before, after in again if not before.moved(after)}
    for place in places:
        try:
            other = runs.observe(begin=(place, base.left[place]))
        except (RuntimeError, ValueError, IndexError, TypeError):  # it is read, and is no such one
            other = None
        if other is None or any(
            site in same and site[0][0] not in (BUFFER, ATTRIBUTE, NUMBER) and before.moved(after)
            for site, before, after in _in_both(base, other)
            if before.comparable(after)
        ):
            module = [*runs.forward.model.modules()][place[0]]
            raise _left_behind(f"{type(module).__name__}.{place[1]}")


def _in_both(
    base: Observation, other: Observation
) -> Iterator[tuple[tuple[Key, int], Trace, Trace]]:
    """Every tensor that two runs met."""
    for key, traces in base.calls.items():
        for k, (before, after) in enumerate(zip(traces, other.calls.get(key, []), strict=False)):
            yield (key, k), before, after


def _mixed(key: Key, trace: Trace, n: int) -> CaptureError:
    if trace.sums[0][0] is WHOLE and key is not OUTPUT:
        return mixed_before(key, n)
    met = "The model's output holds" if key is OUTPUT else f"{describe(key)} met"
    return CaptureError(
        f"{met} values of one row that depend on another row of the batch, so no bound per row "
        "exists. Look for batch statistics, attention or sums across the batch, rows that change "
        "places before this call, or an argument of the model that is the same for every row and "
        "has the size of the batch (build it in forward); deniable.check names the module."
    )


def _left_behind(name: str) -> CaptureError:
    return CaptureError(
        f"'{name}' holds values of the batch's rows after forward: without noise they would "
        "be part of the model, and meet the rows of later batches. Compute such statistics from "
        "public data beforehand, or leave them out."
    )


def _nudged_layout(
    runs: Runs, base: Observation, key: Key, found: dict[Key, Verdict]
) -> Layout | None:
    """The layout of a call's output, if its indices belong to the rows of the batch.

    Then a row follows its own index, and none of the others.
    """
    traces, n = base.calls[key], runs.rows
    index = max((len(each.shape) for each in traces[:-1]), default=0)
    places = [
        each
        for each, _ in traces[-1].sums
        if (may_hold(key, each, index) if key in base.constants else each is not WHOLE)
    ]
    for dim in dict.fromkeys(each.dim for each in places):
        size = traces[-1].shape[dim]
        middle = torch.arange(size) == size // 2  # one run for all that every row shares
        moved = _moved_by(runs, base, Nudge(key, dim, middle), found)
        for place in [each for each in places if each.dim == dim]:
            owners = place.owners(size, n, torch.device("cpu"))
            if not _confined(moved, torch.arange(n) == owners[size // 2]):
                continue
            followed = False
            for units in separating(n):
                moved_too = _moved_by(runs, base, Nudge(key, dim, units[owners]), found)
                if not _confined(moved_too, units):
                    break
                followed = followed or bool(moved_too)
            else:
                if followed:
                    return place
    return None


def _moved_by(
    runs: Runs, base: Observation, nudge: Nudge, found: dict[Key, Verdict]
) -> list[tuple[Layout, Trace, Trace]]:
    """What is known to hold rows, and moves with what is nudged."""
    moved = []
    for (key, k), before, after in _in_both(base, runs.observe(nudge=nudge)):
        layout = found[key].layouts[k]
        if key == nudge.key or key in base.constants or found[key].constant:
            continue
        if layout is not None and before.moved(after):
            moved.append((layout, before, after))
    return moved


def _confined(moved: list[tuple[Layout, Trace, Trace]], units: Tensor) -> bool:
    """Whether only these units moved."""
    return all(layout in before.confined(after, units) for layout, before, after in moved)


def _settle_unmoved(runs: Runs, base: Observation, found: dict[Key, Verdict]) -> None:
    """Find where the rows lie in what is alike for all of them, and whose shape leaves it open.

    The numbers of positions, say, or layers on queries that are the same for each row.
    """
    for key, traces in base.calls.items() if runs.settled else ():
        counted = isinstance(key[0], int) and key[0] >= 0
        if not counted or found[key].layouts[-1] is not None or not _is_open(traces[-1], runs):
            continue
        layout = _nudged_layout(runs, base, key, found)
        if layout is None:
            continue
        out = traces[-1].shape[: layout.dim + 1]
        known = [
            layout if was is None and key[1] in _ALIGNED and each.shape[: layout.dim + 1] == out
            else was
            for was, each in zip(found[key].layouts[:-1], traces[:-1], strict=True)
        ]  # fmt: skip
        found[key] = replace(found[key], layouts=(*known, layout))


def _is_open(trace: Trace, runs: Runs) -> bool:
    """Whether a shape does not tell where rows lie: here, or with as many as the batch has."""
    batch = runs.forward.rows
    more = batch != runs.rows and any(size and size % batch == 0 for size in trace.shape)
    return more or len(trace.sums) > 1


# Calls that leave the leading dimensions of their data where they are.
_ALIGNED = {"linear", "embedding", "layer_norm", "rms_norm"}


class Runs:
    """Runs of one forward, each compared with the first.

    Args:
        capture: watches them.
        forward: what is repeated.
        rows: how many of its rows, from the first on.

    Attributes:
        verdicts: what is known already.
        exact: whether another bit is a difference; not where rows change their places, say.
        settled: whether replacing rows by others made a difference each time.
        trail: which call followed which in any of the runs.
        carried: attributes that held values of rows afterwards, by number of the module and name.
        numbers: likewise, of those that hold plain numbers.
    """

    def __init__(self, capture: Capture, forward: ForwardCall, rows: int) -> None:
        self.capture, self.forward, self.rows = capture, forward, rows
        self.verdicts: dict[Key, Verdict] = {}
        self.exact = self.settled = True
        self.trail: set[tuple[str, str]] = set()
        self.carried: set[Any] = set()
        self.numbers: set[Any] = set()

    def seen(self) -> Seen:
        """Run the forward as often as it takes."""
        verdicts: dict[Key, Verdict] = {}
        for key, found in _verdicts(self).items():
            if isinstance(key[0], int) and key[0] < 0:
                key = (AGAIN, *key[1:])
                found = found.beside(verdicts.get(key))
            verdicts[key] = found
        modules = list(self.forward.model.modules())
        carried = {(modules[k], name) for k, name in self.carried}
        return Seen(verdicts, self.trail, self.settled, carried)

    def refuse_meeting_halves(self) -> None:
        """Refuse a model that returns of one half of the rows what depends on the other half.

        Raises:
            CaptureError: it does, for one way to divide them that depends on their number alone.
        """
        drawn = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.rows))
        half = drawn < self.rows // 2
        try:
            base, *halves, again = map(self._returned, (None, half, ~half, None))
        except (RuntimeError, ValueError, IndexError):  # some rows are no batch with some others
            return
        if any(a.moved(b) for a, b in zip(base, again, strict=False)):
            return  # a model that does not repeat itself
        for replaced, returned in zip((half, ~half), halves, strict=True):
            for before, after in zip(base, returned, strict=False):
                if before.moved(after) and not before.confined(after, replaced):
                    raise _mixed(OUTPUT, before, self.rows)

    def _returned(self, replaced: Tensor | None) -> list[Trace]:
        """What the model returns that has a dimension for the rows, as it is called by itself."""
        args, kwargs = self._arguments(replaced, None)
        model = self.forward.model
        with (
            undisturbed(self.forward, dropout=True, weights=model.named_parameters()),
            torch.no_grad(),
            catch_warnings(),
        ):
            simplefilter("ignore")  # of what expects gradients
            returned = tensors_within(model(*args, **kwargs))
        held = [leaf for leaf in returned if candidates(leaf, self.rows)]
        return [Trace.of(each, self.rows, whose=None, exact=True) for each in held]

    def observe(
        self,
        replaced: Tensor | None = None,
        nudge: Nudge | None = None,
        by: Tensor | None = None,
        begin: tuple[Place, Tensor] | None = None,
    ) -> Observation:
        """Run the model's forward once more, leaving everything else as it was.

        Args:
            replaced: the mask of rows to replace by others; None: none are.
            nudge: what to move besides.
            by: the rows that replace them, in turns; all others if not given, or all from the last
                on where there are no others.
            begin: where a module holds another number at first, and one of that shape.

        Raises:
            CaptureError: the model cannot be run on such a batch.
        """
        try:
            return self._run(self._arguments(replaced, by), nudge, begin)
        except CaptureError:
            raise
        except (RuntimeError, ValueError, IndexError):
            if self.capture.together:
                raise  # other ranks wait in the middle of it
            # Lengths of sorted sequences, say: one number a row may be bound to the others.
            return self._run(self._arguments(replaced, by, spare_numbers=True), nudge, begin)

    def repeat(self, base: Observation, other: Observation) -> bool:
        """Whether runs drew the same random numbers, and one on the same batch differs in nothing.

        Where they do not, dropout is left out, and values may differ by rounding.
        """
        if not torch.equal(base.random, other.random):
            return False
        return not any(
            before.comparable(after) and before.moved(after)
            for _, before, after in _in_both(base, self.observe())
        )

    def repeats(self, base: Observation, site: tuple[Key, int]) -> bool:
        """Whether the same batch leaves the same values in one place again."""
        found = {place: not a.moved(b) for place, a, b in _in_both(base, self.observe())}
        return found.get(site, False)

    def _run(
        self,
        arguments: tuple[Any, Any],
        nudge: Nudge | None,
        begin: tuple[Place, Tensor] | None,
    ) -> Observation:
        (args, kwargs), forward = arguments, self.forward
        seen = Observation(self.rows, self.exact, nudge=nudge)
        call = ForwardCall(
            forward.model, args, kwargs, self.rows, forward.anchor, Tracking(), forward.counted,
            forward.constants,
        )  # fmt: skip
        watched = self.capture.observing(call, seen, self.verdicts)
        together = self.capture.together
        weights = () if together else forward.model.named_parameters()
        with undisturbed(forward, self.exact, weights) as kept:
            before, numbers = held(forward.model), numbers_held(forward.model)
            if begin is not None:
                begin_with_another(forward.model, *begin)
            run = together.run if together else forward.model
            with watched, unsaved():
                result = run(*args, **kwargs)
            seen.random = torch.get_rng_state()
            left = left_since(before, forward.model)
            for place, number in numbers_held(forward.model).items():
                if not (place in numbers and torch.equal(number, numbers[place])):
                    seen.calls[NUMBER, *place] = [Trace.of(number, 1, None, self.exact)]
                    seen.left[place] = number
            written = [each for each, value in kept if not torch.equal(each[1], value)]
            for name, value in (*forward.model.named_buffers(), *written):
                seen.calls[BUFFER, name] = [Trace.of(value.detach(), 1, None, self.exact)]
        for key, tensors in left.items():
            seen.calls[ATTRIBUTE, *key] = [Trace.of(each, 1, None, self.exact) for each in tensors]
        self.trail |= seen.trail
        seen.reordered = call.tracking.reordered is not None
        seen.calls[OUTPUT] = []
        for leaf in (*tensors_within(result), *tensors_in(left)):
            whose = call.tracking.noted(leaf)
            if leaf.requires_grad and leaf.numel() == 1 and self.rows > 1:
                seen.numbers.append(leaf.detach().reshape(()))
            elif leaf.ndim and not isinstance(whose, Lost):
                known = whose if isinstance(whose, Owners) else None
                trace = Trace.of(leaf, self.rows, known, self.exact)
                if leaf.requires_grad or trace.sums[0][0] is not WHOLE:
                    seen.calls[OUTPUT].append(trace)
        return seen

    def _arguments(
        self, units: Tensor | None, by: Tensor | None, spare_numbers: bool = False
    ) -> tuple[Any, Any]:
        """Copies of the arguments, some rows replaced by others.

        Args:
            units: the mask of the rows to replace; None for none.
            by: the rows that replace them, in turns; None: all others, or all from the last on.
            spare_numbers: leave integers alone of which a row has only one.
        """
        source = torch.arange(self.rows)
        kept = source.clone()
        if units is not None:
            others = kept[~units] if by is None else by
            others = others if len(others) else kept.flip(0)
            source[units] = others[torch.arange(int(units.sum())) % len(others)]

        def replace(leaf: Tensor | PackedSequence) -> Any:
            if isinstance(leaf, PackedSequence):
                if units is None or not any(leaf is each for each in self.forward.packed):
                    return leaf
                return _replaced_steps(leaf, units)
            rows = leaf.detach()
            holds = id(leaf) in self.forward.inputs
            places = self.forward.places(leaf) if holds else []
            spared = spare_numbers and leaf.ndim == 1 and not leaf.is_floating_point()
            if places:
                index = (kept if spared else source).to(leaf.device)
                rows = rows.index_select(places[0].dim, index)
            return rows.clone().requires_grad_(leaf.requires_grad)

        replaced: tuple[Any, Any] = mapped(replace, (self.forward.args, self.forward.kwargs))
        return replaced


def separating(n: int) -> Iterator[Tensor]:
    """Masks of shape `(n,)` such that for any two rows one mask holds the first and not the second.

    Row `i` lies in the masks that the `i`-th set of a Sperner family names (Sperner, 1928): no set
    holds another, and of `m` masks half are chosen, so about `log2(n) + 2` of them are enough.
    """
    count = next(m for m in range(2, n + 2) if math.comb(m, m // 2) >= n)
    names = [*islice(combinations(range(count), count // 2), n)]
    for mask in range(count):
        yield torch.tensor([mask in each for each in names])


def _replaced_steps(packed: PackedSequence, units: Tensor) -> PackedSequence:
    """The steps of these units in another order."""
    moved = packed.data.detach().clone()
    theirs = units.to(moved.device)[owners_of(packed)]
    moved[theirs] = moved[theirs].roll(1, 0)
    return packed._replace(data=moved)
