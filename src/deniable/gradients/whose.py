"""What can be known of whose the rows of a tensor are; see `order.py`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from deniable.gradients.layout import Owners


@dataclass(frozen=True)
class Lost:
    """Whose the indices of a tensor are is not known.

    Attributes:
        by: the function that lost it.
        mixed: whether values of several rows met in one place.
    """

    by: str
    mixed: bool = False


@dataclass(frozen=True)
class Met:
    """Whose the data of a call with parameters are, by identity, and whose its output is."""

    data: dict[int, Owners]
    output: Owners


class Plain(enum.Enum):
    """A tensor about whose rows there is nothing to say."""

    IN_ORDER = "rows lie as the batch has them, and shapes say where"
    NOBODYS = "sizes and constants"


IN_ORDER, NOBODYS = Plain.IN_ORDER, Plain.NOBODYS
Known = Owners | Lost | Plain


def alike(a: Known, b: Known) -> bool:
    """Whether two tensors hold the same rows, index for index."""
    if isinstance(a, Owners) and isinstance(b, Owners):
        return torch.equal(a.rows, b.rows)
    return all(not isinstance(each, Owners) or each.in_order for each in (a, b))
