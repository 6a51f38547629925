"""Recurrent layers, opened up: what the table of cases does not say."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gradients.networks import Recurrent, class_loss, sequences
from oracles.gradients import clipped_sum, relative_error
from oracles.release import released_sum


def in_two_parts(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Half of the loss goes backward, and its graph is kept for the other half."""
    half = class_loss(model, x, labels) / 2
    half.backward(retain_graph=True)
    return half


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_graph_that_is_kept_gives_the_same_gradients_again(kind: type[nn.RNNBase]) -> None:
    """The gates' memory takes their gradients, but only where nobody needs the gates again."""
    torch.manual_seed(0)
    model = Recurrent(kind, num_layers=2).double()
    batch = sequences(7).double(), torch.randint(5, (7,))
    expected = clipped_sum(model, batch, class_loss, 0.3)
    found = released_sum(copy.deepcopy(model), batch, in_two_parts, 0.3)
    assert relative_error(found, expected) < 1e-10
