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

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.hooks import RemovableHandle

from deniable.errors import CaptureError
from deniable.gradients import fallback
from deniable.gradients.contributions import Contribution, Several
from deniable.gradients.layout import WHOLE, Fold, Layout, candidates
from deniable.gradients.per_unit import PerUnitGradients
from deniable.gradients.probe import ForwardCall, Key, Observation, Verdict, probe
from deniable.gradients.rules import RULES
from deniable.gradients.strategies import reduced

Function = Callable[..., Any]

# Read or metadata functions of a parameter: no gradient flows through them.
_NO_GRADIENT = {
    Tensor.detach,
    Tensor.requires_grad_,
    Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.grad.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
}


@dataclass(eq=False)
class Derived:
    """A function of bound parameters and constants alone, treated as a parameter of its own."""

    value: Tensor
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int | None


@dataclass(eq=False)
class Use:
    """One call of a torch function that took bound parameters and data.

    Attributes:
        n: units in the batch.
        grads: the gradient of each output, by position, summed over backward passes.
    """

    capture: Capture
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    n: int
    key: Key
    verdict: Verdict | None
    forward: ForwardCall
    grads: dict[int, Tensor] = field(default_factory=dict)
    outputs: int = 1
    versions: list[tuple[Tensor, int]] = field(default_factory=list)

    def receive(self, position: int, grad: Tensor) -> None:
        """Keep the gradient of one output."""
        earlier = self.grads.get(position)
        self.grads[position] = grad if earlier is None else earlier + grad
        self.capture.received(self)

    def is_bound(self, argument: object) -> bool:
        """Whether per-unit gradients of this argument are wanted."""
        return self.capture.slot(argument) is not None

    def layout(self, tensor: Tensor, features: int = 0) -> Layout:
        """Where the units lie in a tensor of this call (an argument, or the output's gradient)."""
        if self.n == 1:
            return WHOLE
        known = self.verdict
        if known is None:
            found = candidates(tensor, self.n, features)
            if len(found) == 1 and found[0].fold is Fold.PLAIN:
                return found[0]
            if not found:
                raise self._mismatch(tensor)
            known = self.verdict = self.capture.resolve(self.key, self.forward)
        layout = known.layouts[self._index(tensor)]
        if layout is None or not layout.fits(tensor, self.n, features):
            raise self._mismatch(tensor)
        return layout

    def _mismatch(self, tensor: Tensor) -> CaptureError:
        return self.error(
            f"none of the dimensions {tuple(tensor.shape)} of its data could be matched with "
            f"the batch's {self.n} rows. Keep one dimension of the data as the batch"
        )

    def _index(self, tensor: Tensor) -> int:
        """The place of a tensor among the data of this call, or else of its output."""
        leaves = [leaf for leaf in tree_flatten((self.args, self.kwargs))[0]
                  if isinstance(leaf, Tensor) and not self.is_bound(leaf)]  # fmt: skip
        for k, leaf in enumerate(leaves):
            if leaf is tensor:
                return k
        for position, grad in self.grads.items():
            if grad is tensor:
                return len(leaves) + position
        return len(leaves)

    def units(self, tensor: Tensor, like: Tensor | None = None, features: int = 0) -> Tensor:
        """The tensor with units first: `(n, ..., *features)`."""
        return self.layout(tensor if like is None else like, features).split(tensor, self.n)

    def positions(self, tensor: Tensor, like: Tensor | None = None, features: int = 1) -> Tensor:
        """The tensor as `(n, T, *features)`: every dimension before the features folded into T."""
        split = self.units(tensor, like, features)
        return split.reshape(self.n, -1, *split.shape[split.ndim - features :])

    def by_vmap(self) -> Iterator[tuple[Any, Contribution]]:
        """Per-unit gradients of this one call by `torch.func.vmap`, whatever the function."""
        return fallback.per_unit_gradients(self)

    def contributions(self) -> Iterable[tuple[Any, Contribution]]:
        """What this use adds to the per-unit gradients of each argument that is bound."""
        for tensor, version in self.versions:
            if tensor._version != version:
                raise self.error(
                    "its input was modified in place after the call, so its gradient cannot be "
                    "computed any more. Use the out-of-place form of the later operation"
                )
        rule = RULES.get(self.function)
        if rule is None or self.outputs > 1:
            return self.by_vmap()
        return rule(self, self.grads[0], *self.args, **self.kwargs)

    def error(self, problem: str) -> CaptureError:
        """An error that names the parameters and modules of this use."""
        names = self.capture.names_in(self.args, self.kwargs)
        return CaptureError(
            f"{getattr(self.function, '__name__', self.function)} on parameter "
            f"{', '.join(names)}: {problem}."
        )


class _Source(torch.autograd.Function):
    """A call whose data need no gradient: joins autograd's graph so that its output gets one."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, call: Callable[[], Any], use: Use) -> Any:
        ctx.use = use
        return call()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, None, None]:  # type: ignore[override]
        for position, grad in enumerate(grads):
            if grad is not None:
                ctx.use.receive(position, grad)
        return None, None, None


class Capture:
    """Collects the uses of a model's bound parameters, batch by batch.

    Args:
        model: the module whose forward is watched.
        parameters: the bound parameters, by name.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.model = model
        self.parameters = dict(parameters)
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._derived: dict[int, Derived] = {}
        self._received: dict[int, Use] = {}
        self.receipts = 0
        self._verdicts: dict[tuple[Any, ...], Verdict] = {}
        self._forwards: list[ForwardCall] = []
        self._rows: int | None = None
        self._mode: _Mode | None = None
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._exit, always_call=True),
        ]
        for name, parameter in parameters.items():
            self._handles.append(parameter.register_hook(self._escape(name)))

    def remove(self) -> None:
        """Take every hook off the model and its parameters."""
        for handle in self._handles:
            handle.remove()
        self.discard()

    def open(self, rows: int) -> None:
        """A drawn piece of `rows` rows begins: forwards in training mode are captured."""
        self.discard()
        self._rows = rows

    def discard(self) -> None:
        """Forget everything captured and not yet collected."""
        self._received.clear()
        self._derived.clear()
        self._forwards.clear()
        self.receipts = 0
        self._rows = None

    @property
    def has_gradients(self) -> bool:
        """Whether a backward pass delivered anything since `open`."""
        return bool(self._received)

    def received(self, use: Use) -> None:
        """A gradient arrived for a use."""
        if use.forward not in self._forwards:
            raise CaptureError(
                "A backward pass ran through the graph of an earlier batch. Compute the loss and "
                "call backward within the loop iteration that drew the batch."
            )
        self._received[id(use)] = use
        self.receipts += 1

    def collect(self, scale: float) -> PerUnitGradients:
        """The per-unit gradients of the open piece; the piece is closed.

        Args:
            scale: what autograd's gradients must be multiplied by to be per-unit gradients.
        """
        n = self._rows or 0
        found: dict[int, tuple[Any, list[Contribution]]] = {}

        def add(pairs: Iterable[tuple[Any, Contribution]]) -> None:
            for argument, contribution in pairs:
                if self.slot(argument) is not None:
                    found.setdefault(id(argument), (argument, []))[1].append(contribution)

        if n:
            for use in self._received.values():
                add(use.contributions())
            for derived in reversed(list(self._derived.values())):
                if id(derived.value) in found:
                    _, parts = found.pop(id(derived.value))
                    add(fallback.through(derived, _combine(parts), n, self.slot))
        named = {self._names[key]: reduced(_combine(parts)) for key, (_, parts) in found.items()}
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        self.discard()
        return PerUnitGradients(n, values, named, scale)

    def slot(self, argument: object) -> str | Derived | None:
        """The name of a bound parameter, or the derived parameter, that an argument is."""
        return self._names.get(id(argument)) or self._derived.get(id(argument))

    def names_in(self, args: Any, kwargs: Any) -> list[str]:
        """The bound parameters behind the arguments of a call, by name."""
        names: list[str] = []
        for leaf in tree_flatten((args, kwargs))[0]:
            slot = self.slot(leaf)
            if isinstance(slot, Derived):
                names += self.names_in(slot.args, slot.kwargs)
            elif slot is not None:
                names.append(f"'{slot}'")
        return sorted(set(names))

    @contextmanager
    def observing(
        self, forward: ForwardCall, seen: Observation, verdicts: Mapping[Key, Verdict]
    ) -> Iterator[None]:
        """Run a forward only to see which tensors its calls meet."""
        derived, self._derived = self._derived, {}
        mode = _Mode(self, forward, {**self._verdicts, **verdicts}, seen)
        try:
            with torch.enable_grad(), mode:
                yield
        finally:
            self._derived = derived

    def resolve(self, key: Key, forward: ForwardCall) -> Verdict:
        """Which dimension of a call's tensors holds the units, found by running the model."""
        if key not in self._verdicts:
            self._verdicts.update(probe(self, forward))
        if key not in self._verdicts:
            raise CaptureError(
                f"{key[1]} on parameter {', '.join(key[2])} did not happen again when the "
                "model ran twice on the same batch, so its batch dimension could not be found. "
                "Make the order of calls in forward depend on nothing but the batch's shape."
            )
        return self._verdicts[key]

    # -- forward -----------------------------------------------------------------------------

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._rows is None or self._mode or not (model.training and torch.is_grad_enabled()):
            return
        self._mode = _Mode(self, ForwardCall(model, args, kwargs, self._rows), self._verdicts)
        self._forwards.append(self._mode.forward)
        self._mode.__enter__()

    def _exit(self, *_: object) -> None:
        if self._mode:
            self._mode.__exit__(None, None, None)
            self._mode = None

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
            raise CaptureError(
                f"A gradient reached parameter '{name}' (module '{module}') by a path that the "
                "per-unit rules did not see, so it cannot be bounded. Use the parameter inside "
                "the model's own forward, in training mode (model.train()), or freeze it with "
                "requires_grad_(False)."
            )

        return raise_escape

    def derive_all(self, result: Any, function: Function, args: Any, kwargs: Any) -> Any:
        """Make each result of a function of parameters alone a parameter of its own."""
        if isinstance(result, Tensor):
            return self._derive(result, function, args, kwargs, None)
        derived = [
            self._derive(each, function, args, kwargs, k) if isinstance(each, Tensor) else each
            for k, each in enumerate(result)
        ]
        return type(result)(derived) if type(result) in (tuple, list) else tuple(derived)

    def _derive(
        self, value: Tensor, function: Function, args: Any, kwargs: Any, output: int | None
    ) -> Tensor:
        leaf = value.detach().requires_grad_()
        names = " and ".join(self.names_in(args, kwargs))

        def raise_escape(_: Tensor) -> None:
            raise CaptureError(
                f"A gradient reached a value computed from parameter {names} alone by a path that "
                "the per-unit rules did not see (a penalty on weights, say). Use the optimizer's "
                "weight_decay, which costs no privacy, or move the computation into forward."
            )

        leaf.register_hook(raise_escape)
        self._derived[id(leaf)] = Derived(leaf, function, args, kwargs, output)
        return leaf


def _combine(parts: list[Contribution]) -> Contribution:
    return parts[0] if len(parts) == 1 else Several(parts)


class _Mode(TorchFunctionMode):
    """Active during one forward of the model: finds the calls that take bound parameters."""

    def __init__(
        self,
        capture: Capture,
        forward: ForwardCall,
        verdicts: Mapping[Key, Verdict],
        observation: Observation | None = None,
    ) -> None:
        super().__init__()
        self.capture, self.forward, self.verdicts = capture, forward, verdicts
        self.observation = observation
        self.times: dict[Key, int] = {}

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if not self._touches(args, kwargs):
            result = func(*args, **kwargs)
            if not (isinstance(result, Tensor) and result.requires_grad):
                self._mark(func, args, kwargs, result)
            return result
        if func in _NO_GRADIENT:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__":
            # Metadata passes; a view by attribute (`W.T`) is a call like any other.
            result = func(*args, **kwargs)
            if not (isinstance(result, Tensor) and result.requires_grad):
                return result
        if func not in RULES and _is_composite(func):
            with self:
                return _see_through(func)(*args, **kwargs)
        return self._call(func, args, kwargs)

    def _touches(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
        slot = self.capture.slot
        for argument in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(argument, Tensor):
                if slot(argument) is not None:
                    return True
            elif isinstance(argument, (list, tuple)) and self._touches(argument, {}):
                return True
        return False

    def _mark(self, func: Function, args: Any, kwargs: Any, result: Any) -> None:
        """Data without gradient that came from the batch's rows stay known as such."""
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if not any(self.forward.carries_rows(leaf) for leaf in leaves):
            return
        name = getattr(func, "__name__", "")
        written = leaves[:1] if name == "__setitem__" else []
        for leaf in (*tree_flatten(result)[0], *written):
            if isinstance(leaf, Tensor) and not leaf.requires_grad:
                self.forward.mark(leaf)

    def _call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        capture, forward, n = self.capture, self.forward, self.forward.rows
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        data = [leaf for leaf in leaves if capture.slot(leaf) is None]
        key = self._key(func, args, kwargs)

        def run() -> Any:
            def detached(leaf: Any) -> Any:
                return leaf.detach() if capture.slot(leaf) is not None else leaf

            return func(*tree_map(detached, args), **tree_map(detached, kwargs))

        flowing = any(leaf.requires_grad for leaf in data)
        if flowing:
            result = run()
        else:
            with torch.no_grad():
                result = run()
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        tensors = [leaf for leaf in outputs if isinstance(leaf, Tensor)]
        if not any(leaf.is_floating_point() or leaf.is_complex() for leaf in tensors):
            return result
        carrying = any(forward.carries_rows(leaf) for leaf in data)
        constant = not carrying and n != 0
        if self.observation is not None:
            self.observation.record(key, [*data, *tensors], constant)
            if constant and len(outputs) == 1:
                result = self.observation.nudged(key, result, n)
                outputs = [result]
        if constant and self._is_constant(key, tensors):
            return capture.derive_all(result, func, args, kwargs)
        if carrying and n > 1 and not any(candidates(leaf, n) for leaf in data):
            raise CaptureError(
                f"{key[1]} on parameter {', '.join(key[2])} met data in which no dimension holds "
                f"the batch's {n} rows: the rows were mixed before (a mean or sum over the batch?),"
                " and a mixture cannot be bounded per row. Keep the batch dimension."
            )
        use = Use(capture, func, args, kwargs, n, key, self.verdicts.get(key), forward)
        use.outputs = len(outputs)
        if flowing:
            for position, output in enumerate(outputs):
                if isinstance(output, Tensor) and output.requires_grad:
                    output.register_hook(_receiver(use, position))
        else:
            result = _Source.apply(forward.anchor, lambda value=result: value, use)  # type: ignore[no-untyped-call]
        written = {id(output) for output in outputs}
        use.versions = [(leaf, leaf._version) for leaf in data if id(leaf) not in written]
        return result

    def _key(self, func: Function, args: Any, kwargs: Any) -> Key:
        names = tuple(self.capture.names_in(args, kwargs))
        site = (getattr(func, "__name__", str(func)), names)
        self.times[site] = self.times.get(site, -1) + 1
        return (self.times[site], *site)

    def _is_constant(self, key: Key, outputs: list[Tensor]) -> bool:
        """Whether a call that saw no rows is a function of parameters alone.

        It may also repeat a parameter for every row (a class token): only then does an extent of
        its output hold the rows.
        """
        n = self.forward.rows
        known = self.verdicts.get(key)
        if known is not None:
            return known.constant
        if n == 1 or not any(
            each.fold is Fold.PLAIN for leaf in outputs for each in candidates(leaf, n)
        ):
            return True
        if self.observation is not None:
            return False
        return self.capture.resolve(key, self.forward).constant


def _receiver(use: Use, position: int) -> Callable[[Tensor], None]:
    def receive(grad: Tensor) -> None:
        use.receive(position, grad)

    return receive


def _is_composite(func: Function) -> bool:
    """A Python function of torch.nn.functional: made of calls that can be seen one by one."""
    return isinstance(func, FunctionType) and func.__module__ == F.__name__


_SEEN_THROUGH: dict[Function, Function] = {}


def _see_through(func: Function) -> Function:
    """The same Python function, which does not hand itself to the mode but runs its body."""
    if func not in _SEEN_THROUGH:
        never = {
            name: (lambda *_: False) for name in func.__globals__ if "has_torch_function" in name
        }
        assert isinstance(func, FunctionType)
        clone = FunctionType(
            func.__code__, {**func.__globals__, **never}, func.__name__, func.__defaults__,
            func.__closure__,
        )  # fmt: skip
        clone.__kwdefaults__ = func.__kwdefaults__
        _SEEN_THROUGH[func] = clone
    return _SEEN_THROUGH[func]
