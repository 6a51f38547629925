"""Models by name, and optimizers by name; `module:factory` reaches a model of one's own."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from deniable.errors import SettingsError
from deniable.optimizers import AdamBC
from deniable.randomness import Streams


class Factory(Protocol):
    """Makes a model for one kind of data."""

    def __call__(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A model from inputs `(batch, *input_shape)` to scores `(batch, ..., classes)`."""
        ...


class Centre(nn.Module):
    """Moves values in [0, 1] to [-1, 1]: a public constant, so it costs no privacy."""

    def forward(self, inputs: Tensor) -> Tensor:
        """`2 x - 1`."""
        return inputs * 2 - 1


class LowFrequencies(nn.Module):
    """The lowest coefficients of the two-dimensional cosine transform (DCT-II) of each channel.

    A fixed projection that no data chose, so it costs no privacy. It stands where Abadi et al.
    (2016, "Deep Learning with Differential Privacy", section 5.1) put a principal component
    analysis, which must be made private itself.

    Args:
        shape: (channels, height, width).
        count: how many coefficients to keep, over all channels, from the lowest.
    """

    basis: Tensor

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        channels, height, width = shape
        order = sorted(
            (row + column, row, column, channel)
            for row in range(height)
            for column in range(width)
            for channel in range(channels)
        )[:count]
        basis = torch.zeros(len(order), channels, height, width)
        rows, columns = _cosines(height), _cosines(width)
        for index, (_, row, column, channel) in enumerate(order):
            basis[index, channel] = torch.outer(rows[row], columns[column])
        self.register_buffer("basis", basis.flatten(1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """From `(batch, channels, height, width)` to `(batch, count)`."""
        return inputs.flatten(1) @ self.basis.T


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II basis, one row a frequency."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None, :] + 0.5
    basis = torch.cos(math.pi * frequency * position / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()


def digits_mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One hidden layer of 256 tanh units."""
    return nn.Sequential(
        Centre(),
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 256),
        nn.Tanh(),
        nn.Linear(256, classes),
    )


def mnist_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The convolutional network of TensorFlow Privacy's tutorial, with tanh for ReLU.

    Bounded activations keep gradient norms even, so that clipping loses less (Papernot et al.,
    2021, "Tempered Sigmoid Activations for Deep Learning with Differential Privacy").
    """
    features = nn.Sequential(
        Centre(),
        nn.Conv2d(input_shape[0], 16, kernel_size=8, stride=2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, kernel_size=4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
    )
    width = _width(features, input_shape)
    return nn.Sequential(*features, nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, classes))


def abadi_mlp(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """60-1000-10 with ReLU (Abadi et al., 2016, section 5.2), on 60 low frequencies."""
    return nn.Sequential(
        Centre(),
        LowFrequencies(input_shape, 60),
        nn.Linear(60, 1000),
        nn.ReLU(),
        nn.Linear(1000, classes),
    )


def cifar_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Six tanh convolutions of 32-32-64-64-128-128 channels and one hidden layer.

    The network of Papernot et al. (2021, "Tempered Sigmoid Activations for Deep Learning with
    Differential Privacy", appendix).
    """
    layers: list[nn.Module] = [Centre()]
    channels = input_shape[0]
    for wide in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(channels, wide, kernel_size=3, padding=1), nn.Tanh()]
            channels = wide
        layers.append(nn.MaxPool2d(2))
    features = nn.Sequential(*layers, nn.Flatten())
    width = _width(features, input_shape)
    return nn.Sequential(*features, nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, classes))


def _width(features: nn.Module, input_shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        return int(features(torch.zeros(1, *input_shape)).shape[1])


class CharLSTM(nn.Module):
    """Predicts each next character of a sequence by one LSTM layer.

    The network of TensorFlow Privacy's tutorial on language models: characters as unit vectors, an
    LSTM, and one linear layer.

    Args:
        classes: the size of the alphabet.
        width: of the state of the LSTM.
    """

    def __init__(self, classes: int, width: int = 256) -> None:
        super().__init__()
        self.classes = classes
        self.recurrent = nn.LSTM(classes, width, batch_first=True)
        self.scores = nn.Linear(width, classes)

    def forward(self, characters: Tensor) -> Tensor:
        """From whole numbers `(batch, length)` to scores `(batch, length, classes)`."""
        states, _ = self.recurrent(nn.functional.one_hot(characters, self.classes).float())
        scores: Tensor = self.scores(states)
        return scores


def char_lstm(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One LSTM layer of width 256 on characters."""
    return CharLSTM(classes)


class CausalBlock(nn.Module):
    """Attention to the past, then two linear layers, each on a normalised residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.before_hidden = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.shrunk = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """From and to `(batch, length, width)`."""
        batch, length, width = stream.shape
        projected = self.queries_keys_values(self.before_attention(stream))
        query, key, value = projected.view(
            batch, length, 3, self.heads, width // self.heads
        ).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.attended(attended.transpose(1, 2).reshape(batch, length, width))
        hidden = nn.functional.gelu(self.hidden(self.before_hidden(stream)))
        shrunk: Tensor = self.shrunk(hidden)
        return stream + shrunk


class CharTransformer(nn.Module):
    """Predicts each next character of a sequence from those before it.

    Args:
        length: the longest sequence.
        classes: the size of the alphabet.
    """

    def __init__(self, length: int, classes: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(classes, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(CausalBlock(width, heads=4) for _ in range(depth))
        self.normalised = nn.LayerNorm(width)
        self.scores = nn.Linear(width, classes)

    def forward(self, characters: Tensor) -> Tensor:
        """From whole numbers `(batch, length)` to scores `(batch, length, classes)`."""
        places = torch.arange(characters.shape[1], device=characters.device).expand_as(characters)
        stream = self.characters(characters) + self.positions(places)
        for block in self.blocks:
            stream = block(stream)
        scores: Tensor = self.scores(self.normalised(stream))
        return scores


def char_transformer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two causal blocks of width 64 on characters."""
    return CharTransformer(input_shape[0], classes)


MODELS: dict[str, Factory] = {
    "digits-mlp": digits_mlp,
    "mnist-cnn": mnist_cnn,
    "abadi-mlp": abadi_mlp,
    "cifar-cnn": cifar_cnn,
    "char-lstm": char_lstm,
    "char-transformer": char_transformer,
}


def build(name: str, input_shape: tuple[int, ...], classes: int, streams: Streams) -> nn.Module:
    """The model of that name, its weights drawn from the `initialisation` stream.

    The generator of torch that modules draw from is seeded for the time of the call, and left as
    it was.

    Args:
        name: one of `MODELS`, or `module:factory`; a factory is called as
            `factory(input_shape, classes)`, and is looked for in the working directory too.
        input_shape: the shape of one example.
        classes: how many scores the model gives.
        streams: where the initial weights come from.

    Raises:
        SettingsError: no such model, or the factory returns none, or it does not fit the data.

    >>> build("abadi-mlp", (1, 28, 28), 10, Streams(seed=0))[2]
    Linear(in_features=60, out_features=1000, bias=True)
    """
    factory = MODELS[name] if name in MODELS else _imported(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(streams.key("initialisation")[:8]))
        try:
            model = factory(input_shape, classes)
        except (TypeError, ValueError, RuntimeError) as problem:
            raise SettingsError(
                f"The model {name!r} does not take examples of shape {input_shape} in {classes} "
                f"classes: {problem}. Choose another with --model; a factory of your own is called "
                "as factory(input_shape, classes)."
            ) from problem
    if not isinstance(model, nn.Module):
        raise SettingsError(
            f"The factory {name!r} must return a torch.nn.Module, got {type(model).__name__}."
        )
    return model


def _imported(name: str) -> Factory:
    """What `module:factory` names."""
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise SettingsError(
            f"No model is called {name!r}. Choose one of {', '.join(MODELS)}, or give your own as "
            "module:factory."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as problem:
        raise SettingsError(
            f"The model {name!r} cannot be imported: {problem}. Give module:factory, with a module "
            "that Python finds from here."
        ) from problem
    if not callable(factory):
        raise SettingsError(f"{name!r} must name something to call, got {factory!r}.")
    found: Factory = factory
    return found


Parameters = Iterable[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Parameters, float, float], torch.optim.Optimizer]] = {
    "sgd": lambda weights, lr, momentum: torch.optim.SGD(weights, lr=lr, momentum=momentum),
    "adam": lambda weights, lr, _: torch.optim.Adam(weights, lr=lr),
    "adam-bc": lambda weights, lr, _: AdamBC(weights, lr=lr),
    "adamw": lambda weights, lr, _: torch.optim.AdamW(weights, lr=lr),
    "adagrad": lambda weights, lr, _: torch.optim.Adagrad(weights, lr=lr),
    "rmsprop": lambda weights, lr, momentum: torch.optim.RMSprop(weights, lr=lr, momentum=momentum),
    "nadam": lambda weights, lr, _: torch.optim.NAdam(weights, lr=lr),
}


def optimizer_for(
    model: nn.Module, name: str, lr: float, momentum: float = 0.0
) -> torch.optim.Optimizer:
    """An ordinary torch optimizer of the model's trainable parameters.

    Args:
        model: whose parameters it moves.
        name: one of `OPTIMIZERS`.
        lr: the learning rate.
        momentum: of sgd and rmsprop; the others have none of that name.

    Raises:
        SettingsError: no such optimizer.
    """
    if name not in OPTIMIZERS:
        raise SettingsError(
            f"No optimizer is called {name!r}. Choose one of {', '.join(OPTIMIZERS)}."
        )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return OPTIMIZERS[name](weights, lr, momentum)
