"""Recurrent layers, opened up: `torch.lstm`, `gru` and `rnn_*` as linear layers around a scan.

The fused kernels hide the gates, and with them the gradients of the recurrent weights. Here the
input's part of all gates is one linear layer over all time steps; the scan over time has a backward
of its own, which delivers the gates' gradients for all steps at once. Both weight matrices are then
ordinary linear layers, on the inputs and on the previous states (Rochette, Manoel & Tramel, 2019,
section 3, applied per time step).

Shapes: `T` steps, `B` sequences, `H` hidden units; time first throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from deniable.gradients.mode import Watch

Receive = Callable[[Tensor], None]


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer and direction; absent ones are None."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None
    projection: Tensor | None


def _weights(params: Sequence[Tensor], has_biases: bool, projected: bool) -> list[Weights]:
    size = 2 + 2 * has_biases + projected
    found = []
    for start in range(0, len(params), size):
        group = list(params[start : start + size])
        projection = group.pop() if projected else None
        biases = group[2:] if has_biases else [None, None]
        found.append(Weights(group[0], group[1], biases[0], biases[1], projection))
    return found


class _LSTM(torch.autograd.Function):
    """`i, f, g, o = gates; c' = f c + i g; h' = W_hr (o tanh(c'))` (Hochreiter & Schmidhuber)."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, h0: Tensor, c0: Tensor, hidden: Tensor,
        projection: Tensor | None, previous: Tensor, outputs: Tensor,
        receive: Receive, receive_projection: Receive,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Run over time; `previous` receives every step's state before it."""
        steps, size = gates.shape[0], c0.shape[1]
        activated = gates.clone()
        cells = gates.new_empty(steps + 1, *c0.shape)
        squashed = gates.new_empty(steps, *c0.shape)
        cells[0], state, transposed = c0, h0, hidden.t()
        states = gates.new_empty(steps, *h0.shape)
        for t in range(steps):
            previous[t] = state
            gate = activated[t].addmm_(state, transposed)
            gate[:, : 2 * size].sigmoid_()
            gate[:, 2 * size : 3 * size].tanh_()
            gate[:, 3 * size :].sigmoid_()
            i, f, g, o = gate.chunk(4, 1)
            torch.mul(f, cells[t], out=cells[t + 1])
            cells[t + 1].addcmul_(i, g)
            torch.tanh(cells[t + 1], out=squashed[t])
            if projection is None:
                state = torch.mul(o, squashed[t], out=states[t])
            else:
                torch.mul(o, squashed[t], out=outputs[t])
                state = torch.mm(outputs[t], projection.t(), out=states[t])
        ctx.save_for_backward(activated, cells, squashed, hidden, projection)
        ctx.receive, ctx.receive_projection = receive, receive_projection
        return states, state.clone(), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, d_states: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Any, ...]:
        """Backpropagation through time, weight gradients left to the linear rules."""
        activated, cells, squashed, hidden, projection = ctx.saved_tensors
        steps, batch, size = squashed.shape
        i, f, g, o = activated.view(steps, batch, 4, size).unbind(2)
        through_cell = o * (1 - squashed * squashed)
        # What each gate's pre-activation gets of d_c (the first three) or of d_h (the last).
        slopes = torch.stack(
            [g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], 2
        )
        d_gates = torch.empty_like(slopes)
        d_projected = torch.empty_like(d_states)
        carry, cell = d_h, d_c.clone()
        for t in reversed(range(steps)):
            state = d_states[t] + carry
            if projection is not None:
                d_projected[t] = state
                state = state @ projection
            cell.addcmul_(state, through_cell[t])
            torch.mul(cell.unsqueeze(1), slopes[t, :, :3], out=d_gates[t, :, :3])
            torch.mul(state, slopes[t, :, 3], out=d_gates[t, :, 3])
            cell.mul_(f[t])
            carry = d_gates[t].flatten(1) @ hidden
        flat = d_gates.flatten(2)
        ctx.receive(flat)
        if projection is not None:
            ctx.receive_projection(d_projected)
        return flat, carry, cell, None, None, None, None, None, None


class _GRU(torch.autograd.Function):
    """`n = tanh(x_n + r h_n); h' = (1 - z) n + z h` (Cho et al., 2014, as torch computes it)."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, h0: Tensor, hidden: Tensor, bias: Tensor | None,
        previous: Tensor, receive: Receive,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Run over time; `previous` receives every step's state before it."""
        steps, size = gates.shape[0], h0.shape[1]
        states = gates.new_empty(steps, *h0.shape)
        recurrent = gates.new_empty(gates.shape)
        activated = gates.clone()
        state, transposed = h0, hidden.t()
        for t in range(steps):
            previous[t] = state
            inner = torch.mm(state, transposed, out=recurrent[t])
            if bias is not None:
                inner += bias
            gate = activated[t]
            gate[:, : 2 * size].add_(inner[:, : 2 * size]).sigmoid_()
            r, z, n = gate.chunk(3, 1)
            n.addcmul_(r, inner[:, 2 * size :]).tanh_()
            state = torch.lerp(n, state, z, out=states[t])
        ctx.save_for_backward(activated, recurrent, hidden, previous)
        ctx.receive = receive
        return states, state.clone()

    @staticmethod
    def backward(ctx: Any, d_states: Tensor, d_h: Tensor) -> tuple[Any, ...]:
        """Backpropagation through time, weight gradients left to the linear rules."""
        activated, recurrent, hidden, previous = ctx.saved_tensors
        steps, size = d_states.shape[0], previous.shape[2]
        r, z, n = activated.chunk(3, 2)
        to_z = (previous - n) * z * (1 - z)
        to_n = (1 - z) * (1 - n * n)
        to_r = recurrent[..., 2 * size :] * r * (1 - r)
        d_input = torch.empty_like(activated)
        d_hidden = torch.empty_like(activated)
        carry = d_h
        for t in reversed(range(steps)):
            state = d_states[t] + carry
            d_n = state * to_n[t]
            d_hidden[t, :, :size] = d_n * to_r[t]
            d_hidden[t, :, size : 2 * size] = state * to_z[t]
            d_hidden[t, :, 2 * size :] = d_n * r[t]
            d_input[t, :, 2 * size :] = d_n
            carry = torch.addmm(state * z[t], d_hidden[t], hidden)
        d_input[..., : 2 * size] = d_hidden[..., : 2 * size]
        ctx.receive(d_hidden)
        return d_input, carry, None, None, None, None


class _Elman(torch.autograd.Function):
    """`h' = tanh(x + W h)`, or relu (Elman, 1990)."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, h0: Tensor, hidden: Tensor, relu: bool, previous: Tensor,
        receive: Receive,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Run over time; `previous` receives every step's state before it."""
        states = gates.clone()
        state, transposed = h0, hidden.t()
        for t in range(len(states)):
            previous[t] = state
            state = states[t].addmm_(state, transposed)
            state = state.relu_() if relu else state.tanh_()
        ctx.save_for_backward(states, hidden)
        ctx.relu, ctx.receive = relu, receive
        return states, state.clone()

    @staticmethod
    def backward(ctx: Any, d_states: Tensor, d_h: Tensor) -> tuple[Any, ...]:
        """Backpropagation through time, weight gradients left to the linear rules."""
        states, hidden = ctx.saved_tensors
        slopes = (states > 0).to(states.dtype) if ctx.relu else 1 - states * states
        d_gates = torch.empty_like(states)
        carry = d_h
        for t in reversed(range(len(states))):
            torch.mul(d_states[t] + carry, slopes[t], out=d_gates[t])
            carry = d_gates[t] @ hidden
        ctx.receive(d_gates)
        return d_gates, carry, None, None, None, None


def _lstm_layer(watch: Watch, x: Tensor, w: Weights, hx: Sequence[Tensor]) -> list[Tensor]:
    gates, use = watch.linear(x, w.input, w.input_bias)
    h0, c0 = (each.to(gates.dtype) for each in hx)
    if w.hidden_bias is not None:
        gates = gates + w.hidden_bias.detach().to(gates.dtype)
    previous = gates.new_empty(len(x), *h0.shape)
    receive = use.beside(previous, w.hidden, w.hidden_bias)
    outputs, projection, receive_projection = previous, None, receive
    if w.projection is not None:
        outputs = gates.new_empty(len(x), *c0.shape)
        projection = w.projection.detach().to(gates.dtype)
        receive_projection = use.beside(outputs, w.projection)
    result = _LSTM.apply(  # type: ignore[no-untyped-call]
        gates, h0, c0, w.hidden.detach().to(gates.dtype), projection, previous, outputs,
        receive, receive_projection,
    )  # fmt: skip
    return list(result)


def _gru_layer(watch: Watch, x: Tensor, w: Weights, hx: Sequence[Tensor]) -> list[Tensor]:
    gates, use = watch.linear(x, w.input, w.input_bias)
    h0 = hx[0].to(gates.dtype)
    bias = None if w.hidden_bias is None else w.hidden_bias.detach().to(gates.dtype)
    previous = gates.new_empty(len(x), *h0.shape)
    receive = use.beside(previous, w.hidden, w.hidden_bias)
    hidden = w.hidden.detach().to(gates.dtype)
    return list(_GRU.apply(gates, h0, hidden, bias, previous, receive))  # type: ignore[no-untyped-call]


def _elman_layer(relu: bool) -> Callable[..., list[Tensor]]:
    def layer(watch: Watch, x: Tensor, w: Weights, hx: Sequence[Tensor]) -> list[Tensor]:
        gates, use = watch.linear(x, w.input, w.input_bias)
        h0 = hx[0].to(gates.dtype)
        if w.hidden_bias is not None:
            gates = gates + w.hidden_bias.detach().to(gates.dtype)
        previous = gates.new_empty(len(x), *h0.shape)
        receive = use.beside(previous, w.hidden, w.hidden_bias)
        hidden = w.hidden.detach().to(gates.dtype)
        return list(_Elman.apply(gates, h0, hidden, relu, previous, receive))  # type: ignore[no-untyped-call]

    return layer


def opened(layer: Callable[..., list[Tensor]], states: int) -> Callable[..., Any]:
    """A stand-in for a fused recurrent function, made of one layer at a time.

    Args:
        layer: runs one layer in one direction.
        states: how many state tensors it carries: 2 for an LSTM, else 1.
    """

    def run(
        watch: Watch, input: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool,
        num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        initial = list(hx) if isinstance(hx, (tuple, list)) else [hx]
        projected = states == 2 and initial[0].shape[-1] != initial[1].shape[-1]
        weights = _weights(params, has_biases, projected)
        directions = 2 if bidirectional else 1
        with watch:
            x = input.transpose(0, 1) if batch_first else input
        last: list[list[Tensor]] = []
        for depth in range(num_layers):
            if depth and dropout and train:
                x = F.dropout(x, dropout)
            outputs = []
            for direction in range(directions):
                k = depth * directions + direction
                with watch:
                    source = x.flip(0) if direction else x
                result, *final = layer(watch, source, weights[k], [each[k] for each in initial])
                outputs.append(result.flip(0) if direction else result)
                last.append(final)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        stacked = [torch.stack([final[k] for final in last]) for k in range(states)]
        return (x.transpose(0, 1) if batch_first else x, *stacked)

    return run


RECURRENT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm: opened(_lstm_layer, 2),
    torch.gru: opened(_gru_layer, 1),
    torch.rnn_tanh: opened(_elman_layer(relu=False), 1),
    torch.rnn_relu: opened(_elman_layer(relu=True), 1),
}
