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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.gradients.products import transposed_product
from deniable.gradients.whose import Lost

if TYPE_CHECKING:
    from deniable.gradients.mode import Watch
    from deniable.gradients.use import Use

Receive = Callable[[Tensor], None]
# What arrives times the slope of a function, from the function's value; `grad_input` holds it.
_sigmoid_slope, _tanh_slope = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer and direction; absent ones are None."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None
    projection: Tensor | None

    @property
    def all(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """Those of the inputs first."""
        return self.input, self.input_bias, self.hidden, self.hidden_bias, self.projection


def _beside(use: Use | None, input: Tensor, *parameters: Tensor | None) -> Receive:
    """What takes the gradient of a linear layer that a scan computes; all may be frozen."""
    return (lambda _: None) if use is None else use.beside(input, *parameters)


def _weights(params: Sequence[Tensor], has_biases: bool, projected: bool) -> list[Weights]:
    size = 2 + 2 * has_biases + projected
    found = []
    for start in range(0, len(params), size):
        group = list(params[start : start + size])
        projection = group.pop() if projected else None
        biases = group[2:] if has_biases else [None, None]
        found.append(Weights(group[0], group[1], biases[0], biases[1], projection))
    return found


def _tanh(values: Tensor, out: Tensor) -> None:
    """By the library that takes a fifth of the other's time: NumPy, in float32 on a CPU."""
    if values.dtype == torch.float32 and values.device.type == "cpu":
        np.tanh(values.numpy(), out=out.numpy())
    else:
        torch.tanh(values, out=out)


class _LSTM(torch.autograd.Function):
    """`i, f, g, o = gates; c' = f c + i g; h' = W_hr (o tanh(c'))` (Hochreiter & Schmidhuber)."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, h0: Tensor, c0: Tensor, hidden: Tensor,
        projection: Tensor | None, previous: Tensor, outputs: Tensor,
        receive: Receive, receive_projection: Receive,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Run over time in the memory of `gates`; `previous` receives each step's state before."""
        steps, size = gates.shape[0], c0.shape[1]
        activated = gates.detach()
        cells = gates.new_empty(steps + 1, *c0.shape)
        squashed = gates.new_empty(steps, *c0.shape)
        cells[0], state = c0, h0
        states = gates.new_empty(steps, *h0.shape)
        for t in range(steps):
            previous[t] = state
            gate, met = activated[t], transposed_product(state, hidden, activated[t])
            torch.sigmoid(met[:, : 2 * size], out=gate[:, : 2 * size])
            _tanh(met[:, 2 * size : 3 * size], gate[:, 2 * size : 3 * size])
            torch.sigmoid(met[:, 3 * size :], out=gate[:, 3 * size :])
            i, f, g, o = gate.chunk(4, 1)
            torch.mul(f, cells[t], out=cells[t + 1])
            cells[t + 1].addcmul_(i, g)
            _tanh(cells[t + 1], squashed[t])
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
        last = not torch._C._autograd._get_current_graph_task_keep_graph()
        d_gates = (activated if last else activated.clone()).view(steps, batch, 4, size)
        i, f, g, o = d_gates.unbind(2)
        through_cell, forgets = _tanh_slope(o, squashed), f.clone()
        # In place of the gates, what their pre-activations get of d_c (the first three) or of d_h
        # (the last): here for each unit of these, and step by step for all.
        to_i = _sigmoid_slope(g, i)
        _tanh_slope(i, g, grad_input=g)
        i.copy_(to_i)
        _sigmoid_slope(cells[:-1], f, grad_input=f)
        _sigmoid_slope(squashed, o, grad_input=o)
        d_projected = torch.empty_like(d_states)
        carry, cell = d_h, d_c.clone()
        for t in reversed(range(steps)):
            state = d_states[t] + carry
            if projection is not None:
                d_projected[t] = state
                state = state @ projection
            cell.addcmul_(state, through_cell[t])
            d_gates[t, :, :3].mul_(cell.unsqueeze(1))
            d_gates[t, :, 3].mul_(state)
            cell.mul_(forgets[t])
            carry = transposed_product(d_gates[t].flatten(1), hidden.t())
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
        """Run over time in the memory of `gates`; `previous` receives each step's state before."""
        steps, size = gates.shape[0], h0.shape[1]
        states = gates.new_empty(steps, *h0.shape)
        recurrent = gates.new_empty(gates.shape)
        activated = gates.detach()
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


def _gates(watch: Watch, x: Tensor, w: Weights) -> tuple[Tensor, Use | None]:
    """The inputs' part of all gates and both biases, in memory that nobody else reads."""
    gates, use = watch.linear(x, *w.all)
    if w.hidden_bias is not None:
        gates.detach().add_(w.hidden_bias.detach())
    return gates, use


def _lstm_layer(
    watch: Watch, x: Tensor, w: Weights, hx: Sequence[Tensor], real: Tensor | None
) -> list[Tensor]:
    gates, use = _gates(watch, x, w)
    h0, c0 = (each.to(gates.dtype) for each in hx)
    if real is not None:  # after its end a sequence keeps its cell: input shut, forget gate open
        size = c0.shape[1]
        keep = gates.new_zeros(4 * size)
        keep[:size], keep[size : 2 * size] = float("-inf"), float("inf")
        gates = torch.where(real, gates, keep)
    previous = gates.new_empty(len(x), *h0.shape)
    receive = _beside(use, previous, w.hidden, w.hidden_bias)
    outputs, projection, receive_projection = previous, None, receive
    if w.projection is not None:
        outputs = gates.new_empty(len(x), *c0.shape)
        projection = w.projection.detach().to(gates.dtype)
        receive_projection = _beside(use, outputs, w.projection)
    result = _LSTM.apply(  # type: ignore[no-untyped-call]
        gates, h0, c0, w.hidden.detach().to(gates.dtype), projection, previous, outputs,
        receive, receive_projection,
    )  # fmt: skip
    return list(result)


def _gru_layer(
    watch: Watch, x: Tensor, w: Weights, hx: Sequence[Tensor], real: Tensor | None
) -> list[Tensor]:
    gates, use = watch.linear(x, *w.all)
    h0 = hx[0].to(gates.dtype)
    bias = None if w.hidden_bias is None else w.hidden_bias.detach().to(gates.dtype)
    previous = gates.new_empty(len(x), *h0.shape)
    receive = _beside(use, previous, w.hidden, w.hidden_bias)
    hidden = w.hidden.detach().to(gates.dtype)
    return list(_GRU.apply(gates, h0, hidden, bias, previous, receive))  # type: ignore[no-untyped-call]


def _elman_layer(relu: bool) -> Callable[..., list[Tensor]]:
    def layer(
        watch: Watch, x: Tensor, w: Weights, hx: Sequence[Tensor], real: Tensor | None
    ) -> list[Tensor]:
        gates, use = _gates(watch, x, w)
        h0 = hx[0].to(gates.dtype)
        previous = gates.new_empty(len(x), *h0.shape)
        receive = _beside(use, previous, w.hidden, w.hidden_bias)
        hidden = w.hidden.detach().to(gates.dtype)
        result = _Elman.apply(gates, h0, hidden, relu, previous, receive)  # type: ignore[no-untyped-call]
        if real is not None:  # what runs on past a sequence's end may overflow
            previous.masked_fill_(~real, 0.0)
        return list(result)

    return layer


@dataclass(frozen=True)
class _Stack:
    """The arguments of a fused recurrent function that say what its layers are."""

    params: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool


def opened(layer: Callable[..., list[Tensor]], states: int) -> Callable[..., Any]:
    """A stand-in for a fused recurrent function, made of one layer at a time.

    Args:
        layer: runs one layer in one direction.
        states: how many state tensors it carries: 2 for an LSTM, else 1.
    """

    def run(watch: Watch, input: Tensor, second: Any, third: Any, *rest: Any) -> Any:
        if isinstance(second, Tensor) and not second.is_floating_point():
            return packed(watch, input, second, third, _Stack(*rest))
        stack = _Stack(third, *rest[:-1])
        with watch:
            x = (input.transpose(0, 1) if rest[-1] else input).contiguous()
        x, last = _layers(watch, layer, stack, x, _states(watch, second), None)
        if rest[-1]:
            with watch:
                x = x.transpose(0, 1)
        return (x, *last)

    def packed(watch: Watch, data: Tensor, sizes: Tensor, hx: Any, stack: _Stack) -> Any:
        """Sequences of different lengths: run side by side, with what is past an end let go."""
        whose = watch.order.of(data)
        if whose is None and watch.forward.rows > 1:
            watch.order.refuse("A recurrent layer", Lost("packing"))
        pack, unpack = torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence
        with watch:
            x, lengths = unpack(data, sizes, False, 0.0, len(sizes))
        x, last = _layers(watch, layer, stack, x, _states(watch, hx), lengths)
        result, _ = pack(x, lengths, False)
        if whose is not None:
            watch.order.note(result, whose)
        return (result, *last)

    return run


def _states(watch: Watch, hx: Any) -> list[Tensor]:
    """The initial states; learned ones reach the scan by way of a use."""
    return [
        watch.spread(each, each.shape) for each in (hx if isinstance(hx, (tuple, list)) else [hx])
    ]


def _layers(
    watch: Watch,
    layer: Callable[..., list[Tensor]],
    stack: _Stack,
    x: Tensor,
    initial: list[Tensor],
    lengths: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """All layers and directions on `x`, time first: outputs, and the last states."""
    states = len(initial)
    projected = states == 2 and initial[0].shape[-1] != initial[1].shape[-1]
    weights = _weights(stack.params, stack.has_biases, projected)
    directions = 2 if stack.bidirectional else 1
    backwards, ends, real = _reversal(x, lengths)
    moved = watch.order.begun
    whose = watch.order.known(x) if moved else None
    if whose is not None:
        watch.order.agree("A recurrent layer", whose, initial)
    carries = watch.forward.carries_rows(x)

    def mark(*tensors: Tensor) -> None:
        for each in tensors:
            if carries and not each.requires_grad:
                watch.forward.tracking.mark(each)

    last: list[list[Tensor]] = []
    for depth in range(stack.num_layers):
        if depth and stack.dropout and stack.train:
            x = F.dropout(x, stack.dropout)
        outputs = []
        for direction in range(directions):
            k = depth * directions + direction
            source = backwards(x) if direction else x
            mark(source)
            if whose is not None:
                watch.order.note(source, whose)
            hx = [each[k] for each in initial]
            result, *final = layer(watch, source, weights[k], hx, real)
            outputs.append(backwards(result) if direction else result)
            if ends is not None:
                final[0] = result.gather(0, ends.expand(1, *result.shape[1:]))[0]
            last.append(final)
        x = torch.cat(outputs, -1) if stack.bidirectional else outputs[0]
    stacked = [torch.stack([final[k] for final in last]) for k in range(states)]
    mark(x, *stacked)
    if whose is not None:
        for each in (x, *stacked):
            watch.order.carry(whose, each, 1)
    return x, stacked


def _reversal(
    x: Tensor, lengths: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Tensor | None, Tensor | None]:
    """What turns sequences round, each within its length; their last steps; and the real ones."""
    if lengths is None:
        return lambda values: values.flip(0), None, None
    lengths = lengths.to(x.device)
    steps = torch.arange(len(x), device=x.device)[:, None]
    real = steps < lengths
    index = torch.where(real, lengths - 1 - steps, steps)

    def backwards(values: Tensor) -> Tensor:
        return values.gather(0, index[..., None].expand_as(values))

    return backwards, (lengths - 1)[None, :, None], real[..., None]


RECURRENT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm: opened(_lstm_layer, 2),
    torch.gru: opened(_gru_layer, 1),
    torch.rnn_tanh: opened(_elman_layer(relu=False), 1),
    torch.rnn_relu: opened(_elman_layer(relu=True), 1),
}
