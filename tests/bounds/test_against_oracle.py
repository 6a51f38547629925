"""Every bound on every kind of use: the release at noise 0 is what the formula gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import deniable
from deniable.bounds import AdaptiveClip, AutomaticClip, Bound, Chain, Clip, PerLayerClip, Tanh
from deniable.gradients import contributions
from deniable.gradients.contributions import Dense
from deniable.gradients.per_unit import PerUnitGradients
from gradients.networks import CASES, Case, class_loss
from gradients.test_strategies import DRAWN, KINDS, UNITS, data_for, drawable
from oracles import bounds as oracle
from oracles.gradients import relative_error
from oracles.release import released_sum

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

# Scales between the norms of the cases' gradients: some are changed, some hardly.
BOUNDS: dict[str, tuple[Callable[[], Bound], oracle.Map]] = {
    "tanh": (lambda: Tanh(0.7, 0.1), oracle.tanh(0.7, 0.1)),
    "tanh, then clip": (
        lambda: Chain(Tanh(0.7, 0.1), Clip(0.3)),
        oracle.chain(oracle.tanh(0.7, 0.1), oracle.clip(0.3)),
    ),
    "per parameter": (lambda: PerLayerClip(0.3), oracle.per_layer(0.3, lambda name: name)),
    "per module": (
        lambda: PerLayerClip(0.3, layer="module"),
        oracle.per_layer(0.3, lambda name: name.rpartition(".")[0]),
    ),
    "automatic": (lambda: AutomaticClip(2.0, 0.1), oracle.automatic(2.0, 0.1)),
    "adaptive": (lambda: AdaptiveClip(0.3), oracle.clip(0.3)),
    "per parameter, tanh, normalised": (
        lambda: Chain(PerLayerClip(0.3), Tanh(0.7, 0.1), AutomaticClip(2.0, 0.1)),
        oracle.chain(
            oracle.per_layer(0.3, lambda name: name),
            oracle.tanh(0.7, 0.1),
            oracle.automatic(2.0, 0.1),
        ),
    ),
}


def check(case: Case, kind: str, name: str, drawn: int, rows: int | None) -> None:
    network, (unit, units) = drawable(case), KINDS[kind]
    bound, formula = BOUNDS[name]
    expected = oracle.sum_of(network.gradients, units(drawn), formula)
    found = released_sum(
        network.model, data_for(kind, network), case.loss, bound(),
        rows=rows, unit=unit(), drawn=drawn,
    )  # fmt: skip
    assert relative_error(found, expected) < 1e-10, (name, drawn, rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_bound_releases_what_its_formula_gives(case: Case, kind: str) -> None:
    """For every unit, whole and in pieces. Pitfall: privacy 6. Pitfall: privacy 12."""
    names = BOUNDS if kind == "example" else ["tanh, then clip", "per module"]
    for k, name in enumerate(names):
        check(case, kind, name, UNITS, (8, None)[k % 2])


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("case", CASES[::5], ids=lambda case: case.name)
def test_batches_of_any_size_do(case: Case, name: str) -> None:
    """Pitfall: users 6."""
    for drawn, rows in DRAWN[case.needs_rows :]:
        check(case, "example", name, drawn, rows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_units_looked_at_one_by_one_give_the_same(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contributions, "STREAM_ELEMENTS", 1)
    check(case, "user", "tanh, then clip", UNITS, None)


@pytest.mark.parametrize("name", BOUNDS)
def test_the_contract_would_notice_a_bound_of_another_scale(name: str) -> None:
    """The negative control: a thousandth is seen."""
    [case] = [each for each in CASES if each.name == "mlp"]
    network, (_, units) = drawable(case), KINDS["example"]
    bound, formula = BOUNDS[name]
    expected = oracle.sum_of(network.gradients, units(UNITS), formula)
    found = released_sum(network.model, data_for("example", network), case.loss, bound())
    scaled = {name: 1.001 * each for name, each in found.items()}
    assert relative_error(scaled, expected) > 1e-4


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor has that was made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_flatten(result)[0] if isinstance(each, torch.Tensor)]
        stored = [each.untyped_storage().nbytes() // each.element_size() for each in made]
        self.elements = max([self.elements, *stored])
        return result


def largest_made(model: nn.Module, inputs: torch.Tensor, bound: Bound) -> int:
    labels = torch.zeros(len(inputs)).long()
    with Largest() as seen:
        released_sum(model, (inputs, labels), class_loss, bound, strategy="as counted")
    return seen.elements


@pytest.mark.parametrize("bound", [Tanh(), Chain(Tanh(), Clip(1.0))], ids=repr)
def test_the_filter_never_forms_a_gradient_of_every_unit(
    bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 units of 590,000 numbers would make 38 million at once. Pitfall: users 5."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 1000), nn.Tanh(), nn.Linear(1000, 10)
    )
    parameters = sum(each.numel() for each in model.parameters())
    inputs, most = torch.randn(64, 3, 8, 8), max(parameters, contributions.STREAM_ELEMENTS)
    assert largest_made(model, inputs, bound) <= most
    monkeypatch.setattr(contributions, "STREAM_ELEMENTS", 1 << 40)
    assert largest_made(model, inputs, bound) > 10 * most, "negative control"


@pytest.mark.parametrize("bound", [Clip(1.0), *(make() for make, _ in BOUNDS.values())], ids=repr)
def test_no_bound_waits_for_a_device(bound: Bound) -> None:
    """A tensor without values refuses to be looked at: nothing is, but on the CPU."""
    nowhere = torch.device("meta")
    parameters = {"a": torch.zeros(2, device=nowhere), "b": torch.zeros(3, device=nowhere)}
    gradients = PerUnitGradients(
        4,
        parameters,
        {
            name: Dense(torch.zeros(4, *each.shape, device=nowhere))
            for name, each in parameters.items()
        },
    )
    bounded, observed = bound(gradients)
    assert bounded.sums["b"].shape == (3,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        observed.summary()  # the negative control: this looks


@pytest.mark.parametrize(
    ("norm", "complaint"),
    [
        ({"0": 1.0, "2": 1.0, "decoder": 1.0}, "'decoder', which is the name of no"),
        ({"0": 1.0}, "no threshold for parameter '2.weight'"),
        ({"0": 1.0, "0.weight": 1.0, "0.bias": 1.0, "2": 1.0}, "'0', which is the name of no"),
    ],
)
def test_thresholds_that_do_not_fit_the_model_are_refused_when_attached(
    norm: dict[str, float], complaint: str
) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(100, 10, steps=5, noise_multiplier=1.0, delta=1e-3)
    with pytest.raises(deniable.DeniableError, match=complaint):
        deniable.attach(model, optimizer, plan, PerLayerClip(norm))
    deniable.attach(model, optimizer, plan, PerLayerClip({"0": 1.0, "2": 1.0})).detach()
