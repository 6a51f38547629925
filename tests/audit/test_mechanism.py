"""The released step is bracketed by its audit, and planted bugs are outside of the bracket."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.planted import BUGS
from deniable.audit.mechanism import (
    Mechanism,
    findings_of_step,
    noise_again,
    one_step,
    sensitivity_of,
    step_of,
)
from deniable.audit.tradeoff import gaussian_epsilon
from deniable.bounds import AdaptiveClip, Clip, PerLayerClip, Tanh
from deniable.training.loop import loss_of_each
from deniable.units import Neighbouring

DELTA = 1e-5
TESTS = 50  # the error of each finding is 0.01 / 50: one of those below is wrong in 1 of 500


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))


def rows() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 6), torch.randint(3, (8,))


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return loss_of_each(model(batch[0]), batch[1])


def refuted(mechanism: Mechanism) -> list[str]:
    """The names of all findings on a mechanism that do not hold."""
    found = [
        *step_of(mechanism, DELTA, TESTS),
        noise_again(mechanism, DELTA, TESTS),
        sensitivity_of(mechanism, loss, rows(), DELTA),
    ]
    return [each.name for each in found if not each.holds]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_one_step_is_measured_within_a_fifth_and_not_above_the_truth(sigma: float) -> None:
    """At a confidence of 0.9999: above in 1 of 10,000. Below 80% in fewer."""
    truth = gaussian_epsilon(1 / sigma, DELTA)
    found = one_step(sigma, delta=DELTA, confidence=0.9999, draws=200_000)
    assert 0.8 * truth <= found.epsilon <= truth


def test_one_step_with_half_its_noise_is_measured_above_what_is_claimed() -> None:
    """The negative control."""
    with BUGS["noise scaled by half"](0):
        assert one_step(1.0, draws=4000).epsilon > gaussian_epsilon(1.0, DELTA)


MECHANISMS = {
    "as usual": Mechanism(small, 1.0),
    "much noise": Mechanism(small, 15.0),
    "little noise": Mechanism(small, 0.4),
    "replace": Mechanism(small, 1.0, neighbouring=Neighbouring.REPLACE),
    "secure": Mechanism(small, 1.0, secure=True),
    "per layer": Mechanism(small, 1.0, partial(PerLayerClip, 1.0)),
    "adaptive": Mechanism(small, 1.0, partial(AdaptiveClip, 1.0)),
    "tanh": Mechanism(small, 1.0, Tanh),
    "one parameter": Mechanism(lambda: nn.Linear(6, 3, bias=False), 1.0),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_correct_code_is_not_refuted(name: str) -> None:
    assert refuted(MECHANISMS[name]) == []


@pytest.mark.parametrize("run", range(4))
@pytest.mark.parametrize(
    ("bug", "finding"),
    [
        ("noise scaled by half", "one step"),
        ("clipping after averaging", "sensitivity"),
        ("a layer without noise", "one step, "),
        ("an unclipped bias", "one step, 0.bias"),
        ("noise again after resuming", "noise used twice"),
    ],
)
def test_a_planted_bug_is_refuted(bug: str, finding: str, run: int) -> None:
    """In each parameter in turn, where it is of one."""
    with BUGS[bug](run):
        found = refuted(MECHANISMS["as usual"])
    assert any(each.startswith(finding) for each in found)


def test_a_row_that_goes_past_the_rules_moves_the_sum_too_far() -> None:
    """Norms that leave a parameter out: the bound cuts too little."""
    bound = Clip(1.0)
    bound.sensitivity = lambda _: Clip(0.5).sensitivity({})  # type: ignore[method-assign]
    found = sensitivity_of(Mechanism(small, 1.0, lambda: bound), loss, rows(), DELTA)
    assert not found.holds
    assert found.bound is not None
    assert found.bound.epsilon > found.claim > 0  # type: ignore[operator]


def test_findings_are_counted_before_they_are_made() -> None:
    assert findings_of_step(small()) == 5
    assert len(step_of(MECHANISMS["as usual"], DELTA, TESTS)) == 5
    assert findings_of_step(nn.Linear(6, 3, bias=False)) == 1
