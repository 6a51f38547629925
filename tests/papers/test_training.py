from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from deniable.accounting import spent
from deniable.events import ComposedEvent, GaussianEvent
from deniable.ledger import Ledger
from deniable.papers import Named, Training
from deniable.papers.training import train
from deniable.plan import Plan

POINT = Training(
    "digits", Named("mlp", hidden=16), 100, epochs=2, lr=0.5, noise_multiplier=1.0
)  # fmt: skip
PRIVATE_PCA = Named("pca", components=10, noise_multiplier=4.0)


def trained(point: Training, folder: Path) -> dict[str, Any]:
    found = train(point, folder, lambda _share, _said: None)
    assert found is not None
    found.pop("seconds")
    return found


def test_the_epsilon_of_a_point_is_that_of_its_components_and_its_steps(tmp_path: Path) -> None:
    found = trained(POINT.but(features=PRIVATE_PCA), tmp_path)
    plan = Plan(1437, 100, steps=found["steps"], noise_multiplier=1.0, delta=1e-5)
    both = spent(ComposedEvent((GaussianEvent(4.0), plan.event)), 1e-5)
    assert found["epsilon"] == pytest.approx(both.epsilon)
    assert found["epsilon"] > spent(plan.event, 1e-5).epsilon
    assert found["history"][-1]["epsilon"] == pytest.approx(found["epsilon"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert spent(ledger.event(), 1e-5).epsilon == pytest.approx(found["epsilon"])


def test_a_point_with_an_epsilon_ends_within_it_components_included(tmp_path: Path) -> None:
    solved = POINT.but(features=PRIVATE_PCA, noise_multiplier=None, epsilon=2.0)
    assert 1.9 < trained(solved, tmp_path / "solved")["epsilon"] <= 2.0
    stopped = POINT.but(epsilon=2.0, epochs=50)
    found = trained(stopped, tmp_path / "stopped")
    assert found["epsilon"] <= 2.0
    assert found["steps"] < 50 * 14


def test_components_and_steps_draw_different_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deniable import pca, session

    keys: list[bytes] = []
    for module in (pca, session):
        original = module.noise_generator

        def noted(key: bytes, *rest: Any, original: Any = original) -> Any:
            keys.append(key)
            return original(key, *rest)

        monkeypatch.setattr(module, "noise_generator", noted)
    trained(POINT.but(features=PRIVATE_PCA), tmp_path)
    assert len(keys) == len(set(keys)) == 2


def test_a_point_that_was_interrupted_goes_on_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = POINT.but(features=PRIVATE_PCA, lr=((0.0, 0.5), (2.0, 0.1)))
    whole = trained(point, tmp_path / "whole")

    def interrupt(share: float, _: str) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    monkeypatch.setattr("deniable.papers.training.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("deniable.papers.training.SECONDS_BETWEEN_WORDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(point, tmp_path / "broken", interrupt)
    assert trained(point, tmp_path / "broken") == whole


def test_the_filter_states_the_guarantee_and_beside_it_the_paper_s_number(tmp_path: Path) -> None:
    tanh = Named("Tanh", output_range=1.0, active_range=1.0)
    point = POINT.but(noise_multiplier=None, noise_deviation=1.0, bound=tanh)
    found = trained(point, tmp_path / "tanh")
    assert found["noise_multiplier"] == pytest.approx(1 / math.sqrt(found["parameters"]))
    assert found["epsilon"] > 1000
    clipped = trained(POINT, tmp_path / "clip")
    assert found["nominal_epsilon"] == pytest.approx(clipped["epsilon"])
    assert "nominal_epsilon" not in clipped


def test_a_tanh_before_a_clip_costs_what_the_clip_costs(tmp_path: Path) -> None:
    chain = Named(
        "Chain",
        bounds=(("Tanh", {"output_range": 0.1, "active_range": 0.1}), ("Clip", {"norm": 1.0})),
    )
    found = trained(POINT.but(bound=chain), tmp_path / "chain")
    assert found["epsilon"] == trained(POINT, tmp_path / "clip")["epsilon"]
    assert "nominal_epsilon" not in found


def test_a_baseline_without_noise_is_not_private(tmp_path: Path) -> None:
    exact = Named("pca", components=10, noise_multiplier=0.0)
    found = trained(POINT.but(noise_multiplier=0.0, features=exact), tmp_path)
    assert found["epsilon"] is None
    assert all(row["epsilon"] is None for row in found["history"])


def test_held_out_rows_are_measured_on_and_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deniable.data import load
    from deniable.papers import training

    seen: dict[str, torch.Tensor] = {}
    original = training._run

    def noted(point: Training, *rest: Any) -> Any:
        run = original(point, *rest)
        seen["train"], seen["test"] = run.train[0], run.test[0]
        return run

    monkeypatch.setattr(training, "_run", noted)
    trained(POINT.but(held_out=437, epochs=1), tmp_path)
    rows = torch.from_numpy(load("digits").train.inputs)
    assert torch.equal(seen["train"], rows[:1000])
    assert torch.equal(seen["test"], rows[1000:])
