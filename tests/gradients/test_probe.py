"""Which runs tell all rows apart, and what counts as a difference between two of them."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deniable.gradients.layout import WHOLE, Fold, Layout, Owners
from deniable.gradients.probe import separating
from deniable.gradients.trace import Trace
from gradients.networks import class_loss
from oracles.gradients import clipped_sum, relative_error
from oracles.release import released_sum


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20, 21, 64])
def test_any_row_is_replaced_where_any_other_stays(n: int) -> None:
    masks = torch.stack([*separating(n)])
    for one, other in itertools.permutations(range(n), 2):
        assert bool((masks[:, one] & ~masks[:, other]).any())
    assert len(masks) <= 2 + torch.tensor(float(n)).log2().ceil() + (n < 4)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_change_is_found_in_the_row_where_it_is(dtype: torch.dtype, exact: bool) -> None:
    before = torch.randint(2, (5, 3)).to(dtype)
    after = before.clone()
    after[2] = 1 - after[2].long()
    one, other = (Trace.of(each, 5, None, exact) for each in (before, after))
    assert one.moved(other) and not one.moved(one)
    assert one.confined(other, torch.arange(5) == 2) == [Layout(0, Fold.PLAIN)]
    assert one.confined(other, torch.arange(5) == 1) == []


def test_rounding_is_no_change_and_an_infinite_mask_hides_none() -> None:
    before = torch.randn(4, 50)
    before[:, :25] = float("-inf")
    after = before.clone()
    after[1] *= 1 + 1e-6
    one, other = (Trace.of(each, 4, None, exact=False) for each in (before, after))
    assert not one.moved(other)
    after[1, 40:] += 1
    assert one.moved(Trace.of(after, 4, None, exact=False))


def test_moved_rows_are_compared_row_by_row() -> None:
    values, order = torch.randn(6, 3), torch.randperm(6)
    one = Trace.of(values[order], 6, Owners(0, Fold.OWNED, order), exact=True)
    again = order.flip(0)
    other = Trace.of(values[again], 6, Owners(0, Fold.OWNED, again), exact=True)
    assert one.comparable(other) and not one.moved(other)


def test_what_no_dimension_can_hold_is_nobodys() -> None:
    one, other = (Trace.of(each, 5, None, True) for each in (torch.zeros(3), torch.ones(3)))
    assert [layout for layout, _ in one.sums] == [WHOLE]
    assert one.moved(other) and one.confined(other, torch.ones(5, dtype=torch.bool)) == []


def test_both_dimensions_are_possible_until_something_moves() -> None:
    before, after = torch.zeros(4, 4), torch.zeros(4, 4)
    after[:, 2] = 1
    one, other = (Trace.of(each, 4, None, True) for each in (before, after))
    assert one.confined(other, torch.arange(4) == 2) == [Layout(1, Fold.PLAIN)]


class Squared(nn.Module):
    """A layer with as many outputs as the batch has rows, its weight a function of a parameter."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.randn(rows, 4))
        self.head = nn.Linear(rows, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(torch.relu(x), self.root.square()))


@pytest.mark.parametrize("n", [3, 4, 6])
def test_features_are_not_taken_for_rows_where_only_one_row_is_alive(n: int) -> None:
    """The one row follows the feature of its own number, but the others, too."""
    torch.manual_seed(n)
    inputs = -torch.rand(n, 4, dtype=torch.float64)
    inputs[n // 2] *= -1
    batch = inputs, torch.randint(5, (n,))
    model = Squared(n).double()
    expected = clipped_sum(model, batch, class_loss, 0.3)
    assert relative_error(released_sum(model, batch, class_loss, 0.3), expected) < 1e-10
