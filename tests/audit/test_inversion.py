from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deniable.audit.inversion import Inversion, class_means, correlation, ranks, smoothed

SHAPE = (1, 6, 6)


def pictures(count: int, seed: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 48), nn.ReLU(), nn.Dropout(0.5), nn.Linear(48, classes)
        )


@pytest.fixture
def learned() -> tuple[nn.Module, Tensor]:
    """A network that knows three pictures by heart, a class each, among blank ones."""
    singles = (pictures(3, seed=5) > 0.5).float()
    inputs = torch.cat([pictures(120, seed=6) * 0.1, singles.repeat(10, 1, 1, 1)])
    targets = torch.cat([torch.full((120,), 3), torch.arange(3).repeat(10)])
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model, singles


def test_a_picture_that_is_a_class_is_recovered_and_told_from_its_like(
    learned: tuple[nn.Module, Tensor],
) -> None:
    model, singles = learned
    found = Inversion(process=None)(model, SHAPE, range(3))
    assert correlation(found, singles).min() > 0.5
    alike = (pictures(3 * 50, seed=7) > 0.5).float().view(3, 50, *SHAPE)
    assert ranks(found, singles, alike) == [1, 1, 1]


def test_a_model_that_never_saw_the_pictures_places_them_anywhere() -> None:
    """Places among 51 by chance: the mean of 60 lies outside 16 to 36 with chance below 1e-6."""
    places = []
    for seed in range(20):
        found = Inversion(process=None, steps=60)(network(seed), SHAPE, range(3))
        drawn = (pictures(3 * 51, seed=100 + seed) > 0.5).float().view(3, 51, *SHAPE)
        places += ranks(found, drawn[:, 0], drawn[:, 1:])
    assert 16 < np.mean(places) < 36


def test_the_attack_lowers_its_cost_and_leaves_the_model_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Inversion()(model, SHAPE, range(4))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    blank = model(torch.zeros(4, *SHAPE)).softmax(1).diagonal()
    assert (model(found).softmax(1).diagonal() > blank).all()
    assert found.min() >= 0 and found.max() <= 1


def test_classes_are_recovered_each_by_itself() -> None:
    model, attack = network(), Inversion(steps=40)
    together = attack(model, SHAPE, [0, 2])
    alone = torch.cat([attack(model, SHAPE, [each]) for each in (0, 2)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_what_does_not_fall_any_more_ends_the_descent() -> None:
    calls = []

    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return images.flatten(1)[:, :2] * 0.0

    found = Inversion(steps=500, patience=7, process=None)(Flat(), SHAPE, [0])
    assert len(calls) == 9
    assert torch.equal(found, torch.zeros(1, *SHAPE))


def test_smoothing_keeps_brightness_and_takes_out_what_is_rough() -> None:
    rough = pictures(2, seed=1)
    smooth = smoothed(rough)
    assert smooth.shape == rough.shape
    assert smooth.std() < rough.std()
    assert torch.allclose(smoothed(torch.full((1, 3, 5, 5), 0.3)), torch.full((1, 3, 5, 5), 0.3))


def test_correlation_is_that_of_numpy_and_blind_to_contrast() -> None:
    first, second = pictures(4, seed=2), pictures(4, seed=3)
    found = correlation(first, second)
    for ours, one, other in zip(found, first.numpy(), second.numpy(), strict=True):
        assert ours == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1], abs=1e-6)
    assert correlation(first, 0.3 * first + 0.1) == pytest.approx(np.ones(4))
    assert correlation(first, torch.ones(1, *SHAPE)) == pytest.approx(np.zeros(4))


def test_class_means_are_means_of_their_examples() -> None:
    inputs, targets = pictures(9, seed=4), torch.arange(9) % 2
    means = class_means(inputs, targets, [1, 0])
    assert torch.allclose(means[0], inputs[targets == 1].mean(0))
    assert torch.allclose(means[1], inputs[targets == 0].mean(0))
