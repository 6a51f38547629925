"""What a character model makes of sequences: the loss of each, and text that it writes itself."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deniable import checkpoint
from deniable.data.ptb import LENGTH, START
from deniable.errors import SettingsError
from deniable.models import build
from deniable.randomness import Streams
from deniable.runfolder import RunFolder
from deniable.settings import Settings
from deniable.training.loop import loss_of_each

_ROWS = 512


def text_model(folder: RunFolder) -> nn.Module:
    """The trained character model of a run, in evaluation mode; its data are not needed.

    Args:
        folder: of the run.

    Raises:
        SettingsError: the run is not complete.
        CheckpointError: its model is damaged.
    """
    settings = Settings.from_json(folder.read_complete("settings")["settings"])
    model = build(settings.model, (LENGTH,), 256, Streams(settings.seed))
    checkpoint.load_model(model, folder.model)
    return model.eval()


@torch.no_grad()
def losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> npt.NDArray[np.float64]:
    """The loss of each example; of a sequence it is the mean over its characters, in nats.

    Its exponential is the perplexity per character: the number of characters among which the model
    chooses as if at random. The model is left in evaluation mode.

    Args:
        model: from inputs to scores `(batch, ..., classes)`.
        inputs: one row per example.
        targets: whole numbers; of a sequence, one for each position.
    """
    model.eval()
    found = [
        loss_of_each(model(rows).double(), goal)
        for rows, goal in zip(torch.split(inputs, _ROWS), torch.split(targets, _ROWS), strict=True)
    ]
    return torch.cat(found).numpy()


@torch.no_grad()
def write(
    model: nn.Module,
    prompt: str = "",
    *,
    characters: int = 320,
    temperature: float = 1.0,
    seed: int | None = None,
) -> str:
    """Text that a character model goes on to write, character by character.

    Each character is drawn from what the model expects after those before it, of which it sees so
    many as its training sequences had. What a model writes is computed from the model alone: it
    gives away nothing that the model does not.

    Args:
        model: from whole numbers `(batch, length)` to scores `(batch, length, 256)`.
        prompt: what stands before; printable ASCII characters and line breaks.
        characters: how many to write.
        temperature: the scores are divided by it: 1 draws as the model expects, smaller ones keep
            to what is likely, and 0 always takes the likeliest.
        seed: of the draws; the operating system's if not given.

    Returns:
        The prompt and what follows.

    Raises:
        SettingsError: the temperature is negative or not a number, or the prompt has a character
            that no text of this alphabet has.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise SettingsError(
            f"The temperature must be a number that is not negative, got {temperature!r}."
        )
    if characters < 0:
        raise SettingsError(f"The number of characters cannot be negative, got {characters!r}.")
    if not all(each == "\n" or 32 <= ord(each) < 127 for each in prompt):
        raise SettingsError(f"The prompt must be of printable ASCII characters, got {prompt!r}.")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    model.eval()
    text = list(prompt.encode())
    for _ in range(characters):
        # A sequence begins with the mark of the start, which takes one of its places.
        rows = torch.tensor([[START, *text[-(LENGTH - 1) :]]])
        scores = model(rows)[0, -1].double()
        scores[START] = -math.inf
        if temperature == 0:
            text.append(int(scores.argmax()))
        else:
            shares = (scores / temperature).softmax(-1)
            text.append(int(torch.multinomial(shares, 1, generator=generator)))
    return bytes(text).decode("latin-1")
