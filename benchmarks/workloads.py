"""The six workloads: a model, a batch size, random data of the right shape, a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        batch: rows in a batch.
        build: a fresh model.
        data: inputs and labels of so many rows.
        loss: mean over rows, from outputs and labels.
        gpu_batch: rows that keep a large GPU busy.
    """

    name: str
    batch: int
    build: Callable[[], nn.Module]
    data: Callable[[int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    gpu_batch: int = 1024

    def batch_on(self, device: str) -> int:
        """The batch size that is measured there."""
        return self.batch if device == "cpu" else self.gpu_batch


def class_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels)


def token_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), labels.flatten())


def mlp() -> nn.Module:
    """Abadi et al.'s network on 60 principal components."""
    return nn.Sequential(nn.Linear(60, 1000), nn.ReLU(), nn.Linear(1000, 10))


def mnist_cnn() -> nn.Module:
    """The convolutional network of TensorFlow Privacy's tutorial."""
    return nn.Sequential(
        nn.ZeroPad2d((2, 3, 2, 3)), nn.Conv2d(1, 16, 8, 2), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def cifar_cnn() -> nn.Module:
    """Papernot et al.'s tanh network."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.Tanh()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 128), nn.Tanh(), nn.Linear(128, 10))


class Transformer(nn.Module):
    """A small language model: learned positions, causal attention, LayerNorm, GELU."""

    def __init__(self, width: int = 128, layers: int = 2, vocabulary: int = 1000, length: int = 64):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            each.view(n, length, self.heads, -1).transpose(1, 2)
            for each in self.qkv(self.norm1(x)).split(width, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharacterLSTM(nn.Module):
    """TensorFlow Privacy's tutorial model: one-hot characters, LSTM, next character."""

    def __init__(self, symbols: int = 256, width: int = 256) -> None:
        super().__init__()
        self.symbols = symbols
        self.lstm = nn.LSTM(symbols, width, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(F.one_hot(x, self.symbols).to(self.head.weight.dtype))
        return self.head(outputs)


class WideResNet(nn.Module):
    """WRN-16-4 with GroupNorm, as De et al. (2022) train it."""

    def __init__(self, depth: int = 16, widen: int = 4, classes: int = 10) -> None:
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for stage in range(3):
            for k in range((depth - 4) // 6):
                incoming = widths[stage] if k == 0 else widths[stage + 1]
                stride = 2 if k == 0 and stage > 0 else 1
                blocks.append(WideBlock(incoming, widths[stage + 1], stride))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(16, widths[3])
        self.head = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(h.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, incoming: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(16, incoming)
        self.conv1 = nn.Conv2d(incoming, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(16, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = incoming != width or stride != 1
        self.shortcut = nn.Conv2d(incoming, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(h)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(h))))


def vectors(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 60), torch.randint(10, (n,))


def digits(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 28, 28), torch.randint(10, (n,))


def pictures(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 32, 32), torch.randint(10, (n,))


def words(n: int) -> tuple[Tensor, Tensor]:
    return torch.randint(1000, (n, 64)), torch.randint(1000, (n, 64))


def characters(n: int) -> tuple[Tensor, Tensor]:
    return torch.randint(256, (n, 80)), torch.randint(256, (n, 80))


WORKLOADS = (
    Workload("MLP 60-1000-10", 256, mlp, vectors, class_loss, 16384),
    Workload("MNIST CNN", 256, mnist_cnn, digits, class_loss, 8192),
    Workload("CIFAR CNN", 256, cifar_cnn, pictures, class_loss, 2048),
    Workload("Transformer d128 L2", 64, Transformer, words, token_loss, 512),
    Workload("LSTM 256", 64, CharacterLSTM, characters, token_loss, 1024),
    Workload("WRN-16-4", 32, WideResNet, pictures, class_loss, 512),
)


def chosen(name: str) -> list[Workload]:
    """The workloads whose names contain this."""
    found = [each for each in WORKLOADS if name.lower() in each.name.lower()]
    if not found:
        names = ", ".join(each.name for each in WORKLOADS)
        raise SystemExit(f"No workload is called {name!r}. There are: {names}.")
    return found
