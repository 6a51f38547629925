"""Watching the torch functions of one forward, and changing those that take bound parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deniable.errors import CaptureError
from deniable.gradients.bags import embedding_bag
from deniable.gradients.layout import Fold, Layout, candidates
from deniable.gradients.moves import STARTS
from deniable.gradients.order import Order
from deniable.gradients.probe import ForwardCall, Key, Observation, Verdict, describe
from deniable.gradients.recurrent import RECURRENT
from deniable.gradients.rules import RULES
from deniable.gradients.tree import tensors_in
from deniable.gradients.use import Function, Source, Use
from deniable.gradients.whose import IN_ORDER, Lost, Met, Plain

if TYPE_CHECKING:
    from deniable.gradients.capture import Capture

# Functions that run as others do, with every use of a parameter in sight.
OPENED: dict[Function, Callable[..., Any]] = {**RECURRENT, F.embedding_bag: embedding_bag}

# Read or metadata functions of a parameter: no gradient flows through them.
_NO_GRADIENT = {
    Tensor.detach,
    Tensor.requires_grad_,
    Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.grad.__get__,  # type: ignore[union-attr]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
}


class Watch(TorchFunctionMode):
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
        self.unrecorded: dict[Key, int] = {}
        self.latest: Use | None = None
        self.order = Order(self)
        for packed in forward.packed:
            self.order.note_packed(packed)

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.forward.reordered is not None:
            self.order.settle(args, kwargs)
        if not torch.is_grad_enabled():
            touches = self._touches(args, kwargs)
            if touches:
                self.capture.expect_recomputation()
            result = func(*args, **kwargs)
            if touches and self.observation is not None:
                self._observe_unrecorded(func, args, kwargs, result)
            if self.forward.reordered is not None:
                if touches:
                    self.order.meets_unrecorded(args, kwargs)
                self.order.follow(func, args, kwargs, result)
            return result
        if func is F.batch_norm:
            _refuse_batch_statistics(*args, **kwargs)
        if not self._touches(args, kwargs):
            result = func(*args, **kwargs)
            if not (isinstance(result, Tensor) and result.requires_grad):
                self._mark(func, args, kwargs, result)
            if self.forward.reordered is not None or getattr(func, "__name__", "") in STARTS:
                self.order.follow(func, args, kwargs, result)
            return result
        if func in _NO_GRADIENT:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__":
            # Metadata passes; a view by attribute (`W.T`) is a call like any other.
            result = func(*args, **kwargs)
            if not (isinstance(result, Tensor) and result.requires_grad):
                return result
        if func in OPENED:
            return OPENED[func](self, *args, **kwargs)
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
        leaves = tensors_in(args, kwargs)
        if not any(self.forward.carries_rows(leaf) for leaf in leaves):
            return
        name = getattr(func, "__name__", "")
        written = leaves[:1] if name == "__setitem__" else []
        for leaf in (*tensors_in(result), *written):
            if not leaf.requires_grad:
                self.forward.mark(leaf)

    def _call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        capture, forward, n = self.capture, self.forward, self.forward.rows
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            capture.expect_recomputation()
        data: list[Tensor] = []
        names: list[str] = []
        detached = [self._detached(each, data, names) for each in args]
        options = {name: self._detached(each, data, names) for name, each in kwargs.items()}
        key = self._key(func, names)
        flowing = any(leaf.requires_grad for leaf in data)
        with torch.set_grad_enabled(flowing):
            result = func(*detached, **options)
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        tensors = [leaf for leaf in outputs if isinstance(leaf, Tensor)]
        if not any(leaf.is_floating_point() or leaf.is_complex() for leaf in tensors):
            return result
        carrying = any(forward.carries_rows(leaf) for leaf in data)
        constant = not carrying and n != 0
        met: Met | Lost | None = None
        if forward.reordered is not None:
            met = self.order.meets(func, args, data, tensors)
            if isinstance(met, Lost):
                self.order.refuse(describe(key), met)
        if self.observation is not None:
            seen = [*data, *tensors]
            if met is not None:
                seen = [forward.anchor] * len(seen)  # whose they are is known, or asked again
            self.observation.record(key, seen, constant)
            if constant and len(outputs) == 1:
                result = self.observation.nudged(key, result, n)
                outputs = [result]
        if constant and self._is_constant(key, tensors):
            return capture.derive_all(result, func, args, kwargs)
        followed = met is not None or n <= 1 or not carrying
        if not (followed or any(size % n == 0 for leaf in data for size in leaf.shape)):
            raise CaptureError(
                f"{describe(key)} met data in which no dimension holds "
                f"the batch's {n} rows: the rows were mixed before (a mean or sum over the batch?),"
                " and a mixture cannot be bounded per row. Keep the batch dimension."
            )
        use = Use(capture, func, args, kwargs, n, key, self.verdicts.get(key), forward)
        use.outputs = len(outputs)
        use.met = met if isinstance(met, Met) else None
        if flowing:
            for position, output in enumerate(outputs):
                if isinstance(output, Tensor) and output.requires_grad:
                    output.register_hook(_receiver(use, position))  # type: ignore[no-untyped-call]
        else:
            result = Source.apply(forward.anchor, lambda value=result: value, use)  # type: ignore[no-untyped-call]
            if forward.reordered is not None:
                for output, earlier in zip(tensors_in(result), tensors, strict=True):
                    self.order.note(output, self.order.of(earlier) or IN_ORDER)
        written = {id(output) for output in outputs}
        use.versions = [(leaf, leaf._version) for leaf in data if id(leaf) not in written]
        self.latest = use
        return result

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Use]:
        """A linear layer within an opened function, and the use that it is.

        Raises:
            CaptureError: its input holds no rows of the batch.
        """
        self.latest = None
        with self:
            output: Tensor = F.linear(input, weight, bias)
        use: Use | None = self.latest
        if use is None:
            raise CaptureError(
                f"Parameter {', '.join(self.capture.names_in((weight,), {}))} belongs to a "
                "recurrent layer whose input holds no row of the batch. Run the layer on data."
            )
        return output, use

    def _observe_unrecorded(self, func: Function, args: Any, kwargs: Any, result: Any) -> None:
        """A call without a graph: activation checkpointing will make it again, with one."""
        assert self.observation is not None
        data: list[Tensor] = []
        names: list[str] = []
        for each in (*args, *kwargs.values()):
            self._detached(each, data, names)
        self.times, counted = self.unrecorded, self.times
        key = self._key(func, names)
        self.times = counted
        if key not in self.observation.calls:
            seen = [*data, *tensors_in(result)]
            if not all(isinstance(self.order.known(leaf), Plain) for leaf in data):
                seen = [self.forward.anchor] * len(seen)
            self.observation.record(key, seen, False)

    def where(self, key: Key, tensor: Tensor) -> Layout | None:
        """Where the rows lie in a tensor that a call moves; None if that cannot be told."""
        if self.observation is not None:
            self.observation.record(key, [tensor], False)
            self.observation.sites.add(key)
        known = self.verdicts.get(key)
        if known is None:
            if self.observation is not None:
                return None
            known = self.capture.resolve(key, self.forward)
        layout = known.layouts[0]
        return layout if layout is not None and layout.fits(tensor, self.forward.rows) else None

    def _detached(self, value: Any, data: list[Tensor], names: list[str]) -> Any:
        """The argument without its bound parameters' gradients; what it holds is noted."""
        if isinstance(value, Tensor):
            found = self.capture.names_of(value)
            if not found:
                data.append(value)
                return value
            names += found
            return value.detach()
        if type(value) in (list, tuple):
            return type(value)([self._detached(each, data, names) for each in value])
        return value

    def _key(self, func: Function, names: list[str]) -> Key:
        site = (getattr(func, "__name__", str(func)), tuple(names))
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


def _refuse_batch_statistics(
    input: Tensor, mean: Any, variance: Any, weight: Any = None, bias: Any = None,
    training: bool = False, *_: Any, **__: Any,
) -> None:  # fmt: skip
    if training:
        raise CaptureError(
            "Batch normalisation in training mode makes every row's gradient depend on every "
            "other row, so no bound per row exists. Use group_norm or layer_norm."
        )


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
