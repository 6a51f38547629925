"""The models of the threat model, their attacks, and verdicts that can fail."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deniable.papers import Results
from deniable.papers.attacked_models import PLAIN, PRIVATE, plain, private
from deniable.papers.attacks import attack, filled, trained
from deniable.papers.encoded import encode, image
from deniable.papers.inversion import INVERSION
from deniable.papers.points import Attacked, Named
from deniable.papers.rare import rare_examples
from deniable.papers.threat_model import MEMBERSHIP, THREAT_MODEL


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 3, 3, generator=generator), torch.arange(count) % 2


def of(result: dict[str, Any], name: str) -> Results:
    return Results(Path("some.json"), {name: {"settings": {}, "result": result, "made": {}}})


def test_a_plan_does_not_tell_how_many_coins_fell_on_members() -> None:
    """One row more or less leaves sampling rate, steps and noise what they are."""
    training = private("digits", 2, batch_size=8)
    plans = [trained(training, rows(count), classes=2, seed=1, size=40)[1] for count in (30, 31)]
    assert plans[0] == plans[1]
    with pytest.raises(ValueError, match="At most 40 rows"):
        trained(training, rows(41), classes=2, seed=1, size=40)


def test_rows_that_fill_the_place_have_no_gradient() -> None:
    inputs, targets, weights = filled(*rows(5), size=9)
    assert (len(inputs), len(targets), weights.sum()) == (9, 9, 5)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2))
    losses = torch.nn.functional.cross_entropy(model(inputs), targets, reduction="none") * weights
    for row in range(9):
        found = torch.autograd.grad(losses[row], list(model.parameters()), retain_graph=True)
        assert all(not each.any() for each in found) == (row >= 5)


def test_the_same_seed_trains_the_same_model() -> None:
    for training in (plain("digits", 2), private("digits", 2, batch_size=8)):
        first, second = (trained(training, rows(30), classes=2, seed=5)[0] for _ in range(2))
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_quick_attack_on_membership_is_drawn_and_judged(tmp_path: Path) -> None:
    point = MEMBERSHIP.quick[PRIVATE]
    assert isinstance(point, Attacked)
    short = Attacked(Named("membership", shadows=2), point.training.but(epochs=2.0))
    told: list[float] = []
    found = attack(short, lambda share, _: told.append(share))
    assert told == sorted(told) and told[-1] == 1.0
    assert found["members"] + found["non_members"] == 1437
    assert found["epsilon"] <= 2.0
    results = of(found, PRIVATE)
    assert MEMBERSHIP.verdicts(results)["holds"].agrees
    MEMBERSHIP.draw(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


MEASURED = {"auc": [0.5, 0.4, 0.6], "at": {"0.001": {"false": [0.001, 0.0005, 0.002]}}}


def measured(true: list[float]) -> dict[str, Any]:
    found = copy.deepcopy(MEASURED)
    found["at"]["0.001"]["true"] = true  # type: ignore[index]
    return {
        "attacks": {"lira": found},
        "allowed": {"0.001": 0.005},
        "allowed_curve": [[0.0005, 0.003], [0.0025, 0.01], [1.0, 1.0]],
        "accuracy": 0.9,
        "accuracy_on_members": 1.0,
        "epsilon": 2.0,
    }


def test_an_attack_that_passes_the_limit_is_reported() -> None:
    within, beyond = measured([0.006, 0.004, 0.009]), measured([0.02, 0.015, 0.03])
    assert MEMBERSHIP.verdicts(of(within, PRIVATE))["holds"].agrees
    verdict = MEMBERSHIP.verdicts(of(beyond, PRIVATE))["holds"]
    assert verdict.agrees is False
    assert "passed by LiRA, online at 0.1%" in verdict.ours


def test_what_blind_guessing_finds_is_no_leak() -> None:
    guessed, leaked = measured([0.001, 0.0005, 0.002]), measured([0.05, 0.04, 0.06])
    assert MEMBERSHIP.verdicts(of(guessed, PLAIN))["leaks"].agrees is False
    assert MEMBERSHIP.verdicts(of(leaked, PLAIN))["leaks"].agrees


def test_a_picture_that_is_recovered_with_privacy_is_reported() -> None:
    row = {
        "ranks": [1, 1, 1, 40, 50],
        "among": 100,
        "epsilon": 2.0,
        "accuracy": 0.9,
        "accuracy_on_singles": 0.0,
    }
    assert INVERSION.verdicts(of(row, PRIVATE))["protected"].agrees is False
    assert INVERSION.verdicts(of(row, PLAIN))["people"].agrees
    chance = row | {"ranks": [13, 40, 50, 77, 98]}
    assert INVERSION.verdicts(of(chance, PRIVATE))["protected"].agrees
    assert INVERSION.verdicts(of(chance, PLAIN))["people"].agrees is False


def test_examples_that_a_private_model_knows_by_heart_are_reported() -> None:
    experiment = rare_examples("rare", "mnist", "Rare", 2, "some")
    row = {
        "probability": {
            "plain": {"trained on them": 0.9, "not trained on them": 0.1},
            "private": {"trained on them": 0.05, "not trained on them": 0.04},
        },
        "rare": [0] * 24,
        "agreement": 0.95,
        "accuracy": {"plain": 0.98, "private": 0.94},
        "epsilon": 2.0,
    }
    assert experiment.verdicts(of(row, "mnist"))["memorised"].agrees
    row["probability"]["private"]["trained on them"] = 0.6  # type: ignore[index]
    assert experiment.verdicts(of(row, "mnist"))["memorised"].agrees is False


def test_pictures_survive_being_written_down() -> None:
    pictures = np.arange(24).reshape(2, 3, 2, 2) / 23
    found = image(encode(pictures)[1], (3, 2, 2))
    assert found.shape == (2, 2, 3)
    assert np.allclose(found.transpose(2, 0, 1), pictures[1], atol=0.5 / 255)


def test_every_experiment_says_that_an_attack_is_no_guarantee_or_stands_under_that() -> None:
    assert "no guarantee" in THREAT_MODEL.about
    assert {each.name for each in THREAT_MODEL.experiments} == {
        *("membership", "inversion", "rare-mnist", "rare-fashion")
    }
