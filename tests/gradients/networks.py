"""The case table: every kind of parameter use, as a small network with a batch to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    loss: Callable[..., Tensor]
    needs_rows: bool = False  # torch itself refuses an empty batch

    def batch(self, n: int) -> tuple[Tensor, Tensor]:
        inputs = self.inputs(n)
        shape = (n, 6) if self.loss is token_loss else (n,)
        return inputs, torch.randint(5, shape)


def class_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def token_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())


def vectors(n: int) -> Tensor:
    return torch.randn(n, 7)


def sequences(n: int) -> Tensor:
    return torch.randn(n, 6, 4)


def tokens(n: int) -> Tensor:
    return torch.randint(5, (n, 6))


def images(n: int) -> Tensor:
    return torch.randn(n, 2, 9, 8)


class Pooled(nn.Module):
    """Layers on a sequence, then its mean, then a class."""

    def __init__(self, *layers: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(1))


class Convolved(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.LazyLinear(5)
        self(images(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).flatten(1))


class Recurrent(nn.Module):
    """A stock recurrent layer; the class comes from its outputs and its last states."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.batch_first = options.setdefault("batch_first", True)
        self.layer = kind(4, 3, **options)
        self.head = nn.LazyLinear(5)
        self(sequences(2))

    def forward(self, x: Tensor) -> Tensor:
        outputs, states = self.layer(x if self.batch_first else x.transpose(0, 1))
        time = 1 if self.batch_first else 0
        last = [*states] if isinstance(states, tuple) else [states]
        parts = [outputs.mean(time), *(each.transpose(0, 1).flatten(1) for each in last)]
        return self.head(torch.cat(parts, 1))


class Transformer(nn.Module):
    """Token and position tables, two encoder layers, and an output tied to the token table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.position = nn.Embedding(6, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.position(torch.arange(x.shape[1]))
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=h.dtype).triu(1)
        return self.head(self.encoder(h, mask=mask))


class RawParameters(nn.Module):
    """A class token, a position table, matrices and scales, none of them in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.position = nn.Parameter(torch.randn(7, 4))
        self.matrix = nn.Parameter(torch.randn(4, 4) / 2)
        self.bias = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.randn(4))
        self.mix = nn.Parameter(torch.randn(7, 7) / 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        h = torch.tanh(h @ self.matrix + self.bias) * self.scale
        h = self.mix @ h
        h = torch.einsum("bti,io->bto", h, self.matrix) @ self.matrix.t()
        return self.head(h[:, 0])


class TimeFirst(nn.Module):
    """Folds time and batch into one dimension, time outermost."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        folded = x.transpose(0, 1).reshape(-1, 4)
        h = torch.tanh(self.inner(folded)).view(x.shape[1], len(x), 3)
        return self.head(h).mean(0)


class BatchFirstFold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x.reshape(-1, 4))).view(len(x), x.shape[1], 3)
        return self.head(h.mean(1))


class CalledTwice(nn.Module):
    """One module used on two paths, and its weight once more functionally."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(7, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.shared(x))
        h = self.shared(h) + F.linear(x, self.shared.weight * 0.5)
        return self.head(h)


class LowRank(nn.Module):
    """LoRA: a frozen weight plus the product of two small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 7) / 3)
        self.up = nn.Parameter(torch.randn(7, 2) / 3)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(F.linear(x, self.frozen.weight + self.up @ self.down)))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x[:, :3], x[:, 3:])


class Bag(nn.Module):
    """Bags of tokens: rows of a matrix, or one list with offsets, some bags of which are empty."""

    def __init__(self, ragged: bool = False, **options: Any) -> None:
        super().__init__()
        self.ragged = ragged
        self.bag = nn.EmbeddingBag(5, 4, **options)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        if not self.ragged:
            return self.head(self.bag(x))
        lengths = x[:, 0]
        kept = torch.arange(x.shape[1]) < lengths[:, None]
        return self.head(self.bag(x[kept], lengths.cumsum(0) - lengths))


class FlatBag(Bag):
    """One list of bags that are alike in length."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bag(x.flatten(), torch.arange(len(x)) * x.shape[1]))


class TimeFirstAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, kdim=4, vdim=4, add_bias_kv=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        mixed, _ = self.attention(h, h.flip(0), h)
        return self.head(mixed.mean(0))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        return self.head(self.layer(h, h[:3]).mean(0))


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(2, 4, 3) / 2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("btd,hde->bthe", x, self.heads)
        return self.head(torch.tanh(h).flatten(2).mean(1))


class Checkpointed(nn.Module):
    """Activation checkpointing: the inner layers run again during backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(7, 6)
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant)
        return self.head(h)


class CheckpointedPositions(nn.Module):
    """A table of positions within activation checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = RawParameters()
        self.head = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inner, x, use_reentrant=False))


class PartlyFrozen(Recurrent):
    """The first of two recurrent layers is frozen, and the weights of the second's input."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM, num_layers=2)
        for name, parameter in self.layer.named_parameters():
            parameter.requires_grad_("l0" not in name and name != "weight_ih_l1")


class Cell(nn.Module):
    """A recurrent cell over time, whose first state is the zeros that torch makes."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.cell, self.head = kind(4, 5, **options), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class MaskToken(nn.Module):
    """Some positions are replaced by a parameter, as the row's own values have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 5)
        self.token = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        h[x[:, :, 0] > 0.5] = self.token
        return self.head(torch.tanh(h)).mean(1)


class Branching(nn.Module):
    """Uses one of two layers, as the width of the data has it; the other gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(7, 5)
        self.right = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) if x.shape[1] > 6 else self.right(x)


class WrittenTo(nn.Module):
    """What layers return is written to, also by parameters and by way of views."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.token, self.scale = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.rate = nn.Parameter(torch.tensor(0.3))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(torch.tanh(self.inner(x)))
        h[:, 0] = self.token
        h *= self.scale
        h[:, 2:] /= 1 + self.rate.square()
        h.relu_()
        return self.head(h).mean(1)


class Fourier(nn.Module):
    """A filter of complex numbers, made of the parameters' own spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.spectrum = nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(4, 2))
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        response = torch.fft.rfft(self.kernel) + torch.view_as_complex(self.spectrum)
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * response, n=7))


class OrderStatistics(nn.Module):
    """Functions of parameters alone that return numbers, several results, or places beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(7))
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        ordered, places = self.weights.sort()
        largest = self.weights.topk(2).values
        return self.head((x * ordered)[:, places] * self.weights[3] + largest.sum())


def mlp(*, inplace: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(inplace=inplace), nn.Linear(9, 5))


def conv(**options: object) -> Callable[[], nn.Module]:
    return lambda: Convolved(nn.Conv2d(2, 4, (3, 2), **options), nn.Tanh())  # type: ignore[arg-type]


CASES = [
    Case("mlp", lambda: mlp(inplace=False), vectors, class_loss),
    Case("in-place activation", lambda: mlp(inplace=True), vectors, class_loss),
    Case("linear on sequences", lambda: Pooled(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 4)),
         sequences, class_loss),
    Case("layer norm", lambda: Pooled(nn.LayerNorm(4)), sequences, class_loss),
    Case("layer norm over two dimensions", lambda: Pooled(nn.LayerNorm((6, 4))), sequences,
         class_loss),
    Case("group norm", lambda: Convolved(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), images,
         class_loss),
    Case("conv, padded", conv(padding=1), images, class_loss),
    Case("conv, strided and dilated", conv(stride=(2, 1), dilation=(1, 2)), images, class_loss),
    Case("conv, grouped, no bias", conv(groups=2, bias=False), images, class_loss),
    Case("conv, same", conv(padding="same"), images, class_loss),
    Case("conv, circular", conv(padding=1, padding_mode="circular"), images, class_loss),
    Case("conv, transposed", lambda: Convolved(nn.ConvTranspose2d(2, 4, (3, 2), stride=(2, 1),
         padding=(1, 0), output_padding=(1, 0))), images, class_loss),
    Case("conv, transposed, grouped", lambda: Convolved(nn.ConvTranspose2d(2, 4, 2, groups=2,
         dilation=2)), images, class_loss),
    Case("conv 1d, transposed", lambda: Pooled(nn.ConvTranspose1d(6, 3, 2), width=5), sequences,
         class_loss),
    Case("conv 3d", lambda: Convolved(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, 2)), images,
         class_loss),
    Case("instance norm", lambda: Convolved(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)),
         images, class_loss, needs_rows=True),
    Case("rms norm", lambda: Pooled(nn.RMSNorm(4)), sequences, class_loss),
    Case("prelu", lambda: nn.Sequential(nn.Linear(7, 5), nn.PReLU(5), nn.PReLU()), vectors,
         class_loss),
    Case("bilinear", Bilinear, vectors, class_loss),
    Case("embedding bag, sum", lambda: Bag(mode="sum"), tokens, class_loss),
    Case("embedding bag, mean, padding", lambda: Bag(mode="mean", padding_idx=1), tokens,
         class_loss),
    Case("embedding bag, max", lambda: Bag(mode="max"), tokens, class_loss),
    Case("embedding bag, ragged", lambda: Bag(ragged=True, mode="mean"), tokens, class_loss),
    Case("embedding bag, flat", lambda: FlatBag(mode="mean"), tokens, class_loss),
    Case("multi-head attention, time first", TimeFirstAttention, sequences, class_loss),
    Case("transformer decoder layer", Decoder, sequences, class_loss),
    Case("einsum", Einsum, sequences, class_loss),
    Case("checkpointed", lambda: Checkpointed(reentrant=False), vectors, class_loss),
    Case("checkpointed, reentrant", lambda: Checkpointed(reentrant=True), vectors, class_loss),
    Case("checkpointed positions", CheckpointedPositions, sequences, class_loss),
    Case("conv 1d", lambda: Pooled(nn.Conv1d(6, 3, 2), width=3), sequences, class_loss),
    Case("embedding", lambda: Pooled(nn.Embedding(5, 4)), tokens, class_loss),
    Case("embedding with padding", lambda: Pooled(nn.Embedding(5, 4, padding_idx=2)), tokens,
         class_loss),
    Case("sparse embedding", lambda: Pooled(nn.Embedding(5, 4, sparse=True)), tokens, class_loss),
    Case("tied transformer", Transformer, tokens, token_loss),
    Case("lstm", lambda: Recurrent(nn.LSTM), sequences, class_loss),
    Case("lstm, time first, two layers", lambda: Recurrent(nn.LSTM, num_layers=2,
         batch_first=False), sequences, class_loss),
    Case("lstm, bidirectional, projected", lambda: Recurrent(nn.LSTM, num_layers=2, proj_size=2,
         bidirectional=True), sequences, class_loss),
    Case("lstm without bias", lambda: Recurrent(nn.LSTM, bias=False), sequences, class_loss),
    Case("lstm, partly frozen", PartlyFrozen, sequences, class_loss),
    Case("lstm cell", lambda: Cell(nn.LSTMCell), sequences, class_loss),
    Case("gru cell", lambda: Cell(nn.GRUCell), sequences, class_loss),
    Case("gru cell without bias", lambda: Cell(nn.GRUCell, bias=False), sequences, class_loss),
    Case("elman cell", lambda: Cell(nn.RNNCell, nonlinearity="relu"), sequences, class_loss),
    Case("gru", lambda: Recurrent(nn.GRU, num_layers=2), sequences, class_loss),
    Case("gru, bidirectional, no bias", lambda: Recurrent(nn.GRU, bidirectional=True, bias=False),
         sequences, class_loss),
    Case("rnn, tanh", lambda: Recurrent(nn.RNN, num_layers=2), sequences, class_loss),
    Case("rnn, relu", lambda: Recurrent(nn.RNN, nonlinearity="relu"), sequences, class_loss),
    Case("raw parameters", RawParameters, sequences, class_loss),
    Case("time first", TimeFirst, sequences, class_loss),
    Case("batch first, folded", BatchFirstFold, sequences, class_loss),
    Case("called twice", CalledTwice, vectors, class_loss),
    Case("low rank", LowRank, vectors, class_loss),
    Case("weight norm",
         lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(7, 5))),
         vectors, class_loss),
    Case("branching", Branching, vectors, class_loss),
    Case("written to in place", WrittenTo, sequences, class_loss),
    Case("mask token", MaskToken, sequences, class_loss),
    Case("complex numbers", Fourier, vectors, class_loss, needs_rows=True),
    Case("order statistics", OrderStatistics, vectors, class_loss),
]  # fmt: skip
