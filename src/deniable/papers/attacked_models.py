"""The models of the threat model: one network, trained with and without privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deniable.papers.points import Named, Training

PLAIN, PRIVATE = "without-privacy", "with-privacy"
EPSILON = 2.0

_NETWORK = Named("mlp", hidden=256)


def plain(data: str, epochs: float, rows: int | None = None, **changes: Any) -> Training:
    """Ordinary SGD."""
    return Training(
        data, _NETWORK, 100, epochs, 0.3, noise_multiplier=0.0, train_rows=rows
    ).but(**changes)  # fmt: skip


def private(data: str, epochs: float, rows: int | None = None, **changes: Any) -> Training:
    """The same network at `EPSILON`."""
    return Training(
        data, _NETWORK, 1000, epochs, 4.0, epsilon=EPSILON, bound=Named("Clip", norm=0.1),
        train_rows=rows,
    ).but(**changes)  # fmt: skip


QUICK_PLAIN: Mapping[str, Any] = {"batch_size": 32}
QUICK_PRIVATE: Mapping[str, Any] = {"batch_size": 144, "lr": 1.0}
