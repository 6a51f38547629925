"""Whatever the number of workers, what is released is what one process would release."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import nn

from benchmarks.processes import together
from collaborate.scripts import EXAMPLES, examples, flat, only_noise, small_model, trained
from deniable.collaborate import Central, Local, Mode, Shares
from deniable.plan import Plan, Schedule
from oracles.gradients import clipped_means, gradients_of_rows

STEPS = 6
RATE = 0.2


def plan(noise: float, steps: int = STEPS, examples: int = EXAMPLES) -> Plan:
    return Plan(
        examples, round(RATE * examples), steps=steps, noise_multiplier=noise, delta=1e-3
    )  # fmt: skip


def one_process(parameters: list[float], who: list[int], norm: float) -> torch.Tensor:
    """The release of one process on those units, in float64, one example at a time."""
    model = small_model()
    nn.utils.vector_to_parameters(torch.tensor(parameters), model.parameters())
    batch = [each[who] for each in examples()[:2]]

    def loss(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(net(inputs), labels)

    if not who:
        return torch.zeros(len(parameters), dtype=torch.float64)
    rows = gradients_of_rows(model, batch, loss)
    sums = clipped_means(rows, [[index] for index in range(len(who))], norm)
    return torch.cat([each.reshape(-1) for each in sums.values()])


@pytest.mark.parametrize(
    "sizes", [[60], [30, 30], [47, 13], [60, 0], [20, 20, 20], [41, 19, 0], [58, 1, 1]]
)
def test_without_noise_the_release_is_that_of_one_process_on_the_drawn_units(
    sizes: list[int],
) -> None:
    found = together(len(sizes), trained, plan(0.0).to_json(), Central().to_json(),
                     {"sizes": sizes, "seed": 5})  # fmt: skip
    workers = [found[rank] for rank in range(1, len(sizes) + 1)]
    met = workers[0]["met"]
    assert len(met) == STEPS and all(each["met"] == met for each in workers)
    assert met[0] == flat(small_model()).tolist()
    after = [*met[1:], found[0]["last"]]
    for step in range(STEPS):
        who = [unit for each in workers for unit in each["drawn"][step]]
        assert len(set(who)) == len(who)
        moved = (torch.tensor(met[step]) - torch.tensor(after[step])).double()
        expected = one_process(met[step], who, 0.5) / plan(0.0).batch_size
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-6)


def test_parts_are_disjoint_and_only_own_units_are_drawn() -> None:
    found = together(3, trained, plan(1.0, steps=12).to_json(), Central().to_json(),
                     {"sizes": [30, 20, 10]})  # fmt: skip
    drawn = [{unit for batch in found[rank]["drawn"] for unit in batch} for rank in (1, 2, 3)]
    assert not (drawn[0] & drawn[1] or drawn[0] & drawn[2] or drawn[1] & drawn[2])
    assert found[1]["drawn"] != found[2]["drawn"]


def test_the_central_ledger_states_the_event_of_one_process_with_the_whole_batch() -> None:
    whole = plan(1.0)
    found = together(2, trained, whole.to_json(), Central().to_json(), {})[0]
    assert found["event"] == repr(whole.event)
    assert found["epsilon"] == pytest.approx(whole.epsilon)
    assert found["claims"] == [None, None]


def test_workers_follow_a_schedule_of_batch_sizes_and_noise() -> None:
    """A batch of the second half is everybody; each step is divided by its own batch size."""
    rising, falling = Schedule(((3, 0.5), (3, 1.0))), Schedule(((4, 1.0), (2, 0.5)))
    given: dict[str, Any] = {"steps": STEPS, "delta": 1e-3, "batch_schedule": rising}
    whole = Plan(EXAMPLES, EXAMPLES, noise_multiplier=1.0, noise_schedule=falling, **given)
    found = together(2, trained, whole.to_json(), Central().to_json(), {"sizes": [40, 20]})
    assert found[0]["epsilon"] == pytest.approx(whole.epsilon)

    quiet = Plan(EXAMPLES, EXAMPLES, noise_multiplier=0.0, **given)
    found = together(2, trained, quiet.to_json(), Central().to_json(), {"sizes": [40, 20]})
    met = [*found[1]["met"], found[0]["last"]]
    for step in range(STEPS):
        who = found[1]["drawn"][step] + found[2]["drawn"][step]
        assert (len(who) == EXAMPLES) == (step >= 3)
        moved = (torch.tensor(met[step]) - torch.tensor(met[step + 1])).double()
        expected = one_process(met[step], who, 0.5) / quiet.at(step).batch_size
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-6)


def test_every_local_worker_has_a_claim_of_its_own_and_the_largest_holds_for_all() -> None:
    """Eq. 9 of Xia et al.: parts are disjoint, so they compose in parallel."""
    whole = plan(1.0)
    found = together(2, trained, whole.to_json(), Local().to_json(), {"sizes": [40, 20]})[0]
    epsilons = [each["epsilon"] for each in found["claims"]]
    assert found["claim"]["epsilon"] == pytest.approx(max(epsilons))
    said = " ".join(found["claims"][1]["assumptions"])
    assert "that of worker 1, of 20 units" in said
    assert "disjoint" in " ".join(found["claim"]["assumptions"])


def test_data_of_which_each_worker_holds_its_part_alone_are_drawn_alike() -> None:
    """By position in the part, in place of the position in the whole."""
    from deniable.collaborate.parts import Part, members
    from deniable.grouping import Example

    mine = members([20, 40], 1)
    drawn = torch.arange(0, EXAMPLES, 3).numpy()
    whole, own = Part(Example(), mine, EXAMPLES), Part(Example(), mine, EXAMPLES)
    assert whole.population(EXAMPLES) == own.population(40) == EXAMPLES
    rows = whole.rows(drawn, None, 12)[0]  # type: ignore[arg-type]
    assert (mine[own.rows(drawn, None, 12)[0]] == rows).all()  # type: ignore[arg-type]


SIZE, ROUNDS = 4000, 5


@pytest.mark.parametrize(
    ("mode", "workers", "variance"),
    [
        (Central(), 1, 1.0),
        (Central(), 2, 1.0),
        (Central(), 3, 1.0),
        (Shares(), 3, 1.0),
        (Shares(survives=1), 3, 3 / 2),
        (Shares(survives=2), 3, 3.0),
        (Local(), 1, 1.0),
        (Local(), 3, 3.0),
    ],
)
def test_the_noise_of_a_release_has_the_variance_that_the_mode_says(
    mode: Mode, workers: int, variance: float
) -> None:
    """Chi-square at a false-failure rate of 1e-6 a case; sigma^2 C^2 = 2.25.

    One that is off by one worker's share, as of workers that draw the same noise, must be rejected.
    Pitfall: privacy 8.
    """
    quiet = Plan(SIZE, 1, steps=ROUNDS, noise_multiplier=1.5, delta=1e-5)
    steps = together(workers, only_noise, quiet.to_json(), mode.to_json(), SIZE)[0]
    values = torch.tensor(steps, dtype=torch.float64)
    assert values.shape == (ROUNDS, SIZE)
    assert fits(values, 2.25 * variance)
    assert not fits(values, 2.25 * (variance + 1 / 3))
    # Rounds, and coordinates, are drawn afresh.
    correlation = torch.corrcoef(values)
    assert float((correlation - torch.eye(ROUNDS)).abs().max()) < 6 / math.sqrt(SIZE)


def fits(values: torch.Tensor, variance: float) -> bool:
    total, degrees = float((values**2).sum()) / variance, values.numel()
    low, high = chi2.ppf([5e-7, 1 - 5e-7], degrees)
    return bool(low < total < high)


def test_selective_upload_sends_a_tenth_of_the_coordinates_in_less_than_an_eighth_of_the_bytes(
) -> None:  # fmt: skip
    quiet = Plan(26_000, 1, steps=3, noise_multiplier=1.0, delta=1e-6)
    kept: dict[str, Any] = {}
    for mode in (Local(), Local(upload=0.1), Local(upload=0.1, carry=True)):
        steps = together(1, only_noise, quiet.to_json(), mode.to_json(), 26_000)[0]
        kept[repr(mode)] = [sum(each != 0 for each in step) for step in steps]
    whole, selective, carried = kept.values()
    assert whole == [26_000] * 3
    assert selective == carried == [2_600] * 3
