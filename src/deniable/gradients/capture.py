"""Seeing every use of a bound parameter while the user's own model runs forward and backward.

A `TorchFunctionMode`, active only while the model's forward runs in training mode on a drawn batch,
sees each torch function that takes a bound parameter. The function is then called with the
parameter detached, so that autograd computes the input's gradient and never the weight's, and a
hook keeps the gradient of the output. Input and output gradient are all that a per-unit rule needs.

A function of parameters and constants alone (`W.t()`, a weight norm, a mask) yields a *derived*
parameter, whose per-unit gradients are pushed back through that function when the batch is done.

Contract 1 (nothing escapes the bound) rests on one fact: no bound parameter is ever part of
autograd's graph. If autograd delivers a gradient to one, a path escaped, and the hook on the
parameter raises before anything is released.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deniable.errors import CaptureError, CheckpointError
from deniable.gradients import fallback
from deniable.gradients.calls import ForwardCall, Key
from deniable.gradients.contributions import Contribution, rounds
from deniable.gradients.eager import allow_compiled, run_as_written
from deniable.gradients.groups import Groups
from deniable.gradients.mode import Watch
from deniable.gradients.outer import Several
from deniable.gradients.parameters import BoundParameters
from deniable.gradients.per_unit import PerUnitGradients
from deniable.gradients.probe import Observation, Verdict, probe
from deniable.gradients.strategies import Chooser
from deniable.gradients.together import Together
from deniable.gradients.tree import tensors_in, tensors_within
from deniable.gradients.use import Use
from deniable.gradients.verdicts import Verdicts
from deniable.gradients.whose import Tracking, version
from deniable.shards import Shards


class Capture:
    """Collects the uses of a model's bound parameters, batch by batch.

    Args:
        model: the module whose forward is watched.
        parameters: the bound parameters, by name.
        measure: choose strategies by measuring, rather than by counting.
        keep: keep factors, for a bound that looks at every element.
        shards: in which parts ranks hold the parameters, where one forward takes all ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        *,
        measure: bool = False,
        keep: bool = False,
        shards: Shards | None = None,
    ) -> None:
        self.together = Together(shards) if shards is not None and shards.in_step else None
        self.chooser = Chooser(measure, keep=keep, sparing=self.together is not None)
        self.model = model
        self.parameters = dict(parameters)
        self.bound = BoundParameters(parameters)
        self._found: dict[int, list[Contribution]] = {}
        self._measured: list[tuple[Tensor, int, Tensor]] = []
        self._groups: Groups | None = None
        self._batch: list[Tensor] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self.receipts = 0
        self._foreign: list[tuple[int, ...]] = []
        self.verdicts = Verdicts(
            partial(probe, self), lambda: set(self._mode.trail if self._mode else ()),
            alone=self.together is None,
        )  # fmt: skip
        self.stale: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._counted: dict[Key, int] = {}
        self._constants: list[tuple[Tensor, int]] = []
        self._forwards: list[ForwardCall] = []
        self._tracking = Tracking()
        self._observed: ForwardCall | None = None
        self._task, self._reaches_leaves, self.rounds = (-1, ""), True, True
        self._rows: int | None = None
        self._mode: Watch | None = None
        self._watched: nn.Module | None = None
        self._handled: BaseException | None = None
        self._checkpointing = False
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._exit, always_call=True),
        ]
        for name, parameter in parameters.items():
            handle = parameter.register_hook(self._escape(name))  # type: ignore[no-untyped-call]
            self._handles.append(handle)

    def __deepcopy__(self, memo: dict[int, Any]) -> Capture:
        """What the hooks of a copied model belong to: it is an ordinary model, whenever copied."""
        idle = object.__new__(Capture)
        idle.__dict__ |= {"model": None, "together": None, "_forwards": []}
        idle._rows = idle._mode = idle._watched = None
        return idle

    def __reduce__(self) -> NoReturn:
        """Nothing is pickled; a model that is saved whole has hooks that lead here.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            "A model that is attached cannot be pickled whole. Save model.state_dict(), as in "
            "torch.save(model.state_dict(), path); or save the model after private.detach()."
        )

    def remove(self) -> None:
        """Take every hook off the model and its parameters."""
        for handle in self._handles:
            handle.remove()
        self.discard()

    def open(self, rows: int, groups: Groups | None = None, batch: Any = ()) -> None:
        """A drawn piece of `rows` rows begins: forwards in training mode are captured.

        Args:
            rows: how many rows the model will be given.
            groups: how rows make up units; None when every row is one.
            batch: the rows.
        """
        self.discard()
        self._batch = [each for each in tensors_in(batch) if each.ndim and len(each) == rows]
        self._rows, self._groups, self._tracking = rows, groups, Tracking()
        self.stale = {
            id(each): (weakref.ref(each), f"'{type(module).__name__}.{name}'")
            for module, name in self.verdicts.carried
            for each in tensors_within(vars(module).get(name))
        }
        run_as_written(self)

    def discard(self) -> None:
        """Forget everything captured and not yet collected."""
        allow_compiled(self)
        self._found, self._measured = {}, []
        self._groups = None
        self._batch = []
        self.bound.forget()
        self._forwards.clear()
        self._counted = {}
        self.receipts = 0
        self._foreign = []
        self._rows = None

    @property
    def has_gradients(self) -> bool:
        """Whether a backward pass delivered anything since `open`."""
        return self.receipts > 0

    def receiving(self, use: Use, device: torch.device) -> bool:
        """Whether the gradient that arrives for a use is one to keep.

        Raises:
            CaptureError: it is not of the open piece, or will be differentiated itself.
        """
        if use.forward is self._observed:
            return False
        if use.forward not in self._forwards:
            raise CaptureError(
                "A backward pass ran through the graph of an earlier batch. Compute the loss and "
                "call backward within the loop iteration that drew the batch."
            )
        if torch.is_grad_enabled():
            raise CaptureError(
                "A backward pass with create_graph=True ran through the model. What the loss then "
                "owes to the parameters by way of that gradient cannot be bounded. Leave the "
                "gradient penalty out, or compute the gradient without create_graph."
            )
        task = torch._C._current_graph_task_id(), device.type
        if task != self._task:
            self._task, self._reaches_leaves = task, _reaches_leaves()
            self.rounds = rounds(device)
        self.receipts += self._reaches_leaves
        return self._reaches_leaves

    def add(self, argument: Tensor, contribution: Contribution) -> None:
        """Keep what one use adds to the gradients of an argument, if that is bound."""
        if not self.bound.holds(argument):
            return
        if self._groups is not None:
            contribution = self._groups.merge(contribution)
        units = len(self._groups.sizes) if self._groups else self._rows or 0
        reduced = self.chooser.reduced(contribution, units, argument.numel())
        self._found.setdefault(id(argument), []).append(reduced)
        self._measured += [(each, version(each), argument) for each in _factors(reduced)]

    def collect(self, scale: float) -> PerUnitGradients:
        """The per-unit gradients of the open piece; the piece is closed.

        Args:
            scale: what autograd's gradients must be multiplied by to be gradients of one row.
        """
        self._refuse_rewritten()
        n = self._rows or 0
        units = len(self._groups.sizes) if self._groups else n
        self._groups = None  # what comes through derived parameters is of units already
        self._push_back(units)
        named = {self.bound.names[key]: _combine(parts) for key, parts in self._found.items()}
        self.discard()
        return PerUnitGradients(units, dict(self.parameters), named, scale)

    def _push_back(self, units: int) -> None:
        """The gradients of derived parameters, as those of what they were computed from."""
        latest_first = list(reversed(self.bound.derived))
        everything = [set(self.parameters)]
        wanted = [each.names for each in latest_first]
        for there in self.together.gathered(wanted) if self.together else everything:
            for derived in latest_first:
                if not there.issuperset(derived.names):
                    continue
                parts = self._found.pop(id(derived.value), None)
                for parent, each in (
                    fallback.through(derived, _combine(parts), units, self.bound.known_as)
                    if parts
                    else ()
                ):
                    self.add(parent, each)
        for derived in latest_first:
            if id(derived.value) in self._found:
                raise CaptureError(
                    f"A value is computed from parameters {', '.join(map(repr, derived.names))} "
                    "alone, which are sharded apart and never whole at the same time. Give both "
                    "modules to one fully_shard([...])."
                )

    def _refuse_rewritten(self) -> None:
        """Norms were taken when gradients arrived: what they are sums of must still be the same.

        Raises:
            CaptureError: the batch, say, was written to in place after the backward pass.
        """
        for derived in self.bound.derived:
            self._measured += [(each, seen, derived.value) for each, seen in derived.versions]
        for factor, measured, argument in self._measured:
            if version(factor) != measured:
                raise CaptureError(
                    f"What the gradient of parameter {self.bound.quoted(argument)} "
                    "is formed from was written to in place between backward and optimizer.step() "
                    "(the batch itself, perhaps). Leave it as it is until after the step."
                )

    @contextmanager
    def observing(
        self, forward: ForwardCall, seen: Observation, verdicts: Mapping[Key, Verdict]
    ) -> Iterator[None]:
        """Run a forward only to see which tensors its calls meet."""
        mode = Watch(self, forward, {**self.verdicts.known, **verdicts}, seen)
        active, self._mode = self._mode, mode  # so that no inner module starts another
        watched, self._watched = self._watched, None  # whose own hooks run as well
        observed, self._observed = self._observed, forward
        try:
            with self.bound.apart(), torch.enable_grad(), mode:
                yield
        finally:
            seen.trail = mode.trail
            self._mode, self._watched, self._observed = active, watched, observed

    # -- forward -----------------------------------------------------------------------------

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._rows is None or self._mode or not (model.training and torch.is_grad_enabled()):
            return
        forward = ForwardCall(
            model, args, kwargs, self._rows, self._anchor, self._tracking, self._counted,
            self._constants, self._batch,
        )  # fmt: skip
        foreign = bool(forward.shapes and not forward.inputs)
        if self.together:
            new = forward.rows > 1 and not foreign and not self.verdicts.any_settled
            self.together.meet(forward, lambda: self.verdicts.find(forward, (), set()), new)
        if foreign:
            self._foreign = forward.shapes
            return
        if not self.together and forward.rows > 1 and self.verdicts.are_none:
            self._look_before(forward)
        self._constants = forward.constants
        self._forwards.append(forward)
        self._start(model, forward)

    def _look_before(self, forward: ForwardCall) -> None:
        """Run the very first forward beforehand: what it sets up from its data shows only then."""
        try:
            self.verdicts.find(forward, (), set())
        except CaptureError:
            raise
        except (RuntimeError, ValueError, IndexError):  # which the model itself will raise
            forward.probed = False

    def _enter_again(self, module: nn.Module, _: Any) -> None:
        """Activation checkpointing runs inner modules again, during backward."""
        if self._mode is None and self._forwards and torch.is_grad_enabled():
            self._start(module, self._forwards[-1]).order.recomputing = True

    def _start(self, module: nn.Module, forward: ForwardCall) -> Watch:
        self._mode, self._watched = Watch(self, forward, self.verdicts.known), module
        self._handled = sys.exception()
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self._mode

    def _exit(self, module: nn.Module, _: object, outputs: object) -> None:
        if self._mode is None or self._watched is not module:
            if module is self.model and self.together and not self._mode:
                self.together.leave()
            return
        mode = self._mode
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._mode = self._watched = None
        failed = outputs is None and sys.exception() is not self._handled
        if failed and self._rows == 0 and (problem := sys.exception()):
            problem.add_note(
                "The drawn batch is empty, which a Poisson sample may be. Where the model cannot "
                "be run on that, leave out forward and backward, and call optimizer.step() alone."
            )
        if failed or mode.order.recomputing:
            return
        self._counted = mode.times
        if mode.order.begun:
            mode.order.left(outputs)
        self._look_again(mode)

    def _look_again(self, mode: Watch) -> None:
        """Run the forward that is over again, where its kind is new or the time has come."""
        forward, trail = mode.forward, mode.trail
        last = [(count, *site) for site, count in mode.times.items()]
        due = self.verdicts.are_due(forward, last, trail, {forward.lies, *mode.turned})
        if self.together:
            self.together.leave(lambda: self.verdicts.find(forward, last, set(trail)), due)
        elif due:
            self.verdicts.find(forward, last, set(trail))

    def refuse_stale(self, args: Any, kwargs: Any) -> None:
        """Refuse what an earlier batch left in an attribute.

        Raises:
            CaptureError: it is an argument of a call.
        """
        for leaf in tensors_in(args, kwargs):
            kept, name = self.stale.get(id(leaf), (None, ""))
            if kept is not None and kept() is leaf:
                raise CaptureError(
                    f"Rows of this batch met what an earlier batch left in {name}, so that an "
                    "example of that batch would move the gradients of this one. Begin each batch "
                    "anew (set the attribute to None)."
                )

    def expect_recomputation(self) -> None:
        """Activation checkpointing was met: watch every inner module from now on."""
        if self._checkpointing:
            return
        self._checkpointing = True
        for module in self.model.modules():
            if module is not self.model:
                self._handles.append(module.register_forward_pre_hook(self._enter_again))
                self._handles.append(module.register_forward_hook(self._exit, always_call=True))

    def _escape(self, name: str) -> Callable[[Tensor], None]:
        def raise_escape(_: Tensor) -> None:
            module = name.rpartition(".")[0] or type(self.model).__name__
            if self._rows is None:
                raise CaptureError(
                    f"A gradient reached parameter '{name}' (module '{module}'), but no drawn "
                    "batch is open, so it cannot be bounded. Compute losses on the batches of "
                    "`for ... in private.batches(data)`, or detach() before training without "
                    "privacy."
                )
            if self._foreign:
                raise CaptureError(
                    f"A gradient reached parameter '{name}' (module '{module}') from a forward on "
                    f"data of shape {' and '.join(map(str, self._foreign))}, none of whose "
                    f"dimensions holds the {self._rows} rows that were drawn. Give the model the "
                    "batch as private.batches yields it."
                )
            if not self.model.training:
                raise CaptureError(
                    f"A gradient reached parameter '{name}' (module '{module}'), and the model is "
                    "in evaluation mode, in which nothing is followed. Call model.train() before "
                    "the loop, and again after each evaluation."
                )
            raise CaptureError(
                f"A gradient reached parameter '{name}' (module '{module}') by a path that the "
                "per-unit rules did not see, so it cannot be bounded. Use the parameter inside "
                "the model's own forward, or freeze it with requires_grad_(False). A penalty on "
                "weights is the optimizer's weight_decay, which costs no privacy."
            )

        return raise_escape


def _factors(held: object) -> list[Tensor]:
    """Every tensor that a contribution keeps."""
    found: list[Tensor] = []
    for each in vars(held).values():
        if isinstance(each, Tensor):
            found.append(each)
        elif hasattr(each, "__dict__"):
            found += _factors(each)
    return found


def _combine(parts: list[Contribution]) -> Contribution:
    return parts[0] if len(parts) == 1 else Several(parts)


def _reaches_leaves() -> bool:
    """Whether the running backward pass is one that gives parameters their gradients.

    `torch.autograd.grad` and `backward(inputs=...)` do not: they stop at what was asked for.
    """
    node = torch._C._current_autograd_node()
    while following := [each for each, _ in node.next_functions if each is not None]:
        node = following[0]
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that was asked for
        return False
