"""Models and optimizers by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn

from deniable.errors import SettingsError
from deniable.models import MODELS, OPTIMIZERS, LowFrequencies, build, optimizer_for
from deniable.randomness import Streams
from deniable.settings import DEFAULTS

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "ptb": (80,),
}


def weights(name: str, seed: int | None) -> torch.Tensor:
    model = build(name, SHAPES["mnist"], 10, Streams(seed))
    return torch.cat([each.detach().flatten() for each in model.parameters()])


@pytest.mark.parametrize(
    ("name", "data", "count"),
    [
        ("digits-mlp", "digits", 64 * 256 + 256 + 256 * 10 + 10),
        ("mnist-cnn", "mnist", 26_010),  # as TensorFlow Privacy's tutorial
        ("abadi-mlp", "mnist", 60 * 1000 + 1000 + 1000 * 10 + 10),
        ("cifar-cnn", "cifar10", 550_570),
        # As TensorFlow Privacy's tutorial, with the second bias that torch gives an LSTM.
        ("char-lstm", "ptb", 4 * 256 * (10 + 256 + 2) + 256 * 10 + 10),
    ],
)
def test_the_models_have_the_sizes_of_their_sources(name: str, data: str, count: int) -> None:
    model = build(name, SHAPES[data], 10, Streams(0))
    assert sum(each.numel() for each in model.parameters()) == count


@pytest.mark.parametrize("data", list(DEFAULTS))
@pytest.mark.parametrize("rows", [0, 2])
def test_the_default_model_of_each_data_set_takes_its_examples(data: str, rows: int) -> None:
    """An empty batch is an ordinary one. Pitfall: users 6."""
    shape = SHAPES[data]
    if data == "ptb":
        inputs, scores = torch.randint(256, (rows, *shape)), (rows, 80, 256)
    else:
        inputs, scores = torch.rand(rows, *shape), (rows, 10)
    model = build(DEFAULTS[data]["model"], shape, scores[-1], Streams(0))
    assert model(inputs).shape == scores


@pytest.mark.parametrize("name", ["char-lstm", "char-transformer"])
def test_a_sequence_model_does_not_look_ahead(name: str) -> None:
    model = build(name, (80,), 256, Streams(0))
    text = torch.randint(256, (1, 80))
    changed = text.clone()
    changed[0, 40] += 1
    moved = (model(text) - model(changed % 256)).abs().amax(-1)[0] > 0
    assert not moved[:40].any()
    assert moved[40:].any()


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    assert torch.equal(weights("mnist-cnn", 1), weights("mnist-cnn", 1))
    assert not torch.equal(weights("mnist-cnn", 1), weights("mnist-cnn", 2))
    assert not torch.equal(weights("mnist-cnn", None), weights("mnist-cnn", None))


def test_building_a_model_moves_no_global_generator() -> None:
    """Pitfall: privacy 13."""
    before = torch.get_rng_state()
    build("digits-mlp", SHAPES["digits"], 10, Streams(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fixed_projection_is_the_cosine_transform() -> None:
    images = torch.rand(3, 2, 6, 5)
    found = LowFrequencies((2, 6, 5), 60)(images)
    expected = scipy.fft.dctn(images.numpy(), axes=(2, 3), norm="ortho")
    assert found.shape == (3, 60)
    np.testing.assert_allclose(found[:, :2], expected[:, :, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(found.norm(dim=1), images.flatten(1).norm(dim=1), rtol=1e-5)
    assert not list(LowFrequencies((1, 8, 8), 9).state_dict())


def test_a_model_of_ones_own_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_models.py").write_text(
        "import math, torch\n"
        "def linear(input_shape, classes):\n"
        "    size = math.prod(input_shape)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, classes))\n"
        "def nothing(input_shape, classes):\n"
        "    return None\n"
        "constant = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [each for each in __import__("sys").path if each])
    model = build("their_models:linear", (1, 8, 8), 10, Streams(0))
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    for name in ("nothing", "constant", "absent"):
        with pytest.raises(SettingsError, match=f"their_models:{name}"):
            build(f"their_models:{name}", (1, 8, 8), 10, Streams(0))


@pytest.mark.parametrize("name", ["resnet", "no.such.module:net", ":net", "torch:"])
def test_an_unknown_model_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match="module:factory"):
        build(name, (1, 8, 8), 10, Streams(0))


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_that_does_not_fit_the_data_is_refused_or_runs(name: str) -> None:
    for shape, classes in {(SHAPES[data], 256 if data == "ptb" else 10) for data in SHAPES}:
        try:
            model = build(name, shape, classes, Streams(0))
        except SettingsError as problem:
            assert f"does not take examples of shape {shape}" in str(problem)
        else:
            assert isinstance(model, nn.Module)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_an_optimizer_moves_only_what_trains(name: str) -> None:
    """Pitfall: users 2."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = optimizer_for(model, name, lr=0.125, momentum=0.5)
    (group,) = optimizer.param_groups
    assert [id(each) for each in group["params"]] == [id(each) for each in model[1].parameters()]
    assert group["lr"] == 0.125
    assert math.isclose(group.get("momentum", 0.5), 0.5)


def test_an_unknown_optimizer_is_refused_with_the_names_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"'lion'.*sgd, adam"):
        optimizer_for(nn.Linear(1, 1), "lion", lr=0.1)
