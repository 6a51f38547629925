"""Two runs on the same data: which examples one model finds likely and the other does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from deniable.audit.sequences import losses
from deniable.audit.subject import Subject
from deniable.data import Arrays
from deniable.data.ptb import text_of
from deniable.errors import SettingsError
from deniable.rows import as_tensors

Part = Literal["train", "validation", "test"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """One example on which two models differ.

    Attributes:
        row: where it stands in its part of the data.
        shown: its text, or its label.
        first: the loss that the first model gives it, in nats.
        second: the loss that the second model gives it.
    """

    row: int
    shown: str
    first: float
    second: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """The losses that two models give to the same examples.

    Attributes:
        arrays: the examples.
        first: the loss of each, by the first model; of a sequence the mean over its characters.
        second: by the second model.
    """

    arrays: Arrays
    first: Floats
    second: Floats

    @property
    def is_text(self) -> bool:
        """Whether the examples are sequences of characters."""
        return self.arrays.targets.ndim > 1

    def apart(self, count: int) -> list[Difference]:
        """The examples that the second model finds less likely than the first, the most so first.

        An example that stands in the data several times, or is as unlikely, is listed once.
        """
        found: list[Difference] = []
        seen: set[bytes] = set()
        for row in np.argsort(self.first - self.second, kind="stable"):
            if len(found) == count or self.first[row] >= self.second[row]:
                break
            content = self.arrays.inputs[row].tobytes() + self.arrays.targets[row].tobytes()
            if content in seen:
                continue
            seen.add(content)
            found.append(
                Difference(
                    int(row), self._shown(row), float(self.first[row]), float(self.second[row])
                )
            )
        return found

    def turned(self) -> Comparison:
        """The same with the models in the other order."""
        return Comparison(self.arrays, self.second, self.first)

    def accepted(self, threshold: float) -> tuple[float, float, float]:
        """The shares of examples with a perplexity below a threshold: first, second, and both."""
        bound = math.log(threshold)
        first, second = self.first < bound, self.second < bound
        return float(first.mean()), float(second.mean()), float((first & second).mean())

    def _shown(self, row: int) -> str:
        target = self.arrays.targets[row]
        return text_of(target) if self.is_text else f"label {int(target)}"


def compare(first: Subject, second: Subject, part: Part = "train") -> Comparison:
    """What two runs make of one part of their data.

    Args:
        first: a complete run.
        second: another one on the same data.
        part: which examples.

    Raises:
        SettingsError: the runs are on different data, or the data has no such part.
    """
    if first.data.fingerprint != second.data.fingerprint:
        raise SettingsError(
            f"Two runs are compared on the data of both, but {first.path} is of {first.data.name} "
            f"and {second.path} of {second.data.name}, or of other rows of it. Give runs on the "
            "same data."
        )
    arrays = {
        "train": first.data.train,
        "validation": first.data.validation,
        "test": first.data.test,
    }[part]
    if arrays is None:
        raise SettingsError(f"{first.data.name} has no part for validation. Choose train or test.")
    rows = as_tensors(arrays)
    return Comparison(arrays, losses(first.model, *rows), losses(second.model, *rows))


def letter_perplexity(targets: npt.NDArray[np.int64]) -> float:
    """The perplexity per character of who knows how frequent each character is, and nothing else.

    A sequence that a model finds likelier than that is one that the model accepts.

    >>> round(letter_perplexity(np.array([[97, 97, 98, 98]])), 6)
    2.0
    """
    counts = np.bincount(targets.ravel(), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
