"""Pieces of random networks: every use of a parameter that is supported, with random options.

A piece is drawn for the shape of one row that it will meet, and says which shape it makes of it.
Sizes are small, so that rows, positions and features often agree in number: there nothing but the
values says which dimension holds the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Piece = tuple[nn.Module, Shape]

sizes = st.integers(1, 4)


class Apply(nn.Module):
    """A function with parameters of its own."""

    def __init__(self, name: str, function: Callable[..., Tensor], *shapes: Shape) -> None:
        super().__init__()
        self.name, self.function = name, function
        self.own = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.own)

    def extra_repr(self) -> str:
        return self.name


class Around(nn.Module):
    """A module within a function of it: repeated, skipped over, transposed, checkpointed."""

    def __init__(self, name: str, function: Callable[..., Tensor], *inner: nn.Module) -> None:
        super().__init__()
        self.name, self.function = name, function
        self.inner = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner)

    def extra_repr(self) -> str:
        return self.name


# -- parameters without a module -----------------------------------------------------------------


def rows_of(x: Tensor, p: Tensor) -> Tensor:
    return p.expand(len(x), *p.shape)


def written(x: Tensor, index: Any, value: Tensor) -> Tensor:
    made = x.clone()
    made[index] = value
    return made + 0.1 * x  # so that every row still shows


def scaled_in_place(x: Tensor, p: Tensor) -> Tensor:
    made = x.clone()
    made[:, 0].mul_(p)
    return made


# For rows of any shape; `s` is the shape of one row, `d` its last extent.
RAW: dict[str, tuple[Callable[..., Tensor], Callable[[Shape], list[Shape]]]] = {
    "x * p": (lambda x, p: x * p, lambda s: [s[-1:]]),
    "p + x": (lambda x, p: p + x, lambda s: [s]),
    "x + p[None]": (lambda x, p: x + p[None], lambda s: [s]),
    "p - x": (lambda x, p: p - x, lambda s: [s]),
    "x / (1 + p^2)": (lambda x, p: x / (1 + p.square()), lambda s: [s[-1:]]),
    "x * p.exp() + q": (lambda x, p, q: x * p.exp() + q, lambda s: [(1,), s[-1:]]),
    "torch.where(x > 0, x, p * x)": (lambda x, p: torch.where(x > 0, x, p * x), lambda s: [(1,)]),
    "x.clone().add_(p)": (lambda x, p: x.clone().add_(p), lambda s: [s[-1:]]),
    "torch.lerp": (lambda x, p: torch.lerp(x, rows_of(x, p), 0.3), lambda s: [s]),
    "scalar": (lambda x, p: x * p, lambda s: [()]),
    "Fourier": (
        lambda x, p: torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(p)).real, lambda s: [s[-1:]],
    ),
    "x[x > 0] = p": (lambda x, p: written(x, x > 0, p), lambda s: [()]),
    "x @ W": (lambda x, w: x @ w, lambda s: [(s[-1], s[-1])]),
    "x @ W.t()": (lambda x, w: x @ w.t(), lambda s: [(s[-1], s[-1])]),
    "F.linear(x, U @ V)": (
        lambda x, u, v: F.linear(x, u @ v), lambda s: [(s[-1], 2), (2, s[-1])],
    ),
    "F.linear(x, W * mask)": (
        lambda x, w: F.linear(x, w * torch.ones_like(w).tril()), lambda s: [(s[-1], s[-1])],
    ),
    "F.linear(x, F.normalize(W))": (
        lambda x, w: F.linear(x, F.normalize(w, dim=1)), lambda s: [(s[-1], s[-1])],
    ),
    "einsum": (
        lambda x, w, v: torch.einsum("...i,ij,jk->...k", x, w, v),
        lambda s: [(s[-1], 2), (2, s[-1])],
    ),
    "softmax(x W) W^T": (
        lambda x, w: (x @ w).softmax(-1) @ w.mT, lambda s: [(s[-1], 3)],
    ),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), lambda s: [s[-1:], s[-1:]],
    ),
    "bilinear": (lambda x, w: F.bilinear(x, x, w), lambda s: [(s[-1], s[-1], s[-1])]),
    "cat, then W": (
        lambda x, p, w: torch.cat([x, rows_of(x, p)], -1) @ w, lambda s: [s, (2 * s[-1], s[-1])],
    ),
}  # fmt: skip

# For sequences: rows of shape (T, d).
RAW_SEQUENCES: dict[str, tuple[Callable[..., Tensor], Callable[[Shape], list[Shape]]]] = {
    "x[:, 0] = p": (lambda x, p: written(x, (slice(None), 0), p), lambda s: [s[1:]]),
    "x[mask] = p": (lambda x, p: written(x, x[..., 0] > 0, p), lambda s: [s[1:]]),
    "x[:, 0] *= p": (lambda x, p: scaled_in_place(x, p), lambda s: [s[1:]]),
    "table[x > 0]": (lambda x, t: x + t[(x[..., 0] > 0).long()], lambda s: [(2, s[1])]),
    "M @ x": (lambda x, m: m @ x, lambda s: [(s[0], s[0])]),
    "softmax(M) @ x": (lambda x, m: m.softmax(-1) @ x, lambda s: [(s[0], s[0])]),
    "bmm(x, W per row)": (
        lambda x, w: torch.bmm(x, rows_of(x, w)), lambda s: [(s[1], s[1])],
    ),
    "baddbmm": (
        lambda x, b, w: torch.baddbmm(rows_of(x, b), x, rows_of(x, w)),
        lambda s: [s, (s[1], s[1])],
    ),
    "x + table(arange)": (
        lambda x, t: x + F.embedding(torch.arange(x.shape[1]), t), lambda s: [(s[0] + 1, s[1])],
    ),
    "x + table[:T]": (lambda x, t: x + t[: x.shape[1]], lambda s: [(s[0] + 1, s[1])]),
    "einsum, heads": (
        lambda x, w: torch.einsum("btd,hde->bthe", x, w).sum(2), lambda s: [(2, s[1], s[1])],
    ),
    "attention to parameters": (
        lambda x, k, v: F.scaled_dot_product_attention(x, rows_of(x, k), rows_of(x, v)),
        lambda s: [(3, s[1]), (3, s[1])],
    ),
    "addmm, folded": (
        lambda x, b, w: torch.addmm(b, x.reshape(-1, x.shape[2]), w).view_as(x),
        lambda s: [s[1:], (s[1], s[1])],
    ),
    "conv1d": (
        lambda x, w: F.conv1d(x, w, padding=1), lambda s: [(s[0], s[0], 3)],
    ),
}  # fmt: skip


def raw(draw: Draw, shape: Shape) -> Piece:
    table = RAW | RAW_SEQUENCES if len(shape) == 2 else RAW
    # A norm of one number says nothing.
    name = draw(st.sampled_from(sorted(set(table) - ({"layer_norm"} if shape[-1] == 1 else set()))))
    function, shapes = table[name]
    return Apply(name, function, *shapes(shape)), shape


def raw_by_value(draw: Draw, shape: Shape) -> Piece:
    name = draw(st.sampled_from(list(RAW)[:7]))
    function, shapes = RAW[name]
    return Apply(name, function, *shapes(shape)), shape


def class_token(draw: Draw, shape: Shape) -> Piece:
    def first(x: Tensor, token: Tensor) -> Tensor:
        return torch.cat([token.expand(len(x), -1, -1), x], 1)

    return Apply("class token", first, (1, 1, shape[1])), (shape[0] + 1, shape[1])


# -- layers for rows of any shape ----------------------------------------------------------------


def linear(draw: Draw, shape: Shape) -> Piece:
    width = draw(sizes)
    layer = nn.Linear(shape[-1], width, bias=draw(st.booleans()))
    if draw(st.integers(0, 3)) == 0:
        layer = draw(st.sampled_from([parametrizations.weight_norm, symmetric]))(layer)
    return layer, (*shape[:-1], width)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.5 * weight.sum()


def symmetric(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


# None is off for good: what does not move with its row cannot say whose it is.
ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.PReLU,
    lambda: nn.LeakyReLU(0.2), lambda: nn.Dropout(0.0), nn.Sigmoid, nn.Identity,
]  # fmt: skip


def activation(draw: Draw, shape: Shape) -> Piece:
    return draw(st.sampled_from(ACTIVATIONS))(), shape


def in_place(draw: Draw, shape: Shape) -> Piece:
    """A layer of its own in front, so that no data are overwritten."""
    layer = nn.Linear(shape[-1], shape[-1])
    rectified = draw(st.sampled_from([nn.SiLU, nn.ELU, nn.LeakyReLU]))(inplace=True)
    shifted = Apply("x += p", lambda x, p: x.add_(p), shape[-1:])
    return nn.Sequential(layer, shifted, rectified), shape


def norm(draw: Draw, shape: Shape) -> Piece:
    wide = [k for k in range(1, len(shape) + 1) if math.prod(shape[-k:]) > 1]
    if not wide:  # the norm of one number says nothing
        return activation(draw, shape)
    last = list(shape[-draw(st.sampled_from(wide)) :])
    kind = draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))
    return kind(last), shape


def pixels_in_line(x: Tensor, layer: nn.Module) -> Tensor:
    """torch 2.13's own norms crash on some channels-last images, or get the bias wrong."""
    made: Tensor = layer(x.flatten(2)) if x.ndim > 3 else layer(x)
    return made.view_as(x)


def channel_norm(draw: Draw, shape: Shape) -> Piece:
    channels, pixels = shape[0], math.prod(shape[1:])
    groups = [g for g in range(1, channels + 1) if channels % g == 0 and pixels * channels > g]
    if not groups:  # torch refuses to normalise one number
        return activation(draw, shape)
    if draw(st.booleans()) or pixels == 1:
        layer: nn.Module = nn.GroupNorm(draw(st.sampled_from(groups)), channels)
    else:
        layer = nn.InstanceNorm1d(channels, affine=True)
    return Around("pixels_in_line", pixels_in_line, layer), shape


# -- convolutions --------------------------------------------------------------------------------


def convolution(draw: Draw, shape: Shape) -> Piece:
    spatial, channels = len(shape) - 1, shape[0]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    outputs = groups * draw(st.integers(1, 2))
    transposed = draw(st.booleans())
    each = st.tuples(*[st.integers(1, 2)] * spatial)
    kernel, stride, dilation = draw(each), draw(each), draw(each)
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups,
                               "bias": draw(st.booleans())}  # fmt: skip
    if transposed:
        kinds = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    else:
        kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
        options["padding_mode"] = draw(st.sampled_from(["zeros", "circular", "replicate"]))
    options["padding"] = 1
    layer = kinds[spatial - 1](channels, outputs, kernel, **options)
    try:
        with torch.no_grad():
            made = layer(torch.ones(1, *shape))
            reached = made.numel() > 0 and bool((made != layer(torch.zeros(1, *shape))).all())
    except (RuntimeError, ValueError):  # nothing is left of the image, say
        reached = False
    if not reached or max(made.shape) > 6:  # pixels of padding alone are no use
        layer = kinds[spatial - 1](channels, outputs, 1, groups=groups)
        return layer, (outputs, *shape[1:])
    return layer, tuple(made.shape[1:])


# -- sequences -----------------------------------------------------------------------------------


def first_output(x: Tensor, layer: nn.Module) -> Tensor:
    output: Tensor = layer(x)[0]
    return output


def with_last_states(x: Tensor, layer: nn.Module) -> Tensor:
    """The outputs, and the sum of the last states added to each."""
    outputs, states = layer(x)
    states = states if isinstance(states, tuple) else (states,)
    total = sum(each.sum((0, 2)) for each in states)
    return outputs + total.view(-1, 1, 1)


def time_first(x: Tensor, layer: nn.Module) -> Tensor:
    made = layer(x.transpose(0, 1))
    return (made[0] if isinstance(made, tuple) else made).transpose(0, 1)


def packed(x: Tensor, layer: nn.Module) -> Tensor:
    """Each row has as many steps as its own values say."""
    lengths = 1 + (x[:, 1:, 0] > 0).sum(1)
    pack = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = layer(pack)
    unpacked, _ = nn.utils.rnn.pad_packed_sequence(
        outputs, batch_first=True, total_length=x.shape[1]
    )
    return unpacked


def recurrent(draw: Draw, shape: Shape) -> Piece:
    kind = draw(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]))
    hidden, both = draw(st.integers(2, 3)), draw(st.booleans())
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 2)), "bidirectional": both, "bias": draw(st.booleans()),
    }  # fmt: skip
    width = hidden
    if kind is nn.LSTM and draw(st.booleans()):
        options["proj_size"] = width = 1
    around = draw(st.sampled_from([first_output, with_last_states, time_first, packed]))
    layer = kind(shape[1], hidden, batch_first=around is not time_first, **options)
    return Around(around.__name__, around, layer), (shape[0], width * (1 + both))


def self_attention(x: Tensor, layer: nn.Module) -> Tensor:
    made: Tensor = layer(x, x.flip(1), x, need_weights=False)[0]
    return made


def causal_attention(x: Tensor, layer: nn.Module) -> Tensor:
    hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    made, weights = layer(x, x, x, attn_mask=hidden)
    return made + weights.sum((1, 2))[:, None, None]


def masked_attention(x: Tensor, layer: nn.Module) -> Tensor:
    """What each row attends to is the row's own matter."""
    hidden = x[:, :, 0] > 0.5
    hidden = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, 1:]], 1)
    made: Tensor = layer(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
    return made


def attention_time_first(x: Tensor, layer: nn.Module) -> Tensor:
    h = x.transpose(0, 1)
    made: Tensor = layer(h, h, h)[0].transpose(0, 1)
    return made


def attention(draw: Draw, shape: Shape) -> Piece:
    heads = draw(st.sampled_from([h for h in (1, 2) if shape[1] % h == 0]))
    around = draw(
        st.sampled_from([self_attention, causal_attention, masked_attention, attention_time_first])
    )
    layer = nn.MultiheadAttention(
        shape[1], heads, bias=draw(st.booleans()),
        add_bias_kv=around is self_attention and draw(st.booleans()),
        kdim=draw(st.sampled_from([None, shape[1]])),
        batch_first=around is not attention_time_first,
    )  # fmt: skip
    return Around(around.__name__, around, layer), shape


def decoded(x: Tensor, layer: nn.Module) -> Tensor:
    made: Tensor = layer(x, x[:, :1] * 2)
    return made


def transformer(draw: Draw, shape: Shape) -> Piece:
    if shape[1] == 1:  # normalised, it would say nothing
        return attention(draw, shape)
    batch_first = draw(st.booleans())
    options: dict[str, Any] = {
        "dropout": 0.0, "batch_first": batch_first, "norm_first": draw(st.booleans()),
        "activation": draw(st.sampled_from([F.silu, "gelu"])),
    }  # fmt: skip
    if batch_first and draw(st.booleans()):
        decoder = nn.TransformerDecoderLayer(shape[1], 1, 3, **options)
        return Around("decoded", decoded, decoder), shape
    layer = nn.TransformerEncoderLayer(shape[1], 1, 3, **options)
    return (layer if batch_first else Around("time_first", time_first, layer)), shape


# -- arrangements --------------------------------------------------------------------------------


def residual(x: Tensor, layer: nn.Module) -> Tensor:
    made: Tensor = x + layer(x)
    return made


def twice(x: Tensor, layer: nn.Module) -> Tensor:
    made: Tensor = layer(torch.tanh(layer(x)))
    return made


def checkpointed(x: Tensor, layer: nn.Module) -> Tensor:
    made: Tensor = checkpoint(layer, x, use_reentrant=False)
    return made


def back_to_front(x: Tensor, layer: nn.Module) -> Tensor:
    """Rows in another order, and back."""
    made: Tensor = layer(x.flip(0)).flip(0)
    return made


def sorted_rows(x: Tensor, layer: nn.Module) -> Tensor:
    order = x.detach().flatten(1)[:, 0].argsort()
    made: Tensor = layer(x[order])[order.argsort()]
    return made


def folded(x: Tensor, layer: nn.Module) -> Tensor:
    """Every dimension but the last in one, rows outermost."""
    made: Tensor = layer(x.reshape(-1, x.shape[-1]))
    return made.view(*x.shape[:-1], made.shape[-1])


def folded_rows_innermost(x: Tensor, layer: nn.Module) -> Tensor:
    moved = x.movedim(0, -2)
    made: Tensor = layer(moved.reshape(-1, x.shape[-1]))
    return made.view(*moved.shape[:-1], made.shape[-1]).movedim(-2, 0)


def shared_weight(x: Tensor, layer: nn.Module) -> Tensor:
    """The weight of a layer once more, by hand."""
    made: Tensor = layer(x) + F.linear(x, layer.weight * 0.5)
    return made


def arranged(draw: Draw, shape: Shape) -> Piece:
    around = draw(st.sampled_from(
        [residual, twice, checkpointed, back_to_front, sorted_rows, folded, folded_rows_innermost,
         shared_weight]
    ))  # fmt: skip
    if around in (folded, folded_rows_innermost, shared_weight):
        return Around(around.__name__, around, nn.Linear(shape[-1], shape[-1])), shape
    if around in (back_to_front, sorted_rows):
        inner = [piece(draw, shape)[0] for piece in (norm, raw_by_value, activation)]
        return Around(around.__name__, around, nn.Sequential(*draw(st.permutations(inner)))), shape
    return Around(around.__name__, around, steady(draw, shape)), shape


def steady(draw: Draw, shape: Shape) -> nn.Module:
    """A piece that keeps the shape."""
    kinds = [raw, activation, norm]
    if len(shape) == 2:
        kinds += [attention, transformer]
    elif len(shape) > 2:
        kinds += [channel_norm]
    first, _ = draw(st.sampled_from(kinds))(draw, shape)
    return nn.Sequential(first, nn.Linear(shape[-1], shape[-1])) if draw(st.booleans()) else first


# -- from one shape to another -------------------------------------------------------------------


def means(draw: Draw, shape: Shape) -> Piece:
    return Apply("mean(1)", lambda x: x.mean(1)), shape[1:]


def last(draw: Draw, shape: Shape) -> Piece:
    return Apply("x[:, -1] + sum", lambda x: x[:, -1] + 0.1 * x.sum(1)), shape[1:]


def swapped(draw: Draw, shape: Shape) -> Piece:
    turned = Apply("transpose", lambda x: x.transpose(1, -1))
    return turned, (shape[-1], *shape[1:-1], shape[0])


def flattened(draw: Draw, shape: Shape) -> Piece:
    return nn.Flatten(1, 2), (shape[0] * shape[1], *shape[2:])


def any_piece(draw: Draw, shape: Shape) -> Piece:
    kinds = [raw, linear, activation, in_place, norm, arranged]
    if len(shape) > 1:
        kinds += [convolution, convolution, channel_norm, means, last, swapped, flattened]
    if len(shape) == 2:
        kinds += [recurrent, recurrent, attention, transformer, class_token]
    return draw(st.sampled_from(kinds))(draw, shape)
