"""Two character models of one text, and what they give away."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from deniable import checkpoint
from deniable.audit.comparison import Comparison, letter_perplexity
from deniable.audit.planted import Canary, draw, inserted
from deniable.audit.secrets import MOST, Exposure, exposure, random_secrets
from deniable.audit.sequences import losses, write
from deniable.data import Arrays, load
from deniable.data.ptb import LENGTH, sequences, text_of
from deniable.events import ComposedEvent
from deniable.papers import ordinary, training
from deniable.papers.networks import network
from deniable.papers.points import ROWS, Language, Training, Watch
from deniable.papers.sentences import text as made_up
from deniable.papers.training import Data
from deniable.rows import as_tensors
from deniable.runfolder import RunFolder, write_json

SHOWN = 24
Floats = npt.NDArray[Any]
Row = dict[str, Any]


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
        return Data(
            as_tensors(self.train), as_tensors(self.validation), {}, ComposedEvent(()), classes=256
        )


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
    rows = point.private.train_rows
    train = Arrays(data.train.inputs[:rows], data.train.targets[:rows])
    return Text(inserted(train, canaries), data.validation, data.test, canaries)


def train(point: Language, folder: Path, watch: Watch, data_dir: Path | None = None) -> Row | None:
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
    watch(1.0, "reading the text with both models")
    of_ordinary = measure(point, point.ordinary, folder / "ordinary", text)
    of_private = measure(point, point.private, folder / "private", text)
    return {
        "ordinary": ordinary_ | _kept(of_ordinary),
        "private": private | _kept(of_private),
        **compared(text, of_ordinary["losses"], of_private["losses"]),
        "most_exposed": MOST,
        "seconds": round(
            sum(each["seconds"] for each in (private, ordinary_, of_ordinary, of_private)), 1
        ),
    }


def train_private(point: Language, folder: Path, text: Text, watch: Watch) -> Row | None:
    """The private model, in `folder / "private"`."""
    return _once(
        folder / "private" / "result.json",
        point.private.to_json(),
        lambda: training.train_on(
            lambda _ledger, _fresh: text.data(), point.private, folder / "private", watch
        ),
    )


def train_ordinary(point: Language, folder: Path, text: Text, watch: Watch) -> Row | None:
    """The other one, in `folder / "ordinary"`."""
    return _once(
        folder / "ordinary" / "result.json",
        point.ordinary.to_json(),
        lambda: ordinary.train(text.data, point.ordinary, folder / "ordinary", watch),
    )


def measure(point: Language, of: Training, folder: Path, text: Text) -> Row:
    """What one model makes of the text and of the canaries: minutes, and so kept beside it.

    Args:
        point: the canaries, and how many others each is compared with.
        of: which of its two models.
        folder: where that is.
        text: what it was trained and measured on.
    """

    def make() -> Row:
        started = time.monotonic()
        model = _model(of, folder)
        parts = {"train": own(text), "validation": text.validation, "test": text.test}
        return {
            "losses": {
                part: losses(model, *as_tensors(arrays)).tolist() for part, arrays in parts.items()
            },
            # Each is compared with others of its own, so that exposures are independent.
            "exposures": [
                _exposure(exposure(model, each, random_secrets(point.others, point.seed + place)))
                for place, each in enumerate(text.canaries, start=1)
            ],
            "written": write(model, seed=point.seed, characters=400),
            "seconds": time.monotonic() - started,
        }

    settings = {
        "of": of.to_json(),
        "canaries": point.canaries,
        "others": point.others,
        "seed": point.seed,
    }
    found = _once(folder / "measured.json", settings, make)
    assert found is not None
    return found


def own(text: Text) -> Arrays:
    """The training sequences without the canaries."""
    rows = len(text.train.inputs) - sum(each.repetitions for each in text.canaries)
    return Arrays(text.train.inputs[:rows], text.train.targets[:rows])


def _once(path: Path, settings: Row, make: Callable[[], Row | None]) -> Row | None:
    """What was kept of the same settings, or what is made of them now."""
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["settings"] == wanted:
            found: Row = saved["result"]
            return found
    result = make()
    if result is not None:
        write_json(path, {"settings": wanted, "result": result})
    return result


def _kept(found: Row) -> Row:
    """Means in the place of the losses of single sequences."""
    means = {part: float(np.mean(each)) for part, each in found["losses"].items()}
    return {"losses": means, "exposures": found["exposures"], "written": found["written"]}


def _model(point: Training, folder: Path) -> nn.Module:
    model = network(point.model.name, (LENGTH,), 256, point.seed, **point.model.arguments)
    checkpoint.load_model(model, RunFolder(folder).model)
    return model.eval()


def compared(
    text: Text, ordinary_: Mapping[str, list[float]], private: Mapping[str, list[float]]
) -> Row:
    """How the losses of the two models compare, sequence by sequence."""
    arrays = own(text)
    both = Comparison(arrays, np.array(ordinary_["train"]), np.array(private["train"]))
    frequencies = letter_perplexity(arrays.targets)
    return {
        "letter_perplexity": frequencies,
        "accepted": _accepted(both, frequencies),
        "divergent": _divergent(both, frequencies),
        "gap": _gap(np.array(ordinary_["test"]), np.array(private["test"])),
    }


def _accepted(found: Comparison, threshold: float) -> Row:
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


def _divergent(found: Comparison, threshold: float) -> Row:
    """Sequences that the private model likes less or not at all, and some that both like."""
    unlikely = np.argsort(-found.second, kind="stable")[:SHOWN]
    rejected = unlikely[found.second[unlikely] >= math.log(threshold)]
    alike = np.argsort(np.maximum(found.first, found.second), kind="stable")[:5]
    return {
        "apart": [
            _said(each.row, each.shown, each.first, each.second) for each in found.apart(SHOWN)
        ],
        "rejected": [_of(found, row) for row in rejected],
        "alike": [_of(found, row) for row in alike],
    }


def _of(found: Comparison, row: int) -> Row:
    text = text_of(found.arrays.targets[row])
    return _said(row, text, float(found.first[row]), float(found.second[row]))


def _said(row: int, text: str, first: float, second: float) -> Row:
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


def _exposure(found: Exposure) -> Row:
    return {
        "repetitions": found.canary.repetitions,
        "bits": found.bits,
        "rank": found.rank,
        "interpolated": found.interpolated,
        "extrapolated": found.extrapolated,
        "loss": found.loss,
    }
