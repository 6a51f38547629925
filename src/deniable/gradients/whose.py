"""What can be known of whose the rows of a tensor are; see `order.py`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

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


@dataclass(eq=False)
class Tracking:
    """What is known of the tensors of one piece, or of one run of the probe.

    It is kept on the tensors themselves, with their version: what was written to since, by way of
    another view of the same memory, say, is known no more.

    Attributes:
        reordered: since when rows may have moved, in autograd's count; None if they have not.
    """

    reordered: int | None = None

    def mark(self, tensor: Tensor) -> None:
        """Note that a tensor without gradient was computed from the batch's rows."""
        tensor._deniable_rows = (self, version(tensor))  # type: ignore[attr-defined]

    def marked(self, tensor: Tensor) -> int | None:
        """The version in which a tensor was marked."""
        tracking, marked = getattr(tensor, "_deniable_rows", (None, 0))
        return marked if tracking is self else None

    def note(self, tensor: Tensor, known: Known) -> None:
        """Keep whose the indices of a tensor are."""
        tensor._deniable_order = (self, version(tensor), known)  # type: ignore[attr-defined]

    def noted(self, tensor: Tensor) -> Known | None:
        """Whose the indices of a tensor are, as far as that was noted."""
        tracking, noted, known = getattr(tensor, "_deniable_order", (None, 0, None))
        if tracking is not self:
            return None
        return known if noted == version(tensor) else WRITTEN


WRITTEN = Lost("a write to the same memory")


def version(tensor: Tensor) -> int:
    """How often the memory of a tensor was written to."""
    try:
        return tensor._version
    except RuntimeError:  # of a tensor made under inference_mode, which keeps no count
        return 0


def owners_of(packed: PackedSequence) -> Tensor:
    """Whose each step of packed sequences is."""
    columns = torch.cat([torch.arange(size) for size in packed.batch_sizes.tolist()])
    columns = columns.to(packed.data.device)
    return columns if packed.sorted_indices is None else packed.sorted_indices[columns]
