"""The networks of the papers, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deniable.errors import SettingsError
from deniable.models import CharLSTM


def mlp(shape: Sequence[int], classes: int, hidden: int) -> nn.Module:
    """One layer of hidden ReLU units (Abadi et al., 2016, section 5.2)."""
    inputs = math.prod(shape)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def cnn(
    shape: Sequence[int],
    classes: int,
    kernels: tuple[int, int] = (8, 4),
    strides: tuple[int, int] = (2, 2),
    channels: tuple[int, int] = (16, 32),
    hidden: int = 32,
) -> nn.Module:
    """Twice convolution and pooling, then two dense layers, all with ReLU.

    With its defaults the network of TensorFlow Privacy's tutorial, which is the one that Boulif &
    Durand describe.
    """
    first = nn.Conv2d(shape[0], channels[0], kernels[0], strides[0], (kernels[0] - 1) // 2)
    second = nn.Conv2d(channels[0], channels[1], kernels[1], strides[1])
    features = nn.Sequential(
        first, nn.ReLU(), nn.MaxPool2d(2, 1), second, nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten()
    )
    with torch.no_grad():
        width = int(features(torch.zeros(1, *shape)).shape[1])
    return nn.Sequential(*features, nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class _Single(nn.Module):
    """Features that are kept in half precision, as ordinary floats."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.float()


def linear(shape: Sequence[int], classes: int) -> nn.Module:
    """One linear layer."""
    return nn.Sequential(_Single(), nn.Flatten(), nn.Linear(math.prod(shape), classes))


def char_lstm(_shape: Sequence[int], classes: int, width: int = 256) -> nn.Module:
    """The network of TensorFlow Privacy's tutorial on language models."""
    return CharLSTM(classes, width)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "linear": linear,
    "char-lstm": char_lstm,
}


def network(
    name: str, shape: Sequence[int], classes: int, seed: int, **arguments: object
) -> nn.Module:
    """The network of that name, its weights drawn from a seed; torch's generator stays as it was.

    Raises:
        SettingsError: there is none.
    """
    if name not in NETWORKS:
        raise SettingsError(f"No network is called {name!r}. Choose one of {', '.join(NETWORKS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name](shape, classes, **arguments)
