from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deniable.papers.patches import (
    FLAT,
    GRID,
    SIDE,
    THRESHOLD,
    Patches,
)


@pytest.fixture(scope="module")
def transform() -> Patches:
    return Patches(8, groups=2)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def direct(transform: Patches, image: Tensor) -> Tensor:
    """In float64, a patch at a time: responses summed over the cells that hold its position."""
    filters = transform.filters.double()
    places = image.shape[-1] - SIDE + 1
    found = torch.zeros(2 * filters.shape[1], GRID, GRID, dtype=torch.float64)
    for view in (image.double(), image.double().flip(-1)):
        for i in range(places):
            for j in range(places):
                patch = view[:, i : i + SIDE, j : j + SIDE].flatten()
                patch = patch - patch.mean()
                response = patch / math.sqrt(float(patch.square().mean()) + FLAT) @ filters
                signs = torch.cat([response, -response])
                for down in range(GRID):
                    for across in range(GRID):
                        rows = range(down * places // GRID, -(-(down + 1) * places // GRID))
                        columns = range(across * places // GRID, -(-(across + 1) * places // GRID))
                        if i in rows and j in columns:
                            share = 1 / (len(rows) * len(columns))
                            found[:, down, across] += share * (signs - THRESHOLD).clamp_min(0)
    root = found.sqrt().view(2, -1)
    centred = root - root.mean(1, keepdim=True)
    deviation = (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return (centred / deviation).view_as(found)


def test_responses_are_those_of_the_formula(transform: Patches) -> None:
    image = images(1)
    assert torch.allclose(transform(image)[0].double(), direct(transform, image[0]), atol=0.05)


def test_each_image_is_transformed_by_itself(transform: Patches) -> None:
    both = images(2)
    assert torch.allclose(transform(both)[1], transform(both[1:])[0], atol=0.02)


def test_an_image_and_its_mirror_image_are_the_same(transform: Patches) -> None:
    assert torch.equal(transform(images()), transform(images().flip(-1)))


def test_the_filters_depend_on_the_seed_alone() -> None:
    assert torch.equal(Patches(8, 2).filters, Patches(8, 2).filters)
    assert not torch.equal(Patches(8, 2).filters, Patches(8, 2, seed=1).filters)
