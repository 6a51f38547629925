"""A model that reorders or packs the rows of a batch is bounded row by row all the same.

Taking one row for another would mix two rows' gradients under one norm, and bound neither.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deniable.errors import CaptureError
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


class Between(nn.Module):
    """On sorted rows: a frozen layer, a parameter by itself, and rows cleared as they have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.frozen = nn.Sequential(nn.Linear(6, 6), nn.PReLU()).requires_grad_(False)
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        h = self.frozen(self.first(x)[order]) - self.shift
        h = h.clone()
        h[x[order, 1] > 0] = 0
        return self.second(h)[order.argsort()]


class Constant(nn.Module):
    """A place of nobody's beside the sorted rows; its output goes into every row, or into none."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        h = self.first(x)[order]
        made = self.second(torch.cat([h, torch.zeros(1, 6, dtype=h.dtype)]))
        back = made[:-1][order.argsort()]
        return back + made[-1] if self.shared else back


class Experts(nn.Module):
    """Each token goes through the expert that its router picks, and is added to its place.

    Args:
        wrong: added to the place beside it, where the next row's tokens may lie.
    """

    def __init__(self, scattered: bool = False, wrong: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))
        self.scattered, self.wrong = scattered, wrong

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        odds = self.router(tokens).softmax(-1)
        picked = odds.argmax(-1)
        total = tokens.new_zeros(len(tokens), 3)
        for k, expert in enumerate(self.experts):
            places = torch.where(picked == k)[0]
            found = expert(tokens[places]) * odds[places, k, None]
            places = (places + 1) % len(tokens) if self.wrong else places
            if self.scattered:
                total = total.scatter_add(0, places[:, None].expand_as(found), found)
            else:
                total.index_add_(0, places, found)
        return total.view(*x.shape[:2], 3).mean(1)


class Written(Experts):
    """The same, written into an empty tensor; an expert that nobody picks is passed over.

    Args:
        blank: memory as it happens to be, rather than zeros.
    """

    def __init__(self, blank: bool) -> None:
        super().__init__()
        self.blank = blank

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        odds, picked = self.router(tokens).softmax(-1).max(-1)
        make = tokens.new_empty if self.blank else tokens.new_zeros
        total = make(len(tokens), 3)
        for k, expert in enumerate(self.experts):
            mine = picked == k
            if mine.any():
                total[mine] = expert(tokens[mine]) * odds[mine, None]
        return total.view(*x.shape[:2], 3).mean(1)


MODELS = {
    "experts": (Experts, (5, 4)),
    "written experts": (lambda: Written(blank=False), (5, 4)),
    "experts written to new memory": (lambda: Written(blank=True), (5, 4)),
    "scattered experts": (lambda: Experts(scattered=True), (5, 4)),
    "between": (Between, (4,)),
    "beside": (lambda: Constant(shared=False), (4,)),
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


def test_an_expert_that_only_the_last_row_picks_is_followed() -> None:
    """The first rows, which are run beforehand, do not show where it finds its tokens."""
    torch.manual_seed(0)
    model = Written(blank=False).double()
    x = torch.randn(15, 5, 4).double().mul(0.01).add(torch.randn(4).double())
    with torch.no_grad():
        picks = model.router(x.flatten(0, 1)).argmax(-1)
        assert len(picks.unique()) == 1
        towards = model.router.weight[picks[0] - 1] - model.router.weight[picks[0]]
        x[-1] += 20 * towards
    batch = (x, torch.randint(3, (15,)))
    expected = clipped_sum(model, batch, loss, 0.2)
    assert relative_error(released_sum(copy.deepcopy(model), batch, loss, 0.2), expected) < 1e-10


def test_a_gradient_at_a_place_of_nobodys_is_refused() -> None:
    torch.manual_seed(0)
    batch = (torch.randn(7, 4), torch.randint(3, (7,)))
    with pytest.raises(CaptureError, match="belong to no row"):
        released_sum(Constant(shared=True), batch, loss, 0.2)


def test_rows_added_to_the_places_of_others_are_refused() -> None:
    torch.manual_seed(0)
    batch = (torch.randn(7, 5, 4), torch.randint(3, (7,)))
    with pytest.raises(CaptureError, match="left open whose they are"):
        released_sum(Experts(wrong=True), batch, loss, 0.2)
