"""The tensors among the arguments of a call: quicker than a general tree walk, on the hot path."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


def tensors_in(*values: Any) -> list[Tensor]:
    """Every tensor within lists, tuples and dictionaries, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


def tensors_within(value: Any, depth: int = 5) -> list[Tensor]:
    """The same, those in the attributes of objects included, as deep as `depth`."""
    if isinstance(value, Tensor):
        return [value]
    return [found for each in _parts(value, depth) for found in tensors_within(each, depth - 1)]


def holders_within(value: Any, depth: int = 5) -> list[tuple[Any, Any]]:
    """Every list, dictionary and attributes of objects within a value, and a copy of each."""
    if not depth or isinstance(value, _CLOSED):
        return []
    inner = [each for part in _parts(value, depth) for each in holders_within(part, depth - 1)]
    holder = value if isinstance(value, (list, dict)) else getattr(value, "__dict__", None)
    if not isinstance(holder, (list, dict)) or callable(value) or _is_torchs(value):
        return inner
    return [(holder, copy.copy(holder)), *inner]


def put_back(holders: Iterable[tuple[Any, Any]]) -> None:
    """Let each hold the tensors that it held; whatever else it holds is left alone."""
    for holder, before in holders:
        if isinstance(holder, list):
            same = len(holder) == len(before) and all(map(operator.is_, holder, before))
            if not same and tensors_in(holder, before):
                holder[:] = before
            continue
        for name in {**before, **holder}:
            was, now = (each.get(name, _ABSENT) for each in (before, holder))
            if was is now or not tensors_in(was, now):
                continue
            if was is _ABSENT:
                del holder[name]
            else:
                holder[name] = was


_ABSENT = object()
_PLAIN = (str, bytes, int, float, complex, type(None))
_CLOSED = (Tensor, type, nn.Module, *_PLAIN)


def _is_torchs(value: Any) -> bool:
    """Whether an object is torch's own (a process group, say), and no answer of a model."""
    module = type(value).__module__
    return module.startswith("torch.") and not module.startswith("torch.distributions.")


def _parts(value: Any, depth: int) -> Iterable[Any]:
    """What a container or a plain object holds."""
    if not depth or isinstance(value, _CLOSED):
        return ()
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set)):
        return [each for each in value if not isinstance(each, _PLAIN)]
    if _is_torchs(value):
        return ()
    slots = [name for each in type(value).__mro__ for name in getattr(each, "__slots__", ())]
    parts = [getattr(value, name) for name in slots if hasattr(value, name)]
    return parts if callable(value) else [*parts, *getattr(value, "__dict__", {}).values()]


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A copy in which each tensor that `tensors_in` finds, and each packed sequence, is another.

    Lists, tuples and dictionaries keep their class: a subclass that a general tree walk takes for a
    leaf would keep its tensors.
    """
    if isinstance(value, (Tensor, PackedSequence)):
        return function(value)
    if isinstance(value, (dict, list)):
        made = copy.copy(value)
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            made[key] = mapped(function, each)
        return made
    if isinstance(value, tuple):
        items = [mapped(function, each) for each in value]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    return value
