"""The tensors among the arguments of a call: quicker than a general tree walk, on the hot path."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor
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


def tensors_within(value: Any) -> list[Tensor]:
    """The same, those in the attributes of a plain object (a data class, say) included."""
    if isinstance(value, (Tensor, list, tuple, dict)) or not hasattr(value, "__dict__"):
        return tensors_in(value)
    return tensors_in(vars(value))


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
