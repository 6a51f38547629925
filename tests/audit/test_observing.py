from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from deniable.audit.observing import confidences, losses, of_losses
from oracles.attacks import logit


def test_confidences_are_the_logits_of_the_probabilities() -> None:
    scores = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 7
    found = confidences(nn.Identity(), scores, targets, rows=8)
    for row, label, ours in zip(scores.double().tolist(), targets.tolist(), found, strict=True):
        probability = math.exp(row[label]) / sum(math.exp(each) for each in row)
        assert ours == pytest.approx(logit(probability))


def test_a_probability_next_to_one_loses_no_digits() -> None:
    scores = torch.tensor([[60.0, 0.0, 0.0]])
    found = confidences(nn.Identity(), scores, torch.tensor([0]))
    assert found[0] == pytest.approx(60 - math.log(2))
    assert losses(found)[0] == pytest.approx(2 * math.exp(-60))


def test_losses_and_confidences_are_each_others_inverse() -> None:
    values = np.array([-30.0, -1.0, 0.0, 2.0, 20.0])
    assert of_losses(losses(values)) == pytest.approx(values, rel=1e-6)
    assert of_losses([0.0])[0] == math.inf


def test_of_a_sequence_the_mean_loss_counts() -> None:
    scores = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(1))
    targets = torch.randint(0, 5, (4, 9), generator=torch.Generator().manual_seed(2))
    expected = nn.functional.cross_entropy(
        scores.double().movedim(-1, 1), targets, reduction="none"
    ).mean(1)
    assert losses(confidences(nn.Identity(), scores, targets)) == pytest.approx(expected.numpy())


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_asked_without_dropout_and_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train(training)
    inputs, targets = torch.ones(6, 4), torch.zeros(6, dtype=torch.long)
    found = confidences(model, inputs, targets)
    assert len(set(found.tolist())) == 1
    assert model.training is training
