"""Points that workers train: real processes, and thresholds from public data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deniable.papers.collaboration import train
from deniable.papers.points import Together
from deniable.papers.pretraining import clip_from_pretraining

POINT = Together(
    "digits", 32, 0, 96, steps=24, workers=2, noise_multiplier=1.0, norm=1.0, lr=(1.0, 0.5)
)


def test_workers_train_a_point_and_say_what_they_sent() -> None:
    told: list[float] = []
    whole = train(POINT, lambda share, _: told.append(share))
    assert whole is not None
    assert whole["steps"] == 24 and whole["accuracy"] > 0.3
    assert whole["round_seconds"] > 0 and all(0 <= each <= 1 for each in told)
    parameters = 64 * 32 + 32 + 32 * 10 + 10
    assert whole["bytes_up"] == pytest.approx(2 * 4 * parameters, rel=0.05)
    tenth = train(POINT.but(mode="local", upload=0.1), lambda *_: None)
    assert tenth is not None
    assert tenth["bytes_up"] < 0.2 * whole["bytes_up"]
    assert tenth["epsilon"] == pytest.approx(whole["epsilon"])


def test_a_threshold_from_public_data_is_a_median_norm_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = [each.clone() for each in model.parameters()]
    public = torch.randn(60, 4), torch.randint(3, (60,))
    clip = clip_from_pretraining(model, public, 10, 0.1, seed=1)
    assert clip.norm == clip_from_pretraining(model, public, 10, 0.1, seed=1).norm
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    larger = clip_from_pretraining(model, (10 * public[0], public[1]), 10, 0.0, seed=1)
    assert larger.norm > clip.norm > 0
