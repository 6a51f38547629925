"""Each way to a norm, forced wherever it exists: the same release, whatever a unit is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deniable
from deniable.gradients import convolution, fallback, outer, strategies
from deniable.gradients.convolution import Convolution
from deniable.gradients.outer import Outer
from deniable.grouping import Unit
from gradients.networks import CASES, Case, images
from oracles.gradients import clipped_means, gradients_of_rows, relative_error
from oracles.release import released_sum, released_sums

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

NORM = 0.3
UNITS, VIEWS = 37, 2
PRODUCTS = ["gram", "instantiate", "turned", "streamed"]
CONVOLUTIONS = ["grouped", "swapped", "offsets", "patches", "streamed patches"]
# Units drawn, and rows of one piece.
DRAWN = [(0, None), (1, None), (2, None), (UNITS, None), (UNITS, 8)]


def views(repeated: Tensor) -> Tensor:
    """Two views of each of the rows, which lie in pairs."""
    which = torch.arange(len(repeated)).view(-1, *([1] * (repeated.ndim - 1))) % VIEWS
    if repeated.is_floating_point():
        return repeated + which * torch.linspace(-1, 1, repeated[:1].numel()).view_as(repeated[:1])
    return (repeated + which) % 5


@dataclass
class Drawable:
    """A network in float64, examples, the views of them as rows, and the gradient of each row."""

    model: nn.Module
    examples: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    gradients: list[dict[str, Tensor]]


@cache
def drawable(case: Case) -> Drawable:
    torch.manual_seed(0)
    model, (inputs, labels) = case.build().double(), case.batch(UNITS)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    rows = views(inputs.repeat_interleave(VIEWS, 0)), labels.repeat_interleave(VIEWS, 0)
    return Drawable(model, (inputs, labels), rows, gradients_of_rows(model, rows, case.loss))


class Arranged(deniable.Microbatch):
    """The same examples share a microbatch every time."""

    def rows(self, drawn: Any, generator: Any, batch_size: int) -> Any:
        return super().rows(drawn, np.random.default_rng(0), batch_size)


def arranged(drawn: int) -> list[list[int]]:
    order, sizes = Arranged(3).rows(np.arange(drawn), None, UNITS)
    return [part.tolist() for part in np.split(order, np.cumsum(sizes)[:-1])]


OWNERS = [*range(UNITS), *(5 * k % 7 for k in range(UNITS))]  # seven users have many rows
USERS = [[k for k, owner in enumerate(OWNERS) if owner == user] for user in range(UNITS)]

# The unit, and the rows of each when so many are drawn.
KINDS: dict[str, tuple[Callable[[], Unit], Callable[[int], list[list[int]]]]] = {
    "example": (deniable.Example, lambda drawn: [[k] for k in range(drawn)]),
    "microbatch": (lambda: Arranged(3), arranged),
    "user": (lambda: deniable.User(OWNERS), lambda drawn: USERS[:drawn]),
    "augmented views": (
        lambda: deniable.Augmented(VIEWS, views),
        lambda drawn: [[*range(VIEWS * k, VIEWS * (k + 1))] for k in range(drawn)],
    ),
}


def data_for(kind: str, network: Drawable) -> tuple[Tensor, ...]:
    if kind == "augmented views":
        return network.examples
    return network.rows if kind == "user" else tuple(each[:UNITS] for each in network.rows)


def strategies_for(case: Case) -> list[str]:
    return PRODUCTS + CONVOLUTIONS * ("conv" in case.name or case.inputs is images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_strategy_releases_what_the_oracle_does(case: Case, kind: str) -> None:
    """Pitfall: privacy 6. Pitfall: privacy 12. Pitfall: users 6. Pitfall: users 11."""
    network, (unit, units) = drawable(case), KINDS[kind]
    data = data_for(kind, network)
    asked = DRAWN[case.needs_rows :]
    for piece in dict.fromkeys(rows for _, rows in asked):
        drawn = [each for each, rows in asked if rows == piece]
        expected = {each: clipped_means(network.gradients, units(each), NORM) for each in drawn}
        steps = [(each, way) for each in drawn for way in strategies_for(case)]
        found = released_sums(steps, network.model, data, case.loss, NORM, rows=piece, unit=unit())
        for step, each in zip(steps, found, strict=True):
            assert relative_error(each, expected[step[0]]) < 1e-10, (step, piece)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_measured_strategies_release_what_the_oracle_does(case: Case) -> None:
    """For users, whose rows make several positions of every use."""
    network = drawable(case)
    expected = clipped_means(network.gradients, USERS, NORM)
    found = released_sum(network.model, network.rows, case.loss, NORM, unit=deniable.User(OWNERS))
    assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_tight_budget_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gram matrices, patches and fallbacks unit by unit; no gradient per unit that need not be.

    Pitfall: users 5.
    """
    for module, budget in [
        (outer, "GRAM_ELEMENTS"), (convolution, "GRAM_ELEMENTS"),
        (convolution, "CACHED_ELEMENTS"), (convolution, "GROUPED_CHANNELS"),
        (fallback, "_CHUNK_ELEMENTS"),
        (strategies, "DENSE_ELEMENTS"),
    ]:  # fmt: skip
        monkeypatch.setattr(module, budget, 1)
    network = drawable(case)
    expected = clipped_means(network.gradients, USERS, NORM)
    found = released_sum(
        network.model, network.rows, case.loss, NORM,
        unit=deniable.User(OWNERS), strategy="as counted",
    )  # fmt: skip
    assert relative_error(found, expected) < 1e-10


def test_no_strategy_is_left_out() -> None:
    x, g = torch.randn(2, 1, 3, 6, 6), torch.randn(2, 1, 4, 4, 4)
    ways = Convolution.of(x, g, torch.Size([4, 3, 3, 3]), 1, 0, 1, 1).ways().keys()
    ways |= Outer(torch.randn(2, 5, 3), torch.randn(2, 5, 4), torch.Size([3, 4])).ways().keys()
    assert ways == {*PRODUCTS, *CONVOLUTIONS}


@pytest.mark.parametrize(
    ("gram", "way"), [(1.2, "gram"), (1.3, "instantiate"), (0.9, "gram")], ids=str
)
def test_gradients_larger_than_their_factors_are_kept_only_where_that_is_much_quicker(
    gram: float, way: str
) -> None:
    large = Outer(torch.zeros(3, 2, 50), torch.zeros(3, 2, 40), torch.Size((50, 40)))
    assert strategies._best({"gram": gram, "instantiate": 1.0}, large, 2_000) == way
    middling = Outer(torch.zeros(3, 4, 10), torch.zeros(3, 4, 10), torch.Size((10, 10)))
    slower = gram - 0.15  # than the quickest by less than a tenth, or by more
    expected = "instantiate" if slower > 1.1 else "gram"
    assert strategies._best({"gram": slower, "instantiate": 1.0}, middling, 100) == expected
    small = Outer(torch.zeros(3, 90, 5), torch.zeros(3, 90, 4), torch.Size((5, 4)))
    quickest = "gram" if gram < 1 else "instantiate"
    assert strategies._best({"gram": gram, "instantiate": 1.0}, small, 20) == quickest
