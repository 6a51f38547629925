"""The tensors among the arguments of a call: quicker than a general tree walk, on the hot path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice
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
    """Every list, dictionary and object's attributes within a value, and a copy of what it holds.

    What has been put there since is taken out again by `put_back`.
    """
    holder = value if isinstance(value, (list, dict)) else getattr(value, "__dict__", None)
    inner = [each for part in _parts(value, depth) for each in holders_within(part, depth - 1)]
    known = isinstance(holder, (list, dict)) and not isinstance(value, _CLOSED)
    return [(holder, copy.copy(holder)), *inner] if known and depth else inner


def put_back(holders: Iterable[tuple[Any, Any]]) -> None:
    """Let each hold what it held."""
    for holder, before in holders:
        if isinstance(holder, list):
            holder[:] = before
        else:
            holder.clear()
            holder.update(before)


_PLAIN = (str, bytes, int, float, complex, type(None))
_CLOSED = (Tensor, type, nn.Module, *_PLAIN)


def _parts(value: Any, depth: int) -> Iterable[Any]:
    """What a container or a plain object holds."""
    if not depth or isinstance(value, _CLOSED):
        return ()
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set)):
        return () if any(isinstance(each, _PLAIN) for each in islice(value, 1)) else value
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
