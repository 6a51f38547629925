"""A model that reorders or packs the rows of a batch is bounded row by row all the same.

Taking one row for another would mix two rows' gradients under one norm, and bound neither.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles.gradients import clipped_sum, relative_error
from oracles.release import released_sum


class Reordered(nn.Module):
    """The second layer sees the rows sorted by something of their own, or back to front."""

    def __init__(self, flipped: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.flipped = flipped

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.flipped:
            return self.second(h.flip(0)).flip(0)
        order = x[:, 0].argsort()
        return self.second(h[order])[order.argsort()]


class Packed(nn.Module):
    """Sequences of different lengths, in no order, packed for a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(4, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x[:, :, 0] > 0).sum(1).clamp_min(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        _, states = self.layer(packed)
        last = states[0] if isinstance(states, tuple) else states
        return self.head(last.transpose(0, 1).flatten(1))


MODELS = {
    "sorted": (lambda: Reordered(flipped=False), (4,)),
    "flipped": (lambda: Reordered(flipped=True), (4,)),
    "packed LSTM": (lambda: Packed(nn.LSTM), (6, 4)),
    "packed GRU": (lambda: Packed(nn.GRU), (6, 4)),
    "packed RNN": (lambda: Packed(nn.RNN), (6, 4)),
}


def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


@pytest.mark.parametrize("n", [1, 2, 6, 11])
@pytest.mark.parametrize("name", MODELS)
def test_moved_rows_equal_the_oracle(name: str, n: int) -> None:
    """Pitfall: users 3."""
    torch.manual_seed(n)
    build, shape = MODELS[name]
    model = build().double()
    batch = (torch.randn(n, *shape).double(), torch.randint(3, (n,)))
    expected = clipped_sum(model, batch, loss, 0.2)
    assert relative_error(released_sum(copy.deepcopy(model), batch, loss, 0.2), expected) < 1e-10
