"""Recurrent cells, one step at a time: `torch.lstm_cell`, `gru_cell` and `rnn_*_cell` opened up.

Input and state are one row of a linear layer each: a first state of zeros, which torch makes for a
cell that is given none, is then data of the batch like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from deniable.gradients.mode import Watch


def lstm_cell(
    watch: Watch, input: Tensor, hx: tuple[Tensor, Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The next hidden and cell state, each `(n, H)`."""
    with watch:
        hidden, cell = hx
        into, keep, new, out = _gates(input, hidden, w_ih, w_hh, b_ih, b_hh).chunk(4, 1)
        cell = keep.sigmoid() * cell + into.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell


def gru_cell(
    watch: Watch, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The next hidden state, `(n, H)`."""
    with watch:
        unread = torch.zeros(w_hh.shape[0], input.shape[1], dtype=input.dtype, device=input.device)
        reset, update, new = F.linear(input, w_ih, b_ih).chunk(3, 1)
        before = _gates(input, hx, unread, w_hh, None, b_hh).chunk(3, 1)
        reset, update = (reset + before[0]).sigmoid(), (update + before[1]).sigmoid()
        new = (new + reset * before[2]).tanh()
        return new + update * (hx - new)


def _elman_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cell(
        watch: Watch, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
        b_ih: Tensor | None = None, b_hh: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        with watch:
            return activation(_gates(input, hx, w_ih, w_hh, b_ih, b_hh))

    return cell


def _gates(
    input: Tensor, hidden: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> Tensor:  # fmt: skip
    """`W_ih x + b_ih + W_hh h + b_hh`."""
    gates = F.linear(torch.cat([input, hidden], 1), torch.cat([w_ih, w_hh], 1))
    for bias in (b_ih, b_hh):
        gates = gates if bias is None else gates + bias
    return gates


CELLS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm_cell: lstm_cell,
    torch.gru_cell: gru_cell,
    torch.rnn_tanh_cell: _elman_cell(torch.tanh),
    torch.rnn_relu_cell: _elman_cell(torch.relu),
}
