"""A model that was run is afterwards what it was: buffers, attributes, weights, random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deniable.gradients.calls import ForwardCall
from deniable.gradients.tree import holders_within, put_back, tensors_within
from deniable.gradients.whose import version

_OF_ALL_MODULES = frozenset(vars(nn.Module()))
Named = tuple[str, Tensor]
Place = tuple[int, str]
"""Where a module holds something: its number in the model, and the attribute's name."""
MOST_NUMBERS = 1 << 16
"""In one array that a module holds, for it to be looked at."""
Held = dict[Place, list[tuple[Tensor, int]]]


@contextmanager
def undisturbed(
    forward: ForwardCall, dropout: bool, weights: Iterable[Named] = ()
) -> Iterator[list[tuple[Named, Tensor]]]:
    """Buffers, attributes, random numbers and these weights are afterwards what they were.

    Yields:
        The weights, by name, and what they were.
    """
    modules = [(each, dict(vars(each)), dict(each._buffers)) for each in forward.model.modules()]
    holders = [
        found
        for _, attributes, _ in modules
        for name, value in attributes.items()
        if name not in _OF_ALL_MODULES
        for found in holders_within(value)
    ]
    arrays = [
        (value, value.copy())
        for _, attributes, _ in modules
        for value in attributes.values()
        if isinstance(value, np.ndarray) and _is_number(value)
    ]
    values = [(each, version(each), each.detach().clone()) for each in forward.model.buffers()]
    kept = [((name, weight), weight.detach().clone()) for name, weight in weights]
    devices = {each.device for each in forward.model.parameters() if each.is_cuda}
    try:
        with torch.random.fork_rng([*devices]):
            if devices:
                torch.cuda.manual_seed_all(0)
            torch.set_rng_state(forward.random)
            if not dropout:
                leave_out_dropout(forward.model)
            yield kept
    finally:
        put_back(holders)
        for module, attributes, buffers in modules:
            for name in [name for name in vars(module) if name not in attributes]:
                del vars(module)[name]
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for array, before in arrays:
            if not np.array_equal(array, before, equal_nan=True):
                array[...] = before
        with torch.no_grad():
            for (_, weight), value in kept:
                if not torch.equal(weight, value):
                    weight.data.copy_(value)
            for buffer, seen, value in values:
                if version(buffer) != seen:
                    buffer.copy_(value)
                elif not torch.equal(buffer, value):  # written to by way of `data`
                    buffer.data.copy_(value)


def leave_out_dropout(model: nn.Module) -> None:
    """Set every layer's dropout to 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0


def held(model: nn.Module) -> Held:
    """The tensors that modules hold besides parameters, buffers and layers, and their versions."""
    return {
        place: [(each, version(each)) for each in tensors_within(value)]
        for place, value in _attributes(model)
    }


def numbers_held(model: nn.Module) -> dict[Place, Tensor]:
    """The numbers that modules hold, Python's and NumPy's: copies."""
    return {
        place: torch.from_numpy(np.array(value, dtype=np.float64))
        for place, value in _attributes(model)
        if _is_number(value)
    }


def begin_with_another(model: nn.Module, place: Place, like: Tensor) -> None:
    """Let a module hold another number than it does, or than it will."""
    attributes = vars([*model.modules()][place[0]])
    value: Any = attributes.get(place[1])
    value = value if _is_number(value) else like.numpy()
    attributes[place[1]] = not value if isinstance(value, bool) else value + 1


def _is_number(value: object) -> bool:
    """Whether it is a number, or an array of numbers that is no data set."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "biuf" and value.size <= MOST_NUMBERS
    return isinstance(value, (int, float))


def _attributes(model: nn.Module) -> Iterator[tuple[Place, Any]]:
    """What modules hold besides parameters, buffers and layers."""
    for k, module in enumerate(model.modules()):
        for name, value in vars(module).items():
            if name not in _OF_ALL_MODULES:
                yield (k, name), value


def left_since(before: Held, model: nn.Module) -> dict[Place, list[Tensor]]:
    """What modules hold now that is not what they held before, or was written to since."""
    return {
        key: [each for each, _ in tensors]
        for key, tensors in held(model).items()
        if not _same(tensors, before.get(key, []))
    }


def _same(some: list[tuple[Tensor, int]], others: list[tuple[Tensor, int]]) -> bool:
    """Whether they are the very same tensors, and nobody has written to them."""
    return len(some) == len(others) and all(
        each is other and seen == before
        for (each, seen), (other, before) in zip(some, others, strict=True)
    )


def unsaved() -> AbstractContextManager[object]:
    """Within activation checkpointing, which must not count what a probe saves."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
        return nullcontext()
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
