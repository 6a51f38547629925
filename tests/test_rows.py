"""How many rows a batch holds, in any shape that a loader gives it."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from deniable.errors import PlanError, StepError
from deniable.rows import examples_in, rows_in

BATCHES: dict[str, Any] = {
    "tensor": torch.zeros(3, 5),
    "pair": (torch.zeros(3, 5), torch.zeros(3)),
    "list": [torch.zeros(3, 5), torch.tensor(1.0)],
    "dict": {"x": torch.zeros(3, 2), "y": torch.zeros(3)},
    "mapping of a library": UserDict(input_ids=torch.zeros(3, 9), labels=torch.zeros(3)),
    "nested": {"x": (torch.zeros(3), {"z": torch.zeros(3, 1)}), "names": ["a", "b", "c"]},
    "packed": (pack_sequence([torch.zeros(4, 2), torch.zeros(2, 2), torch.zeros(1, 2)]),),
    "names alone": ["a", "b", "c"],
    "none": [torch.zeros(0, 5), torch.zeros(0)],
}


@pytest.mark.parametrize("name", BATCHES)
def test_rows_are_counted(name: str) -> None:
    assert rows_in(BATCHES[name]) == (0 if name == "none" else 3)


@pytest.mark.parametrize(
    "batch",
    [torch.tensor(1.0), {}, (torch.zeros(3), torch.zeros(4)), object()],
    ids=["no rows", "nothing", "unequal", "no batch"],
)
def test_what_cannot_be_counted_is_refused(batch: Any) -> None:
    with pytest.raises(StepError, match="one row for each example"):
        rows_in(batch)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (DataLoader(TensorDataset(torch.zeros(4, 2))), "loader.dataset"),
        ((torch.zeros(4, 2).numpy(), torch.zeros(4).numpy()), "tuple of ndarray"),
        ({"x": torch.zeros(4, 2).numpy()}, "dict of ndarray"),
        (iter([1, 2]), "own-loader"),
    ],
)
def test_what_no_row_can_be_drawn_of_is_refused_with_the_mend(data: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        examples_in(data)
