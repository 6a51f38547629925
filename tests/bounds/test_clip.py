"""Flat clipping: its own facts, beside the contract of every bound."""

from __future__ import annotations

import math

import pytest
import torch

from deniable.bounds import Clip
from deniable.gradients.contributions import Dense
from deniable.gradients.per_unit import PerUnitGradients


@pytest.mark.parametrize("norm", [0, -1.0, math.nan, math.inf, "1"])
def test_a_norm_that_is_not_positive_and_finite_is_refused(norm: object) -> None:
    with pytest.raises(ValueError, match="positive, finite norm"):
        Clip(norm)  # type: ignore[arg-type]


def test_short_gradients_pass_unchanged_and_long_ones_keep_their_direction() -> None:
    table = torch.tensor([[0.3, 0.4], [30.0, 40.0]])
    gradients = PerUnitGradients(2, {"w": torch.zeros(2)}, {"w": Dense(table)})
    bounded, observed = Clip(1.0)(gradients)
    torch.testing.assert_close(bounded.sums["w"], torch.tensor([0.9, 1.2]))
    assert observed.summary() == {
        "units": 2,
        "not_finite": 0,
        "clip_fraction": 0.5,
        "mean_norm": pytest.approx(25.25),
    }
