"""Watching the torch functions of one forward, and changing those that take bound parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deniable.errors import CaptureError
from deniable.gradients import products
from deniable.gradients.bags import embedding_bag
from deniable.gradients.calls import AGAIN, ForwardCall, Key, describe, may_hold, mixed_before
from deniable.gradients.cells import CELLS
from deniable.gradients.fallback import random_state
from deniable.gradients.layout import Layout, Owners, candidates
from deniable.gradients.moves import LIKE, STARTS, TURNING, plain_name, turns
from deniable.gradients.order import Order
from deniable.gradients.parameters import Function
from deniable.gradients.probe import Observation, Verdict
from deniable.gradients.recurrent import RECURRENT
from deniable.gradients.rules import RULES
from deniable.gradients.tree import tensors_in
from deniable.gradients.use import Source, Use
from deniable.gradients.whose import IN_ORDER, Lost, Met, version

if TYPE_CHECKING:
    from deniable.gradients.capture import Capture

# Functions that run as others do, with every use of a parameter in sight.
OPENED: dict[Function, Callable[..., Any]] = {
    **RECURRENT, **CELLS, F.embedding_bag: embedding_bag
}  # fmt: skip

# Read or metadata functions of a parameter: no gradient flows through them.
_NO_GRADIENT = {
    Tensor.detach,
    Tensor.requires_grad_,
    Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.grad.__get__,  # type: ignore[union-attr]
    Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
}


# Functions that ask a second tensor for its shape, and what does the same with a shape.
SHAPED: dict[Function, Function] = {
    Tensor.expand_as: Tensor.expand,
    Tensor.view_as: Tensor.view,
    Tensor.reshape_as: Tensor.reshape,
}

# Functions that write to their first argument, element by element.
WRITING = {
    Tensor.__setitem__, Tensor.copy_, Tensor.add_, Tensor.__iadd__, Tensor.sub_, Tensor.__isub__,
    Tensor.mul_, Tensor.__imul__, Tensor.div_, Tensor.__itruediv__,
}  # fmt: skip


# Functions that give memory as it happens to be: what they return is nobody's until written to.
_UNWRITTEN = {"new_empty", "empty_like"}


class Watch(TorchFunctionMode):
    """Active during one forward of the model: finds the calls that take bound parameters.

    Attributes:
        times: how often each call was met, in this forward and those of the batch before it.
        trail: which call followed which, by name: where that is new, so is the kind of forward.
        turned: which dimensions calls were told to turn: where that changes, so do layouts.
    """

    def __init__(
        self,
        capture: Capture,
        forward: ForwardCall,
        verdicts: Mapping[Key, Verdict],
        observation: Observation | None = None,
    ) -> None:
        super().__init__()
        self.capture, self.forward, self.verdicts = capture, forward, verdicts
        self.bound = capture.bound
        self.observation = observation
        self.times: dict[Key, int] = dict(forward.counted)
        self.unrecorded: dict[Key, int] = {}
        self.trail: set[tuple[str, str]] = set()
        self.turned: set[str] = set()
        self._before = ""
        self.latest: Use | None = None
        self.order = Order(self)
        for packed in forward.packed:
            self.order.note_packed(packed)

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self.trail.add((self._before, name))
        self._before = name
        if name in TURNING or name == "__get__":
            self.turned.add(turns(func, name, args, kwargs))
        if self.capture.stale:
            self.capture.refuse_stale(args, kwargs)
        if func is F.batch_norm:
            _refuse_batch_statistics(*args, **kwargs)
        if self.order.begun:
            self.order.settle(func, args, kwargs)
        touches = self._touches(args, kwargs)
        if torch.is_grad_enabled() and touches:
            return self._with_parameters(func, types, args, kwargs)
        if func is F.embedding_bag and self.order.begun:
            return embedding_bag(self, *args, **kwargs)
        if touches:
            self.capture.expect_recomputation()
        result = func(*args, **kwargs)
        if touches and self.observation is not None:
            self._observe_unrecorded(func, args, kwargs, result)
        if touches and self.order.begun:
            self.order.meets_unrecorded(args, kwargs)
        if not (isinstance(result, Tensor) and not result.is_leaf):
            self._mark(func, args, kwargs, result)
        if self.order.begun or name in STARTS:
            self.order.follow(func, args, kwargs, result)
        return result

    def _with_parameters(
        self, func: Function, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func in _NO_GRADIENT:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__":
            # Metadata passes; a view by attribute (`W.T`) is a call like any other.
            result = func(*args, **kwargs)
            if not (isinstance(result, Tensor) and result.requires_grad):
                return result
        if func is Tensor.__setitem__ and _is_mask(args[1]) and not self.bound.holds(args[0]):
            return self._assign(*args)
        if (
            func in WRITING
            and self._touches(args, {})
            and (func not in RULES or args[0]._is_view() or not args[0].requires_grad)
        ):
            return self.__torch_function__(func, types, self._spread(func, args), kwargs)
        if len(args) == 2 and (plain_name(func) in LIKE or func in SHAPED):
            value, like = args
            if isinstance(like, Tensor):  # only its type or shape is asked
                asked = (like.shape,) if func in SHAPED else (like.device, like.dtype)
                plainly: Function = SHAPED.get(func, Tensor.to)
                return self.__torch_function__(plainly, types, (value, *asked))
        if func in OPENED:
            return OPENED[func](self, *args, **kwargs)
        if func not in RULES and _is_composite(func):
            with self:
                return _see_through(func)(*args, **kwargs)
        return self._call(func, args, kwargs)

    def _assign(self, target: Tensor, mask: Tensor, value: Tensor) -> None:
        """`target[mask] = value` with a parameter as the value, such as a mask token."""
        with self:
            places = mask.view(*mask.shape, *[1] * (target.ndim - mask.ndim))
            target.copy_(torch.where(places, value, target.clone()))

    def _spread(self, func: Function, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call that writes, its parameters spread over what is written to.

        So that autograd sees the write itself, whichever view of the memory is read later.
        """
        target, *others = args
        written = target.detach()[others[0]] if func is Tensor.__setitem__ else target
        if not self.bound.holds(target):
            others = [
                self.spread(each, written.shape) if isinstance(each, Tensor) else each
                for each in others
            ]
        if self._touches((target, *others), {}):
            raise CaptureError(
                f"{func.__name__} on parameter {self.bound.quoted(args)} writes "
                "in place, which cannot be followed back to the parameter. Build the value out of "
                "place (torch.cat, torch.stack, torch.where)."
            )
        return (target, *others)

    def spread(self, value: Tensor, shape: torch.Size) -> Tensor:
        """A parameter as data of this shape; anything else as it is."""
        if not self.bound.holds(value):
            return value
        spread: Tensor = self._call(Tensor.expand, (value, *shape), {}, spread=True)
        return spread

    def _touches(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
        is_bound = self.bound.holds
        for argument in (*args, *kwargs.values()) if kwargs else args:
            if is_bound(argument):
                return True
            if isinstance(argument, (list, tuple)) and self._touches(argument, {}):
                return True
        return False

    def _mark(self, func: Function, args: Any, kwargs: Any, result: Any) -> None:
        """Data without gradient that came from the batch's rows stay known as such."""
        asked = plain_name(func) in LIKE or func in SHAPED  # of the second, only type or shape
        leaves = tensors_in(args[:1] if asked else args, kwargs)
        data = (leaf for leaf in leaves if not self.bound.holds(leaf))
        if not any(map(self.forward.carries_rows, data)):
            return
        name = getattr(func, "__name__", "")
        if name in _UNWRITTEN:
            return
        written = leaves[:1] if name == "__setitem__" else []
        for leaf in (*tensors_in(result), *written):
            if leaf.is_leaf:
                self.forward.tracking.mark(leaf)

    def _call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], spread: bool = False
    ) -> Any:
        capture, forward, n = self.capture, self.forward, self.forward.rows
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise CaptureError(
                f"{self.bound.quoted(args, kwargs)} met a torch.func transform (vmap, "
                "grad) within forward, which hides the rows. Write the computation on the batch."
            )
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            if _is_in_checkpointed_function():
                raise CaptureError(
                    f"Parameter {self.bound.quoted(args, kwargs)} is used by a function under "
                    "activation checkpointing, which runs again where nobody watches. Give "
                    "checkpoint a module, in whose forward the parameter is used."
                )
            capture.expect_recomputation()
        data: list[Tensor] = []
        bound: list[Tensor] = []
        detached = [self._detached(each, data, bound) for each in args]
        options = {name: self._detached(each, data, bound) for name, each in kwargs.items()}
        key = self._key(func, bound)
        self.order.passed(key)
        if any(leaf.is_nested for leaf in data):
            raise CaptureError(
                f"{describe(key)} met a nested tensor, in which rows have no shape in common. Pad "
                "it (to_padded_tensor), or pack sequences (pack_padded_sequence)."
            )
        flowing = any(leaf.requires_grad for leaf in data)
        versions = [(leaf, version(leaf)) for leaf in (*data, *bound)]
        carrying = any(forward.carries_rows(leaf) for leaf in data)
        constant = not carrying and n != 0
        random = random_state(bound[0].device) if constant else None
        with nullcontext() if flowing else torch.no_grad():
            compute = products.BY_LIBRARY.get(func, func)
            result = _unaliased(compute(*detached, **options), [*detached, *options.values()])
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        kept = self._unwritten(key, versions, outputs)
        tensors = [leaf for leaf in outputs if isinstance(leaf, Tensor)]
        if not any(map(_is_continuous, tensors)):
            self._mark(func, args, kwargs, result)
            return result
        met: Met | Lost | None = None
        if self.order.begun:
            met = self.order.meets(func, args, data, tensors)
            if isinstance(met, Lost):
                self.order.refuse(describe(key), met)
        if self.observation is not None:
            outputs = self._observe(key, data, outputs, met, constant)
            result = outputs[0] if isinstance(result, Tensor) else result
        if constant and not (spread and n == 1) and self._is_constant(key, data, tensors):
            if random is not None and torch.equal(random, random_state(bound[0].device)):
                random = None
            return self.bound.derive(result, func, args, kwargs, random)
        followed = met is not None or n <= 1 or not carrying
        followed = followed or self.observation is not None  # which sees whether they were rows
        if not (followed or any(size % n == 0 for leaf in data for size in leaf.shape)):
            raise mixed_before(key, n)
        use = Use(capture, func, args, kwargs, n, key, forward)
        use.outputs = len(outputs)
        use.met = met if isinstance(met, Met) else None
        use.versions = kept
        self.latest = use
        joined = [self._joined(use, k, output) for k, output in enumerate(outputs)]
        if not isinstance(result, (tuple, list)):
            return joined[0]
        return joined if isinstance(result, list) else type(result)(joined)

    def _joined(self, use: Use, position: int, output: Any) -> Any:
        """One output of a call, in autograd's graph and with its gradient on the way to the use."""
        if not isinstance(output, Tensor) or not _is_continuous(output):
            return output
        if output.grad_fn is not None:
            output.grad_fn.register_prehook(_receiver(use, position, output.output_nr))
            return output
        result = Source.apply(self.forward.anchor, lambda: output, use, position)  # type: ignore[no-untyped-call]
        if self.order.begun:
            self.order.note(result, self.order.of(output) or IN_ORDER)
        return result

    def _unwritten(
        self, key: Key, versions: list[tuple[Tensor, int]], outputs: list[Any]
    ) -> list[tuple[Tensor, int]]:
        """What a call did not write to: it may write to data alone, and must return those."""
        kept = []
        for leaf, seen in versions:
            if version(leaf) == seen:
                kept.append((leaf, seen))
                continue
            returned = any(leaf is output for output in outputs)
            if self.bound.holds(leaf) or leaf._is_view() or not returned:
                raise CaptureError(
                    f"{describe(key)} writes to its arguments in place, which cannot be followed. "
                    "Use the form that leaves them as they are (mul instead of mul_, no max_norm)."
                )
        return kept

    def _observe(
        self, key: Key, data: list[Tensor], outputs: list[Any], met: Met | Lost | None,
        constant: bool,
    ) -> list[Any]:  # fmt: skip
        """Note what a call met in a run of the probe; the outputs that the run goes on with."""
        assert self.observation is not None
        tensors = [leaf for leaf in outputs if isinstance(leaf, Tensor)]
        whose: dict[int, Owners] = {}
        if isinstance(met, Met):
            whose = met.data | {id(leaf): met.output for leaf in tensors if met.output.names(leaf)}
        if not isinstance(met, Lost):
            self.observation.record(key, [*data, *tensors], whose)
        if constant:
            self.observation.constants.add(key)
        if len(outputs) == 1 and isinstance(outputs[0], Tensor):
            return [self.observation.nudged(key, outputs[0])]
        return outputs

    def linear(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, *others: Tensor | None
    ) -> tuple[Tensor, Use | None]:
        """A linear layer within an opened function, and the use that it is.

        Args:
            input: its input.
            weight: its weight; it may be frozen.
            bias: its bias, if any.
            others: parameters beside which it stands; no use is returned if none at all is bound.

        Raises:
            CaptureError: its input holds no rows of the batch.
        """
        if not self._touches((weight, bias, *others), {}):
            with self:
                return F.linear(input, weight, bias), None
        self.latest = None
        output: Tensor = self._call(F.linear, (input, weight, bias), {})
        if self.latest is None:
            raise CaptureError(
                f"Parameter {self.bound.quoted(weight, bias, *others)} belongs to a recurrent "
                "layer whose input holds no row of the batch. Run the layer on data."
            )
        return output, self.latest

    def _observe_unrecorded(self, func: Function, args: Any, kwargs: Any, result: Any) -> None:
        """A call without a graph: activation checkpointing will make it again, with one."""
        assert self.observation is not None
        data: list[Tensor] = []
        bound: list[Tensor] = []
        for each in (*args, *kwargs.values()):
            self._detached(each, data, bound)
        site = self._site(func, bound)
        count = self.unrecorded[site] = self.unrecorded.get(site, 0) + 1
        self.observation.record((-count, *site), [*data, *tensors_in(result)], {})

    def where(self, key: Key, tensor: Tensor) -> Layout | None:
        """Where the rows lie in a tensor that a call moves; None if that cannot be told."""
        if self.observation is not None:
            self.observation.record(key, [tensor], {})
            self.observation.sites.add(key)
        known = self.verdicts.get(key)
        if known is None:
            if self.observation is not None:
                return None
            known = self.capture.verdicts.of(key, self.forward)
        layout = known.layouts[0] if known is not None else None
        return layout if layout is not None and layout.fits(tensor, self.forward.rows) else None

    def _detached(self, value: Any, data: list[Tensor], bound: list[Tensor]) -> Any:
        """The argument without its bound parameters' gradients; what it holds is noted."""
        if isinstance(value, Tensor):
            if not self.bound.holds(value):
                data.append(value)
                return value
            bound.append(value)
            return value.detach()
        if type(value) in (list, tuple):
            return type(value)([self._detached(each, data, bound) for each in value])
        return value

    def _site(self, func: Function, bound: list[Tensor]) -> Key:
        names = tuple(name for each in bound for name in self.bound.names_of(each))
        return (getattr(func, "__name__", str(func)), names)

    def _key(self, func: Function, bound: list[Tensor]) -> Key:
        site = self._site(func, bound)
        if self.order.recomputing and (AGAIN, *site) in self.verdicts:
            return (AGAIN, *site)
        self.times[site] = self.times.get(site, -1) + 1
        return (self.times[site], *site)

    def _is_constant(self, key: Key, data: list[Tensor], outputs: list[Tensor]) -> bool:
        """Whether a call that saw no rows is a function of parameters alone.

        It may also repeat a parameter for every row (a class token): only then does an extent of
        its output hold the rows.
        """
        n = self.forward.rows
        known = self.verdicts.get(key)
        if known is not None:
            return known.constant
        index = max((leaf.ndim for leaf in data), default=0)
        if n == 1 or not any(
            may_hold(key, each, index) for leaf in outputs for each in candidates(leaf, n)
        ):
            return True
        if self.observation is not None:
            return False
        known = self.capture.verdicts.of(key, self.forward)
        if known is None:
            raise CaptureError(
                f"{describe(key)} did not happen again when the model ran twice on the same "
                "batch, so nothing shows whether its value holds rows. Make the order of calls in "
                "forward depend on nothing but the batch's shape."
            )
        return known.constant


def _refuse_batch_statistics(
    input: Tensor, mean: Any, variance: Any, weight: Any = None, bias: Any = None,
    training: bool = False, *_: Any, **__: Any,
) -> None:  # fmt: skip
    if training:
        raise CaptureError(
            "Batch normalisation in training mode makes every row's gradient depend on every "
            "other row, so no bound per row exists. deniable.replace_batchnorm(model, optimizer) "
            "puts GroupNorm in its place. If the layer is frozen, model.train() has set it to "
            "training: call its eval() after that."
        )


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool


_as_its_own = torch.ops.aten._unsafe_view.default


def _unaliased(result: Any, args: list[Any]) -> Any:
    """A view of memory that nobody else holds, as a tensor of its own.

    A linear layer on sequences, say, returns a view of a matrix. Were that written to in place,
    autograd would go around the hook on it.
    """
    if not (isinstance(result, Tensor) and result._is_view()):
        return result
    memory = result.untyped_storage().data_ptr()
    if memory and any(leaf.untyped_storage().data_ptr() == memory for leaf in tensors_in(args)):
        return result
    own: Tensor = _as_its_own(result, result.shape)
    return own


def _receiver(use: Use, position: int, number: int) -> Callable[[tuple[Tensor | None, ...]], None]:
    """What takes the gradients that reach a node, after every hook of the user's on its tensors."""

    def receive(grads: tuple[Tensor | None, ...]) -> None:
        grad = grads[number]
        if grad is not None:
            use.receive(position, grad)

    return receive


def _is_continuous(tensor: Tensor) -> bool:
    """Whether its values can have a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def _is_in_checkpointed_function() -> bool:
    """Whether of all callers the nearest is activation checkpointing, with no module in between."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            return False
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


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
