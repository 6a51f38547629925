"""Two character models of one text, and what they give away."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from deniable.audit.comparison import Comparison, letter_perplexity
from deniable.audit.planted import Canary, draw, inserted
from deniable.audit.secrets import MOST, Exposure, exposure, random_secrets
from deniable.audit.sequences import losses as losses_of
from deniable.audit.sequences import write
from deniable.data import Arrays, load
from deniable.data.ptb import LENGTH, sequences, text_of
from deniable.events import ComposedEvent
from deniable.papers import ordinary, training
from deniable.papers.networks import network
from deniable.papers.points import ROWS, Language, Training, Watch
from deniable.papers.sentences import text as made_up
from deniable.papers.training import Data
from deniable.runfolder import RunFolder, write_json

SHOWN = 24
Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Text:
    """What both models are trained and measured on.

    Attributes:
        train: sequences, with the canaries behind them.
        validation: settings are chosen by it.
        test: looked at once, at the end.
        canaries: those that were put in, and those that were left out.
    """

    train: Arrays
    validation: Arrays
    test: Arrays
    canaries: tuple[Canary, ...]

    def data(self) -> Data:
        """As a training takes it: measured on the validation part while it goes."""
        return Data(_tensors(self.train), _tensors(self.validation), {}, ComposedEvent(()), 256)


def read(point: Language, data_dir: Path | None) -> Text:
    """The text of a point."""
    canaries = draw(dict(point.canaries), point.seed)
    if point.private.data == "sentences":
        count = ROWS["sentences"]
        train, validation, test = (
            sequences(made_up(rows, seed)) for seed, rows in enumerate((count, 100, 100))
        )
        return Text(inserted(train, canaries), validation, test, canaries)
    data = load(point.private.data, data_dir)
    assert data.validation is not None, "a text comes with a part for validation"
    return Text(inserted(data.train, canaries), data.validation, data.test, canaries)


def train(
    point: Language, folder: Path, watch: Watch, data_dir: Path | None = None
) -> dict[str, Any] | None:
    """Both models, and what they give away, as JSON values; None when asked to stop before the end.

    Args:
        point: what to train.
        folder: where both are kept until the point is complete.
        watch: told how far it is.
        data_dir: the folder that holds the data sets' files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = read(point, data_dir)
    share = point.private.work / point.work
    private = train_private(point, folder, text, lambda done, said: watch(share * done, said))
    if private is None:
        return None
    ordinary_ = train_ordinary(
        point, folder, text, lambda done, said: watch(share + (1 - share) * done, said)
    )
    if ordinary_ is None:
        return None
    models = {
        "ordinary": _model(point.ordinary, folder / "ordinary"),
        "private": _model(point.private, folder / "private"),
    }
    watch(1.0, "reading the text with both models")
    started = time.monotonic()
    found = compared(models, text, point)
    seconds = private["seconds"] + ordinary_["seconds"] + time.monotonic() - started
    return {
        "ordinary": ordinary_ | found.pop("ordinary"),
        "private": private | found.pop("private"),
        **found,
        "seconds": round(seconds, 1),
    }


def train_private(point: Language, folder: Path, text: Text, watch: Watch) -> dict[str, Any] | None:
    """The private model, in `folder / "private"`."""
    return _once(
        folder / "private",
        point.private,
        lambda place: training.train_on(
            lambda _ledger, _fresh: text.data(), point.private, place, watch
        ),
    )


def train_ordinary(
    point: Language, folder: Path, text: Text, watch: Watch
) -> dict[str, Any] | None:
    """The other one, in `folder / "ordinary"`."""
    return _once(
        folder / "ordinary",
        point.ordinary,
        lambda place: ordinary.train(text.data, point.ordinary, place, watch),
    )


def _once(
    folder: Path, point: Training, make: Callable[[Path], dict[str, Any] | None]
) -> dict[str, Any] | None:
    """What a finished training of the same point left, or a training."""
    done = folder / "result.json"
    settings = json.loads(json.dumps(point.to_json()))
    if done.exists():
        saved = json.loads(done.read_text(encoding="utf-8"))
        if saved["settings"] == settings:
            found: dict[str, Any] = saved["result"]
            return found
    result = make(folder)
    if result is not None:
        write_json(done, {"settings": settings, "result": result})
    return result


def _tensors(arrays: Arrays) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays.inputs), torch.from_numpy(arrays.targets)


def _model(point: Training, folder: Path) -> nn.Module:
    model = network(point.model.name, (LENGTH,), 256, point.seed, **point.model.arguments)
    model.load_state_dict(safetensors.torch.load_file(RunFolder(folder).model))
    return model.eval()


def compared(models: dict[str, nn.Module], text: Text, point: Language) -> dict[str, Any]:
    """What two models, called ordinary and private, make of the text and of the canaries."""
    rows = len(text.train.inputs) - sum(each.repetitions for each in text.canaries)
    parts = {
        "train": Arrays(text.train.inputs[:rows], text.train.targets[:rows]),
        "validation": text.validation,
        "test": text.test,
    }
    losses = {
        name: {part: losses_of(model, *_tensors(arrays)) for part, arrays in parts.items()}
        for name, model in models.items()
    }
    frequencies = letter_perplexity(parts["train"].targets)
    both = Comparison(parts["train"], losses["ordinary"]["train"], losses["private"]["train"])
    # Each canary is compared with others of its own, so that their exposures are independent.
    exposures = {
        name: [
            _exposure(exposure(model, each, random_secrets(point.others, point.seed + 1 + index)))
            for index, each in enumerate(text.canaries)
        ]
        for name, model in models.items()
    }
    return {
        **{
            name: {
                "losses": {part: float(each.mean()) for part, each in of_model.items()},
                "exposures": exposures[name],
                "written": [write(model, seed=seed, characters=400) for seed in (0, 1)],
            }
            for name, of_model in losses.items()
            for model in [models[name]]
        },
        "letter_perplexity": frequencies,
        "accepted": _accepted(both, frequencies),
        "divergent": _divergent(both),
        "gap": _gap(losses["ordinary"]["test"], losses["private"]["test"]),
        "most_exposed": MOST,
    }


def _accepted(found: Comparison, threshold: float) -> dict[str, Any]:
    """Shares of sequences whose perplexity is below a threshold, for some thresholds."""

    def at(each: float) -> dict[str, float]:
        shares = zip(("ordinary", "private", "both"), found.accepted(each), strict=True)
        return {"threshold": each, **dict(shares)}

    worse = np.maximum(found.first, found.second)
    return {
        "letters": at(threshold),
        "at_98": float(np.exp(np.quantile(worse, 0.98))),
        "curve": [at(float(each)) for each in np.geomspace(1.5, 30.0, 60)],
    }


def _divergent(found: Comparison) -> dict[str, Any]:
    """The sequences that the private model likes least in comparison, and some that both like."""
    alike = np.argsort(np.maximum(found.first, found.second), kind="stable")[:5]
    return {
        "apart": [
            _said(each.row, each.shown, each.first, each.second) for each in found.apart(SHOWN)
        ],
        "alike": [
            _said(row, text_of(found.arrays.targets[row]), found.first[row], found.second[row])
            for row in alike
        ],
    }


def _said(row: int, text: str, first: float, second: float) -> dict[str, Any]:
    perplexities = {"ordinary": math.exp(first), "private": math.exp(second)}
    return {"row": int(row), "text": text, **perplexities}


def _gap(ordinary_: Floats, private: Floats) -> dict[str, float]:
    """How much of the difference between the mean losses comes from the rows that differ most."""
    apart = np.sort(private - ordinary_)[::-1]
    return {
        "mean": float(apart.mean()),
        "of_top_tenth": float(apart[: len(apart) // 10].sum() / apart.sum()),
        "median": float(np.median(apart)),
    }


def _exposure(found: Exposure) -> dict[str, Any]:
    return {
        "repetitions": found.canary.repetitions,
        "bits": found.bits,
        "rank": found.rank,
        "interpolated": found.interpolated,
        "extrapolated": found.extrapolated,
        "loss": found.loss,
    }
