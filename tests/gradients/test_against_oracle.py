"""At noise 0 a release is the sum of clipped per-example gradients, for every kind of use."""

from __future__ import annotations

import copy
import resource

import pytest
import torch
from torch import nn

from deniable.gradients import products
from gradients.networks import CASES, Case, class_loss
from oracles.gradients import clipped_sum, relative_error
from oracles.release import released_sum

# torch says these of even kernels under padding="same" and of projections, privacy or not.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

NORM = 0.3  # between the norms of the cases' gradients: some are clipped, some are not
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.parametrize(
    ("n", "rows", "dtype"),
    [
        (0, None, torch.float64),
        (1, None, torch.float64),
        (2, None, torch.float64),
        (6, None, torch.float64),
        (37, None, torch.float64),
        (37, 8, torch.float64),
        (37, None, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_release_equals_the_oracle(
    case: Case, n: int, rows: int | None, dtype: torch.dtype
) -> None:
    """Six rows are as many as positions in a sequence: there shapes alone say nothing.

    Pitfall: privacy 6. Pitfall: users 3. Pitfall: users 6.
    """
    if n == 0 and case.needs_rows:
        pytest.skip("torch's own function refuses an empty batch")
    torch.manual_seed(n)
    model = case.build().to(dtype)
    inputs, labels = case.batch(n)
    batch = (inputs.to(dtype) if inputs.is_floating_point() else inputs, labels)
    expected = clipped_sum(model, batch, case.loss, NORM)
    found = released_sum(copy.deepcopy(model), batch, case.loss, NORM, rows=rows)
    assert relative_error(found, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_release_equals_the_oracle_whichever_library_multiplies(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN, for products of any size and on any processor; it has float32 alone."""
    if not products._agrees():
        pytest.skip("this torch has no such operator of oneDNN")
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "LARGE", 1)
    torch.manual_seed(7)
    model, batch = case.build(), case.batch(7)
    expected = clipped_sum(model, batch, case.loss, NORM)
    found = released_sum(copy.deepcopy(model), batch, case.loss, NORM)
    assert relative_error(found, expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_vector_of_losses_gives_the_same_release(case: Case) -> None:
    torch.manual_seed(3)
    model, batch = case.build().double(), case.batch(5)
    batch = (batch[0].double() if batch[0].is_floating_point() else batch[0], batch[1])

    def losses(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        outputs = model(inputs)
        each = torch.nn.functional.cross_entropy(
            outputs.flatten(0, labels.ndim - 1), labels.flatten(), reduction="none"
        )
        return each.view(len(labels), -1).mean(1)

    expected = clipped_sum(model, batch, case.loss, NORM)
    found = released_sum(copy.deepcopy(model), batch, losses, NORM, per_row=True)
    assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("case", [each for each in CASES if each.inputs.__name__ != "tokens"],
                         ids=lambda case: case.name)  # fmt: skip
def test_a_row_that_is_not_finite_contributes_zero(case: Case, bad: float) -> None:
    """Pitfall: privacy 9."""
    torch.manual_seed(4)
    model = case.build().double()
    inputs, labels = case.batch(5)
    inputs = inputs.double()
    inputs[3, 0] = bad
    others = torch.tensor([0, 1, 2, 4])
    expected = clipped_sum(model, (inputs[others], labels[others]), case.loss, NORM)
    found = released_sum(copy.deepcopy(model), (inputs, labels), case.loss, NORM)
    assert relative_error(found, expected) < 1e-10


def test_an_embedding_never_forms_a_gradient_per_row_and_word() -> None:
    """One per row would take 64 x 1,000,000 x 16 numbers, 4 GB. Pitfall: users 5."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(1_000_000, 16), nn.Flatten(1), nn.Linear(48, 2))
    inputs = torch.randint(1_000_000, (64, 3))
    inputs[:, 1] = inputs[:, 0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    released_sum(model, (inputs, torch.zeros(64).long()), class_loss, 1.0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1_000_000, "kilobytes: the sum, the release and a copy or two"
