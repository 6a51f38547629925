"""The best of many runs, beside dp-accounting, beside composition, and as it is drawn."""

from __future__ import annotations

import math
from collections import Counter

import dp_accounting
import numpy as np
import pytest
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from scipy import stats

from deniable.accounting import ACCOUNTANTS, Search, spent
from deniable.accounting.rdp import ORDERS
from deniable.accounting.search import FIXED, SHAPES, TRIALS
from deniable.accounting.tally import tally
from deniable.errors import AccountingError, UnknownEventError
from deniable.events import (
    ComposedEvent,
    GaussianEvent,
    PoissonSampledEvent,
    RepeatAndSelectEvent,
    SelfComposedEvent,
    ShuffledEvent,
)
from deniable.units import Neighbouring
from oracles.privacy_curves import epsilon_at
from oracles.selection import selected_delta

STEP = PoissonSampledEvent(0.01, GaussianEvent(1.0))
RUN = SelfComposedEvent(STEP, 500)
DELTA = 1e-5


def theirs(rate: float, noise: float, count: int, mean: float, shape: float | None) -> float:
    """By dp-accounting alone, at our orders; and at 1, where it knows that of a single run."""
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    run = dp_accounting.SelfComposedDpEvent(step, count)
    accountant = dp_accounting.rdp.RdpAccountant([*([1.0] if rate == 1 else []), *ORDERS])
    accountant.compose(RepeatAndSelectDpEvent(run, mean, math.inf if shape is None else shape))
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0, None])
@pytest.mark.parametrize("mean", [1.0, 1.5, 10.0, 1e4])
@pytest.mark.parametrize("run", [(1.0, 1.0, 1), (1.0, 30.0, 4), (0.01, 1.0, 500)], ids=str)
def test_it_costs_what_dp_accounting_says(
    run: tuple[float, float, int], mean: float, shape: float | None
) -> None:
    rate, noise, count = run
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), count)
    found = spent(RepeatAndSelectEvent(event, mean, shape), DELTA, "rdp").epsilon
    expected = theirs(*run, mean, shape)
    assert found <= expected * (1 + 1e-8)
    assert found == pytest.approx(expected, rel=0.3 if mean == 1 else 1e-6)


def test_geometric_numbers_cost_what_the_paper_says() -> None:
    """Corollary 4 there: 2 sqrt(rho log m) + 2 (1 + eta) sqrt(rho log(1/gamma)) - eta rho.

    That is at the order 1 + sqrt(log(m) / rho), and more at others; with gamma = 1/m where eta = 1.
    """
    from deniable.accounting.selection import selected

    mean, rho = 100.0, 0.1
    order = 1 + math.sqrt(math.log(mean) / rho)
    orders = np.sort([order, math.sqrt(math.log(mean) / rho), *ORDERS])
    found = selected(orders, orders * rho, mean, 1.0)[orders == order]
    root = math.sqrt(rho * math.log(mean))
    assert found == pytest.approx(2 * root + 4 * root - rho, rel=1e-6)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0, None])
@pytest.mark.parametrize(("noise", "mean"), [(1.0, 3.0), (3.0, 20.0), (0.5, 200.0)])
def test_it_is_never_below_the_exact_curve(noise: float, mean: float, shape: float | None) -> None:
    """Of the largest of many noisy numbers, which tells more than one of them does."""
    run = GaussianEvent(noise)
    exact = epsilon_at(lambda e: selected_delta(noise, mean, shape, e), DELTA, halvings=25)
    assert exact <= spent(RepeatAndSelectEvent(run, mean, shape), DELTA).epsilon
    alone = spent(run, DELTA).epsilon  # the negative control: what one run costs is no bound
    assert alone < exact


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("run", [GaussianEvent(0.3), GaussianEvent(40.0), RUN], ids=str)
def test_a_search_never_costs_less_than_one_run_and_more_the_more_there_are(
    run: GaussianEvent, trials: str, accountant: str
) -> None:
    alone = spent(run, DELTA, accountant).epsilon
    costs = [
        spent(Search(runs, trials).event(run), DELTA, accountant).epsilon
        for runs in (1, 2, 5, 30, 1000)
    ]
    assert alone <= costs[0]
    assert costs == sorted(costs)


def test_for_many_runs_each_random_number_is_cheaper_than_composition() -> None:
    fixed, *random = (spent(Search(50, each).event(RUN), DELTA).epsilon for each in TRIALS)
    assert max(random) < fixed
    assert min(random) < fixed / 3


def test_for_two_runs_composition_is_cheaper_than_a_geometric_number() -> None:
    fixed, geometric = (
        spent(Search(2, each).event(GaussianEvent(20.0)), DELTA).epsilon
        for each in (FIXED, "geometric")
    )
    assert fixed < geometric


def test_it_composes_with_everything_else() -> None:
    searched = Search(10, "geometric").event(RUN)
    alone, other = spent(searched, DELTA).epsilon, spent(RUN, DELTA).epsilon
    both = ComposedEvent((searched, RUN))
    assert max(alone, other) < spent(both, DELTA).epsilon < alone + other + 1
    twice = SelfComposedEvent(searched, 2)
    assert spent(twice, DELTA, "rdp") == spent(ComposedEvent((searched, searched)), DELTA, "rdp")


def test_without_noise_anywhere_it_costs_everything() -> None:
    bare = ComposedEvent((RUN, GaussianEvent(0.0)))
    for name in ("rdp", "pld"):
        assert spent(Search(3, "geometric").event(bare), DELTA, name).epsilon == math.inf


def test_runs_that_touch_no_data_cost_nothing() -> None:
    nothing = SelfComposedEvent(PoissonSampledEvent(0.0, GaussianEvent(1.0)), 5)
    assert tally(Search(10, "poisson").event(nothing)) == Counter()


def test_where_anything_is_stated_under_replacement_the_search_is_too() -> None:
    """Its sums then move twice as far. Pitfall: privacy 14."""
    replaced = GaussianEvent(40.0, Neighbouring.REPLACE)
    both = ComposedEvent((replaced, Search(4, "geometric").event(GaussianEvent(6.0))))
    halved = Search(4, "geometric").event(GaussianEvent(3.0))
    together = ComposedEvent((GaussianEvent(40.0), halved))
    assert spent(both, DELTA).epsilon == pytest.approx(spent(together, DELTA).epsilon)
    assert spent(both, DELTA).neighbouring is Neighbouring.REPLACE


def test_an_epoch_of_shuffled_batches_counts_once_within_a_run() -> None:
    def run(batches: int) -> SelfComposedEvent:
        return SelfComposedEvent(ShuffledEvent("a1", 1, GaussianEvent(5.0)), batches)

    search = Search(4, "poisson")
    assert spent(search.event(run(9)), DELTA) == spent(search.event(run(1)), DELTA)


@pytest.mark.parametrize("name", [name for name in ACCOUNTANTS if name not in ("rdp", "pld")])
def test_an_accountant_that_does_not_know_it_refuses_it(name: str) -> None:
    hidden = ComposedEvent((RUN, SelfComposedEvent(Search(3, "poisson").event(RUN), 2)))
    with pytest.raises(UnknownEventError, match="RepeatAndSelectEvent"):
        spent(hidden, DELTA, name)


@pytest.mark.parametrize(
    ("runs", "trials"),
    [(0, FIXED), (2.5, FIXED), (0.9, "poisson"), (math.inf, "geometric"), (math.nan, "poisson")],
)
def test_a_number_of_runs_that_cannot_be_is_refused(runs: float, trials: str) -> None:
    with pytest.raises(AccountingError, match="got runs="):
        Search(runs, trials)


def test_trials_that_are_not_known_are_refused() -> None:
    with pytest.raises(AccountingError, match="trials must be one of fixed, logarithmic"):
        Search(3, "binomial")


# -- the number that is drawn ----------------------------------------------------------------------

DRAWS, FALSE_FAILURES = 20_000, 1e-6  # the seed is fixed: a failure is a change, not chance


def probabilities(mean: float, shape: float | None) -> np.ndarray:
    """Of the numbers 0, 1, 2, ...: definition 1 of the paper, with gamma found by halving."""
    if shape is None:
        return stats.poisson.pmf(np.arange(2_000), mean)
    low, high = 1e-9, 1.0
    for _ in range(200):
        gamma = (low + high) / 2
        average = (
            (1 / gamma - 1) / math.log(1 / gamma)
            if shape == 0
            else shape * (1 / gamma - 1) / (1 - gamma**shape)
        )
        low, high = (gamma, high) if average > mean else (low, gamma)
    masses = [0.0, 1.0]
    for number in range(1, 2_000):
        masses.append(masses[-1] * (1 - gamma) * (number + shape) / (number + 1))
    return np.array(masses) / sum(masses)


def fits(drawn: list[int], expected: np.ndarray) -> bool:
    """Pearson's test, in bins of at least ten expected draws."""
    edges, mass = [], 0.0
    for number, probability in enumerate(expected):
        mass += probability
        if mass * DRAWS >= 10:
            edges.append(number)
            mass = 0.0
    edges[-1] = len(expected)
    bins = np.searchsorted(edges, np.arange(len(expected)))
    masses = np.bincount(bins, expected, minlength=len(edges))
    counts = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges))
    return bool(stats.chisquare(counts, masses / masses.sum() * DRAWS).pvalue > FALSE_FAILURES)


@pytest.mark.parametrize("mean", [1.2, 10.0])
@pytest.mark.parametrize("trials", list(SHAPES))
def test_the_number_of_runs_is_drawn_as_it_is_accounted(trials: str, mean: float) -> None:
    """False failures: one in a million for each, were the seed not fixed."""
    generator = np.random.default_rng(3)
    drawn = [Search(mean, trials).draw(generator) for _ in range(DRAWS)]
    assert fits(drawn, probabilities(mean, SHAPES[trials]))
    if trials != "poisson":
        assert min(drawn) == 1


def test_numbers_that_are_drawn_otherwise_are_caught() -> None:
    """The negative control: a tenth too many runs, and another distribution of the same mean."""
    generator = np.random.default_rng(3)
    more = [Search(11, "geometric").draw(generator) for _ in range(DRAWS)]
    assert not fits(more, probabilities(10.0, 1.0))
    other = [Search(10, "logarithmic").draw(generator) for _ in range(DRAWS)]
    assert not fits(other, probabilities(10.0, 1.0))


def test_a_fixed_number_and_an_average_of_one_leave_nothing_to_chance() -> None:
    assert {Search(7).draw() for _ in range(20)} == {7}
    assert {Search(1, "geometric").draw() for _ in range(20)} == {1}
    assert len({Search(1000, "geometric").draw() for _ in range(20)}) > 1
