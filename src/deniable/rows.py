"""How many examples a data set holds, how many rows a batch, and what tells data sets apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, TensorDataset

from deniable.data import Arrays
from deniable.errors import PlanError, StepError


def examples_in(data: Any) -> int:
    """How many examples a data set holds.

    Raises:
        PlanError: it has no length, or its tensors disagree.
    """
    tensors = tensors_of(data)
    if tensors is None:
        _refuse_no_data_set(data)
        return len(data)
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) != 1:
        raise PlanError(f"Tensors of one data set must have the same length, got {lengths}.")
    return lengths.pop()


def _refuse_no_data_set(data: Any) -> None:
    """Refuses what could be taken for a data set, and of which no rows can be drawn."""
    expects = "A data set is tensors or has __len__ and __getitem__ (map-style)"
    if isinstance(data, DataLoader):
        raise PlanError(
            f"{expects}, got a DataLoader, which chooses rows itself. Give its data set, "
            "loader.dataset; workers and collate_fn are arguments of private.loader."
        )
    parts = list(data.values()) if isinstance(data, Mapping) else data
    if isinstance(data, (tuple, Mapping)) and any(hasattr(each, "shape") for each in parts):
        kinds = ", ".join(sorted({type(each).__name__ for each in parts}))
        raise PlanError(
            f"{expects}, got a {type(data).__name__} of {kinds}. Give one tensor, or a tuple or "
            "dictionary of tensors (torch.from_numpy makes them of arrays)."
        )
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise PlanError(
            f"{expects}, got {type(data).__name__}. A stream cannot be sampled at random: load it "
            "into a list, or make the plan with sampling='own-loader' and use private.watch."
        )


def as_tensors(arrays: Arrays, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a part of a data set, on a device; on the CPU if not given."""
    return torch.from_numpy(arrays.inputs).to(device), torch.from_numpy(arrays.targets).to(device)


def tensors_of(data: Any) -> tuple[Tensor, ...] | None:
    """The tensors of a data set that is nothing else; None for every other data set."""
    if isinstance(data, Tensor):
        return (data,)
    if type(data) is TensorDataset:
        return data.tensors
    if isinstance(data, Mapping):  # by name; other keys are the indices of a map-style data set
        data = list(data.values()) if all(isinstance(each, str) for each in data) else ()
    if isinstance(data, (tuple, list)) and data and all(isinstance(each, Tensor) for each in data):
        return tuple(data)
    return None


def rows_in(batch: Any) -> int:
    """How many rows a batch holds.

    Raises:
        StepError: nothing in it has one entry for each row, or its parts disagree.
    """
    found = set(lengths_in(batch))
    if len(found) != 1:
        raise StepError(
            "A batch must hold tensors with one row for each example along dimension 0, got "
            f"lengths {sorted(found)}. Let collate_fn stack what belongs to an example so."
        )
    return found.pop()


def lengths_in(batch: Any) -> Iterator[int]:
    """The lengths of everything in a batch that may have one entry for each row.

    >>> list(lengths_in({"words": torch.zeros(3, 7), "names": ["a", "b", "c"], "scale": 2.0}))
    [3, 3]
    """
    match batch:
        case Tensor():
            yield from [len(batch)] if batch.dim() else []
        case PackedSequence():
            yield int(batch.batch_sizes[0]) if len(batch.batch_sizes) else 0
        case Mapping():
            for each in batch.values():
                yield from lengths_in(each)
        case tuple() | list():
            parts = [each for each in batch if not isinstance(each, (str, bytes, int, float))]
            if len(parts) < len(batch):
                yield len(batch)
            for each in parts:
                yield from lengths_in(each)


def fingerprint(data: Any, rows: int = 64) -> str:
    """A short digest that tells one data set from another: its shape and evenly spaced rows.

    For a data set that is not made of tensors, its length alone: its rows may be augmented anew at
    each reading.
    """
    digest = hashlib.sha256(str(examples_in(data)).encode())
    for tensor in tensors_of(data) or ():
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        spaced = torch.linspace(0, len(tensor) - 1, min(rows, len(tensor))).long()
        sample = tensor.detach()[spaced.to(tensor.device)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
    return digest.hexdigest()[:16]
