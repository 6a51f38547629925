"""Each sampling and relation, against every pair of neighbours among small data sets.

The noise is `noise multiplier * sensitivity`, the sensitivity being 1 for adding or removing and 2
for replacing: were a factor of 2 lost anywhere, epsilon would lie below what is enumerated here.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import pld_privacy_accountant

from deniable.accounting import ACCOUNTANTS, Meter, spent
from deniable.accounting.tally import tally
from deniable.errors import UnknownEventError
from deniable.events import (
    ComposedEvent,
    Event,
    GaussianEvent,
    OwnLoaderEvent,
    PoissonSampledEvent,
    SampledWithoutReplacementEvent,
    SelfComposedEvent,
    ShuffledEvent,
    TruncatedPoissonSampledEvent,
    neighbouring_of,
)
from deniable.sampling import SAMPLINGS, make_sampling
from deniable.units import Neighbouring
from oracles import neighbours
from oracles.privacy_curves import epsilon_at

ADD, REPLACE = Neighbouring.ADD_OR_REMOVE, Neighbouring.REPLACE
UNITS = 4
SENSITIVITY = {ADD: 1.0, REPLACE: 2.0}
PAIRS = {ADD: neighbours.one_fewer, REPLACE: neighbours.one_other}
THEIRS = {
    ADD: dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    REPLACE: dp_accounting.NeighboringRelation.REPLACE_ONE,
}
KNOWS_ALL = pytest.mark.parametrize("accountant", sorted(set(ACCOUNTANTS) - {"moments"}))


@dataclass(frozen=True)
class Case:
    """A sampling by its definition, and the event that is stated of it."""

    law: neighbours.Law
    relation: Neighbouring
    event: Callable[[GaussianEvent], Event]


def truncated_event(largest: int, rate: float = 0.5) -> Callable[[GaussianEvent], Event]:
    return lambda inner: TruncatedPoissonSampledEvent(UNITS, rate, largest, inner)


CASES: dict[str, Case] = {
    "everyone, replace": Case(neighbours.poisson(1.0), REPLACE, lambda inner: inner),
    "own loader": Case(neighbours.poisson(1.0), REPLACE, OwnLoaderEvent),
    "poisson": Case(neighbours.poisson(0.3), ADD, lambda e: PoissonSampledEvent(0.3, e)),
    "poisson, replace": Case(
        neighbours.poisson(0.3), REPLACE, lambda e: PoissonSampledEvent(0.3, e)
    ),
    "truncated at 1": Case(neighbours.truncated(0.5, 1), ADD, truncated_event(1)),
    "truncated at 2": Case(neighbours.truncated(0.5, 2), ADD, truncated_event(2)),
    "truncated at 3": Case(neighbours.truncated(0.3, 3), ADD, truncated_event(3, 0.3)),
    "truncated at 2, replace": Case(neighbours.truncated(0.5, 2), REPLACE, truncated_event(2)),
    "fixed size": Case(
        neighbours.fixed_size(2),
        REPLACE,
        lambda inner: SampledWithoutReplacementEvent(UNITS, 2, inner),
    ),
    "one at a time": Case(
        neighbours.fixed_size(1),
        REPLACE,
        lambda inner: SampledWithoutReplacementEvent(UNITS, 1, inner),
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@functools.cache
def worst_epsilon(case: Case, noise: float, delta: float, units: int = UNITS) -> float:
    """The exact epsilon of one release, over all neighbours that there are."""
    deviation = noise * SENSITIVITY[case.relation]

    def told(pair: tuple[neighbours.Data, neighbours.Data], epsilon: float) -> float:
        return neighbours.delta_between(*pair, case.law, deviation, epsilon)

    # Bisection over all pairs is slow; those that are the worst somewhere are few.
    pairs = list(PAIRS[case.relation](units))
    worst = {max(pairs, key=lambda pair, e=at: told(pair, e)) for at in (0.0, 0.5, 1.5)}  # type: ignore[misc]
    return epsilon_at(lambda epsilon: max(told(pair, epsilon) for pair in worst), delta)


def check_bounds_every_neighbour(case: Case, accountant: str, units: int = UNITS) -> None:
    for noise, delta in [(0.6, 1e-3), (1.5, 0.03)]:
        claimed = spent(case.event(GaussianEvent(noise, case.relation)), delta, accountant)
        assert claimed.epsilon >= worst_epsilon(case, noise, delta, units) * (1 - 1e-5)


@KNOWS_ALL
@every_case
def test_no_pair_of_neighbours_is_told_apart_better_than_stated(
    case: Case, accountant: str
) -> None:
    """Pitfall: privacy 14. Pitfall: privacy 1."""
    check_bounds_every_neighbour(case, accountant)


@pytest.mark.parametrize("name", ["truncated at 1", "truncated at 2"])
def test_nor_is_one_that_would_come_on_top_of_the_planned_number(name: str) -> None:
    check_bounds_every_neighbour(CASES[name], "pld", UNITS + 1)


@pytest.mark.parametrize(
    "name", ["own loader", "poisson", "poisson, replace", "fixed size", "one at a time"]
)
def test_what_is_stated_is_exact_for_one_release(name: str) -> None:
    case = CASES[name]
    claimed = spent(case.event(GaussianEvent(0.6, case.relation)), 1e-3).epsilon
    assert claimed == pytest.approx(worst_epsilon(case, 0.6, 1e-3), rel=1e-4)


LIES: dict[str, Case] = {
    "replacement with the sensitivity of adding": Case(
        neighbours.poisson(0.3),
        REPLACE,
        lambda inner: PoissonSampledEvent(0.3, GaussianEvent(2 * inner.noise_multiplier, REPLACE)),
    ),
    "replacement stated as adding": Case(
        neighbours.poisson(1.0), REPLACE, lambda inner: GaussianEvent(2 * inner.noise_multiplier)
    ),
    "fixed size stated as poisson": Case(
        neighbours.fixed_size(2), REPLACE, lambda inner: PoissonSampledEvent(0.5, inner)
    ),
    "truncated stated as poisson": Case(
        neighbours.truncated(0.5, 1), ADD, lambda inner: PoissonSampledEvent(0.5, inner)
    ),
    "own loader stated as poisson": Case(
        neighbours.poisson(1.0), REPLACE, lambda inner: PoissonSampledEvent(0.5, inner)
    ),
}


@pytest.mark.parametrize("case", LIES.values(), ids=LIES)
def test_an_event_that_understates_is_caught(case: Case) -> None:
    """Negative controls. Pitfall: privacy 1. Pitfall: privacy 14."""
    with pytest.raises(AssertionError):
        check_bounds_every_neighbour(case, "pld")


# -- epochs --------------------------------------------------------------------------------------


def epoch_delta(data: tuple[float, float], other: tuple[float, float], epsilon: float) -> float:
    """Of an epoch of two batches of one unit each, at noise 1: what both noisy sums tell."""
    at, step = np.linspace(-9, 9, 181, retstep=True)

    def density(units: tuple[float, float]) -> Any:
        def bell(centre: float) -> Any:
            return np.exp(-((at - centre) ** 2) / 2) / math.sqrt(2 * math.pi)

        one, two = units
        return (np.outer(bell(one), bell(two)) + np.outer(bell(two), bell(one))) / 2

    p, q = density(data), density(other)
    return float(max(np.maximum(p - math.exp(epsilon) * q, 0).sum() * step**2, 0.0))


@pytest.mark.parametrize(
    ("relation", "data", "other"),
    [
        (REPLACE, (0.0, 1.0), (0.0, -1.0)),
        (REPLACE, (1.0, 1.0), (1.0, -1.0)),
        (ADD, (0.0, 1.0), (0.0, 0.0)),  # an empty place adds nothing
        (ADD, (-1.0, 1.0), (-1.0, 0.0)),
    ],
)
def test_an_epoch_costs_what_one_release_to_which_all_contribute_does(
    relation: Neighbouring, data: tuple[float, float], other: tuple[float, float]
) -> None:
    noise = GaussianEvent(1 / SENSITIVITY[relation], relation)
    epoch = SelfComposedEvent(ShuffledEvent("key", 1, noise), 2)
    for delta in (0.1, 1e-3):
        exact = epsilon_at(lambda e: epoch_delta(data, other, e), delta)
        assert spent(epoch, delta).epsilon == spent(noise, delta).epsilon >= exact * (1 - 1e-4)


def test_epochs_and_runs_add_up_however_their_batches_are_counted() -> None:
    """Two runs of half an epoch are two epochs: whoever shuffled them did so apart."""
    noise = GaussianEvent(5.0)
    first, second, other = (
        ShuffledEvent(key, epoch, noise) for key, epoch in [("a", 1), ("a", 2), ("b", 1)]
    )
    three = ComposedEvent(
        (
            SelfComposedEvent(first, 10),
            SelfComposedEvent(second, 1),
            SelfComposedEvent(other, 4),
            first,
        )
    )
    assert tally(three) == {noise: 3}
    assert tally(SelfComposedEvent(SelfComposedEvent(first, 3), 0)) == {}


# -- relations together --------------------------------------------------------------------------


def test_what_is_stated_for_adding_and_for_replacing_composes_for_replacing() -> None:
    """The same noise over a sensitivity of twice the size. Pitfall: privacy 14."""
    added = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(2.0)), 50)
    replaced = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(1.0, REPLACE)), 50)
    both = ComposedEvent((added, replaced))
    assert neighbouring_of(both) is REPLACE
    assert tally(both) == {PoissonSampledEvent(0.01, GaussianEvent(1.0, REPLACE)): 100}
    alone = spent(SelfComposedEvent(replaced, 2), 1e-6)
    assert spent(both, 1e-6) == alone
    assert spent(SelfComposedEvent(added, 2), 1e-6).epsilon < alone.epsilon


@pytest.mark.parametrize("relation", Neighbouring)
def test_the_moments_accountant_knows_plain_sampling_and_refuses_the_rest(
    relation: Neighbouring,
) -> None:
    """Pitfall: privacy 1."""
    for event in (
        TruncatedPoissonSampledEvent(100, 0.1, 20, GaussianEvent(1.0, relation)),
        SampledWithoutReplacementEvent(100, 10, GaussianEvent(1.0, REPLACE)),
        PoissonSampledEvent(0.1, GaussianEvent(1.0, REPLACE)),
    ):
        with pytest.raises(UnknownEventError, match="Use pld or rdp"):
            ACCOUNTANTS["moments"].epsilon(event, 1e-5)


KINDS: dict[str, Callable[[float, GaussianEvent], Event]] = {
    "poisson": PoissonSampledEvent,
    "truncated": lambda rate, inner: TruncatedPoissonSampledEvent(
        1_000, rate, min(1_000, int(1_000 * rate) + 30), inner
    ),
    "fixed size": lambda rate, inner: SampledWithoutReplacementEvent(
        1_000, max(1, int(1_000 * rate)), inner
    ),
}


# -- beside others' figures ----------------------------------------------------------------------


def theirs(accountant: Any, event: Any, count: int, delta: float) -> float:
    accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("largest", "relation"), [(150, ADD), (100, ADD), (150, REPLACE)])
def test_truncation_costs_no_more_than_dp_accounting_says(
    largest: int, relation: Neighbouring
) -> None:
    """Its noise multiplier is over what one unit contributes, under either relation."""
    event = SelfComposedEvent(
        TruncatedPoissonSampledEvent(10_000, 0.01, largest, GaussianEvent(1.0, relation)), 1_000
    )
    plain = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(1.0, relation)), 1_000)
    known = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        10_000, 0.01, largest, SENSITIVITY[relation]
    )
    accountant = pld_privacy_accountant.PLDAccountant(THEIRS[relation], 1e-3)
    ours = spent(event, 1e-6).epsilon
    assert spent(plain, 1e-6).epsilon < ours <= 1.001 * theirs(accountant, known, 1_000, 1e-6)


def test_poisson_sampling_under_replacement_composes_as_dp_accounting_says() -> None:
    """On a far finer grid; its standard deviation is over what one unit contributes."""
    rate = 256 / 60_000
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(0.42, REPLACE)), 2_000)
    gaussian = dp_accounting.GaussianDpEvent(0.84)
    accountant = pld_privacy_accountant.PLDAccountant(THEIRS[REPLACE], 1e-4)
    known = dp_accounting.PoissonSampledDpEvent(rate, gaussian)
    assert spent(event, 1e-5).epsilon == pytest.approx(
        theirs(accountant, known, 2_000, 1e-5), rel=3e-3
    )


@pytest.mark.parametrize(
    ("kind", "relation"),
    [("poisson", REPLACE), ("truncated", ADD), ("truncated", REPLACE), ("fixed size", REPLACE)],
)
def test_the_meter_is_close_to_the_accountant_and_never_below(
    kind: str, relation: Neighbouring
) -> None:
    step = KINDS[kind](0.005, GaussianEvent(0.5, relation))
    meter = Meter(SelfComposedEvent(step, 1_000), 1e-5)
    for count in (1, 300, 1_000):
        part = SelfComposedEvent(step, count)
        assert 1 <= meter.epsilon(part) / spent(part, 1e-5).epsilon < 1.02


@pytest.mark.parametrize(("size", "noise"), [(100, 1.0), (1_000, 4.0), (9_000, 20.0)])
def test_the_renyi_bound_of_fixed_sizes_is_below_the_known_one(size: int, noise: float) -> None:
    """Wang, Balle & Kasiviswanathan, 2019, theorem 27, as dp-accounting computes it."""
    event = SampledWithoutReplacementEvent(10_000, size, GaussianEvent(noise, REPLACE))
    known = dp_accounting.SampledWithoutReplacementDpEvent(
        10_000, size, dp_accounting.GaussianDpEvent(noise)
    )
    orders = list(range(2, 64))
    accountant = dp_accounting.rdp.RdpAccountant(orders, THEIRS[REPLACE])
    ours = spent(SelfComposedEvent(event, 500), 1e-6, "rdp").epsilon
    assert spent(SelfComposedEvent(event, 500), 1e-6).epsilon <= ours
    assert ours <= theirs(accountant, known, 500, 1e-6)


def test_a_batch_that_almost_never_overflows_costs_hardly_more() -> None:
    """5 standard deviations above the mean."""
    rate = 256 / 60_000
    for relation in Neighbouring:
        noise = GaussianEvent(1.0, relation)
        plain = spent(SelfComposedEvent(PoissonSampledEvent(rate, noise), 2_000), 1e-5).epsilon
        event = TruncatedPoissonSampledEvent(60_000, rate, 336, noise)
        truncated = spent(SelfComposedEvent(event, 2_000), 1e-5).epsilon
        assert plain <= truncated < 1.01 * plain


# -- as any event --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "accountant"),
    [("poisson", "rdp"), ("poisson", "pld"), ("truncated", "pld"), ("fixed size", "pld")],
)
def test_replacement_grows_and_falls_as_it_should(kind: str, accountant: str) -> None:
    def cost(rate: float, noise: float, count: int, delta: float) -> float:
        event = SelfComposedEvent(KINDS[kind](rate, GaussianEvent(noise, REPLACE)), count)
        return spent(event, delta, accountant).epsilon

    by_count = [cost(0.01, 1.0, 10**power, 1e-6) for power in (0, 2, 4)]
    by_noise = [cost(0.01, noise, 100, 1e-6) for noise in (30.0, 1.0, 0.02)]
    by_delta = [cost(0.01, 1.0, 100, 10.0**-power) for power in (1, 6, 12)]
    by_rate = [cost(rate, 1.0, 100, 1e-6) for rate in (0.001, 0.03, 1.0)]
    for costs in (by_count, by_noise, by_delta, by_rate):
        assert all(0 <= each < math.inf for each in costs)
        assert costs == sorted(costs)
    assert cost(0.01, 0.0, 1, 1e-6) == math.inf


def test_the_noise_that_the_documentation_gives_for_each_sampling_is_what_epsilon_3_needs() -> None:
    """`docs/sampling.md`: over the clip norm, to two or three digits."""
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
    rows = re.findall(r'^\| `"(.+?)"` \|.*\| ([\d., ]+) \|$', page, re.MULTILINE)
    assert [name for name, _ in rows] == list(SAMPLINGS)
    for name, printed in rows:
        largest = 336 if name == "truncated-poisson" else None
        sampling = make_sampling(name, 60_000, 256, largest)
        for relation, noise in zip(sampling.relations, printed.split(", "), strict=True):
            over_norm = float(noise) / SENSITIVITY[relation]
            event = sampling.part(GaussianEvent(over_norm, relation), 0, 15 * 234)
            assert spent(event, 1e-5).epsilon == pytest.approx(3.0, rel=0.02)
