from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deniable.papers.features import fixed, kept
from deniable.papers.points import Named


def images(count: int = 2) -> np.ndarray:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()


def test_a_second_call_reads_the_file_of_the_same_images_alone(tmp_path: Path) -> None:
    first = images()
    told: list[int] = []

    def again(inputs: np.ndarray) -> np.ndarray:
        return kept("means", lambda: torch.nn.AvgPool2d(4), inputs, tmp_path, told.append)

    found = again(first)
    assert np.array_equal(again(first), found)
    assert told == [2]
    again(first + 1)
    assert told == [2, 2]


def test_private_components_leave_the_images_alone_until_noise_is_drawn() -> None:
    rows = images()
    assert fixed(Named("pca", components=3, noise_multiplier=1.0), rows) is rows
