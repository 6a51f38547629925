from __future__ import annotations

import torch

from deniable.papers import Named, Recurrent
from deniable.papers.exploding import adding, train


def silent(_share: float, _said: str) -> None:
    pass


def test_two_marks_a_sequence_one_in_each_half_and_their_sum() -> None:
    inputs, sums = adding(100, 11, torch.Generator().manual_seed(0))
    values, marks = inputs.unbind(-1)
    assert torch.equal(marks[:, :5].sum(1), torch.ones(100))
    assert torch.equal(marks[:, 5:].sum(1), torch.ones(100))
    assert torch.allclose((values * marks).sum(1), sums)


def test_training_repeats_and_leaves_torch_s_generator_alone() -> None:
    point = Recurrent(Named("norm", norm=1.0), 0.05, 20, 8)
    before = torch.get_rng_state()
    first = train(point, silent)
    assert torch.equal(torch.get_rng_state(), before)
    assert train(point, silent)["history"] == first["history"]


def test_an_error_that_is_not_finite_ends_the_training_and_is_none() -> None:
    found = train(Recurrent(Named("none"), 1e6, 200, 8), silent)
    assert found["diverged"]
    assert found["error"] is None
    assert len(found["history"]) < 50


def test_the_filter_keeps_the_same_training_finite() -> None:
    cure = Named("tanh", output_range=1e-8, active_range=0.3)
    assert not train(Recurrent(cure, 1e6, 200, 8), silent)["diverged"]
