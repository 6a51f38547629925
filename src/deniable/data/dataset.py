"""What every loader returns: arrays for training, arrays for testing, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from deniable.errors import DataError


@dataclass(frozen=True, eq=False)
class Arrays:
    """Inputs and targets, one row per example.

    Attributes:
        inputs: images are float32 in [0, 1] of shape (N, C, H, W); text is int64 of shape (N, T).
        targets: class labels are int64 of shape (N,); text is int64 of shape (N, T).

    Raises:
        DataError: inputs and targets differ in their number of rows.
    """

    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if self.inputs.shape[:1] != self.targets.shape[:1]:
            raise DataError(
                "Inputs and targets must have the same number of rows, got shapes "
                f"{self.inputs.shape} and {self.targets.shape}. Pass one target per input."
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set with its official split.

    Attributes:
        name: one of `deniable.data.NAMES`.
        train: the examples that a guarantee is about.
        test: the examples that an accuracy is measured on; no guarantee covers them.
        classes: how many values a target can take.
        fingerprint: SHA-256 of the training arrays (`deniable.data.fingerprint`), hexadecimal.
        validation: examples to choose settings by, where the data set comes with such a part, which
            is no part of `train`.
    """

    name: str
    train: Arrays
    test: Arrays
    classes: int
    fingerprint: str
    validation: Arrays | None = None
