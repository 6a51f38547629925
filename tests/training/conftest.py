"""Runs small enough to be done many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deniable.data import Arrays, Dataset, fingerprint
from deniable.models import MODELS
from deniable.runfolder import RunFolder
from deniable.settings import Settings
from deniable.training import start

DEFAULTS = {
    "model": "digits-mlp",
    "optimizer": "sgd",
    "lr": 0.1,
    "batch_size": 12,
    "epochs": 3.0,
    "noise_multiplier": 2.0,
    "seed": 7,
}


def tiny(shift: float = 0.0) -> Dataset:
    """Two classes of 36 noisy 4 x 4 images."""
    generator = np.random.default_rng(0)
    targets = np.arange(36) % 2
    inputs = generator.random((36, 1, 4, 4)) * 0.5 + targets[:, None, None, None] * 0.5
    train = Arrays((inputs + shift).astype(np.float32), targets.astype(np.int64))
    return Dataset("tiny", train, train, 2, fingerprint(train.inputs, train.targets))


class WithDropout(nn.Sequential):
    """Draws from torch's own generator while it trains."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        size = int(np.prod(input_shape))
        super().__init__(
            nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, classes)
        )


@pytest.fixture
def use_data(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the data that every name loads."""

    def use(**changes: float) -> None:
        monkeypatch.setattr(start, "load", lambda *_, **__: tiny(**changes))

    return use


@pytest.fixture(autouse=True)
def small(use_data: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_data()
    monkeypatch.setitem(MODELS, "dropout", WithDropout)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """Settings of a run of nine steps, with changes."""

    def make(**changes: Any) -> Settings:
        return Settings(data="tiny", **(DEFAULTS | changes))

    return make


@pytest.fixture
def results_of() -> Callable[[Path], tuple[bytes, list[Any], dict[str, Any]]]:
    """The weights, history and results of a complete run, less its times."""

    def read(path: Path) -> tuple[bytes, list[Any], dict[str, Any]]:
        folder = RunFolder(path)
        record = folder.read()
        assert record["status"] == "complete"
        assert not folder.checkpoint.exists()
        for each in [*record["history"], record["results"]]:
            del each["seconds"]
        return folder.model.read_bytes(), record["history"], record["results"]

    return read
