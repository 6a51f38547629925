"""Gaussian noise: scaled to the sensitivity, everywhere, once, and on nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from deniable.events import GaussianEvent
from deniable.noise import Gaussian, NoiseGenerator, noise_generator
from deniable.units import BoundedSum, Sensitivity

CPU = torch.device("cpu")
KEY = bytes(range(32))
ALPHA = 1e-6


class Counting:
    """A generator of 1, 2, 3, ... that remembers how often it was asked."""

    precision = torch.float32

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], torch.dtype]] = []

    def normal(
        self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        self.calls.append((tuple(shape), dtype))
        return torch.arange(1, math.prod(shape) + 1, dtype=dtype, device=device).view(tuple(shape))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...


def bounded(sensitivity: float = 1.0, **sums: torch.Tensor) -> BoundedSum:
    return BoundedSum(sums, Sensitivity(sensitivity))


def drawn(secure: bool = False) -> NoiseGenerator:
    return noise_generator(KEY, CPU, secure)


def is_normal(values: torch.Tensor, deviation: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), "norm", (0, deviation)).pvalue > ALPHA)


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_the_deviation_sigma_times_sensitivity(secure: bool) -> None:
    """Kolmogorov-Smirnov; false failure 1e-6 were the key fresh; 1.1 times that is rejected."""
    sums = bounded(0.7, w=torch.zeros(400, 1000), b=torch.zeros(100_000))
    noisy = Gaussian(1.3).add(sums, drawn(secure))
    values = torch.cat([noisy["w"].flatten(), noisy["b"]])
    assert is_normal(values, 1.3 * 0.7)
    assert not is_normal(1.1 * values, 1.3 * 0.7)


@pytest.mark.parametrize("secure", [False, True])
def test_parameters_and_steps_receive_noise_of_their_own(secure: bool) -> None:
    """z-scores of the correlations below 4.9: false failure 1e-6 each, were the key fresh."""
    generator, sums = drawn(secure), bounded(a=torch.zeros(100_000), b=torch.zeros(100_000))
    draws = [each for _ in range(2) for each in Gaussian(1.0).add(sums, generator).values()]
    scores = np.corrcoef(torch.stack(draws).numpy()) * math.sqrt(100_000)
    assert np.abs(scores[~np.eye(4, dtype=bool)]).max() < 4.9
    assert scores.diagonal().min() > 4.9, "negative control: noise is not independent of itself"


def test_the_result_is_the_sum_plus_the_scaled_draws_in_one_call() -> None:
    generator = Counting()
    sums = bounded(0.5, w=torch.full((2, 3), 100.0), b=torch.tensor(7.0), none=torch.zeros(0, 4))
    noisy = Gaussian(2.0).add(sums, generator)
    assert generator.calls == [((7,), torch.float32)]
    assert list(noisy) == ["w", "b", "none"]
    assert noisy["w"].tolist() == [[101, 102, 103], [104, 105, 106]]
    assert noisy["b"].item() == 14
    assert noisy["none"].shape == (0, 4)


def test_noise_wider_than_a_sum_of_many_values_is_drawn_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deniable.noise.gaussian._CHUNK", 4)
    generator = Counting()
    generator.precision = torch.float64
    noisy = Gaussian(1.0).add(bounded(a=torch.zeros(3), b=torch.zeros(6)), generator)
    assert [shape for shape, _ in generator.calls] == [(4,), (4,), (1,)]
    assert torch.cat(list(noisy.values())).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1]


def test_memory_layouts_do_not_matter() -> None:
    image = torch.arange(24.0).view(1, 2, 3, 4)
    layouts = {"plain": image, "last": image.contiguous(memory_format=torch.channels_last)}
    layouts["turned"] = image.transpose(1, 3).contiguous().transpose(1, 3)
    results = [Gaussian(1.0).add(bounded(w=each), drawn())["w"] for each in layouts.values()]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_given_sums_are_not_modified_nor_shared() -> None:
    given = {"w": torch.ones(5), "b": torch.ones(2, dtype=torch.float64)}
    noisy = Gaussian(1.0).add(BoundedSum(given, Sensitivity(1.0)), drawn())
    noisy["w"].fill_(9)
    noisy["b"].fill_(9)
    assert given["w"].tolist() == [1] * 5
    assert given["b"].tolist() == [1] * 2


def test_a_single_sum_is_copied_too() -> None:
    given = torch.ones(5)
    Gaussian(1.0).add(bounded(w=given), drawn())
    assert given.tolist() == [1] * 5


def test_noise_carries_no_autograd_graph() -> None:
    noisy = Gaussian(1.0).add(bounded(w=torch.ones(3, requires_grad=True)), drawn())
    assert not noisy["w"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_sums_receive_float32_noise(dtype: torch.dtype) -> None:
    """bfloat16 noise has 8 bits of mantissa: 50,000 draws of it repeat all but 3,000 values."""
    noisy = Gaussian(1.0).add(bounded(w=torch.zeros(50_000, dtype=dtype)), drawn())["w"]
    assert noisy.dtype == torch.float32
    assert len(set(noisy.tolist())) > 49_000
    assert len(set(noisy.to(torch.bfloat16).tolist())) < 4_000, "negative control"


def test_dtypes_may_be_mixed_and_float64_receives_float64_noise() -> None:
    generator = Counting()
    sums = bounded(
        a=torch.zeros(2), b=torch.zeros(3, dtype=torch.float64), c=torch.zeros(1).bfloat16()
    )
    noisy = Gaussian(1.0).add(sums, generator)
    assert generator.calls == [((3,), torch.float32), ((3,), torch.float64)]
    assert [(name, each.dtype) for name, each in noisy.items()] == [
        ("a", torch.float32),
        ("b", torch.float64),
        ("c", torch.float32),
    ]


def test_secure_noise_is_scaled_and_added_in_float64_and_rounded_once() -> None:
    sums = torch.linspace(-3, 3, 10_001)
    noisy = Gaussian(1.1).add(bounded(0.3, w=sums), drawn(secure=True))["w"]
    draws = drawn(secure=True).normal((10_001,), dtype=torch.float64, device=CPU)
    assert torch.equal(noisy, (sums.double() + 1.1 * 0.3 * draws).float())
    rounded_thrice = sums + 1.1 * 0.3 * draws.float()
    assert not torch.equal(noisy, rounded_thrice), "negative control"


def low_bits_are_uniform(released: torch.Tensor) -> bool:
    """Chi-square over the lowest 6 bits of the mantissa, at level 1e-6."""
    low = released.numpy().view(np.int32) & 63
    return bool(stats.chisquare(np.bincount(low, minlength=64)).pvalue > ALPHA)


@pytest.mark.parametrize("secure", [False, True])
def test_low_bits_of_a_release_do_not_follow_the_sum(secure: bool) -> None:
    """Mironov (2012) reads a sum from them; bfloat16 noise is the negative control."""
    sums = torch.full((200_000,), 1000.1)
    noisy = Gaussian(20.0).add(bounded(w=sums), drawn(secure))["w"]
    assert low_bits_are_uniform(noisy)
    coarse = sums + 20 * drawn().normal((200_000,), dtype=torch.float32, device=CPU).bfloat16()
    assert not low_bits_are_uniform(coarse)


class Silent(Counting):
    def normal(
        self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        raise AssertionError("noise was drawn")


@pytest.mark.parametrize(("multiplier", "sensitivity"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_without_noise_the_very_sums_come_back_and_nothing_is_drawn(
    multiplier: float, sensitivity: float
) -> None:
    given = {"w": torch.ones(5, dtype=torch.float16), "b": torch.ones(2)}
    noisy = Gaussian(multiplier).add(bounded(sensitivity, **given), Silent())
    assert noisy.keys() == given.keys()
    assert all(noisy[name] is given[name] for name in given)


def test_no_sums_need_no_noise() -> None:
    assert Gaussian(1.0).add(bounded(), Silent()) == {}


@pytest.mark.parametrize("given", [{"w": torch.ones(2)}, torch.ones(2), ({}, 1.0), None])
def test_a_sum_without_a_sensitivity_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=f"needs a BoundedSum, got {type(given).__name__}"):
        Gaussian(1.0).add(given, drawn())
    with pytest.raises(TypeError, match="BoundedSum"):
        Gaussian(0.0).add(given, drawn())


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_a_sum_that_is_not_real_floating_point_is_refused_by_name(dtype: torch.dtype) -> None:
    sums = bounded(fine=torch.ones(2), table=torch.ones(2).to(dtype))
    with pytest.raises(TypeError, match=f"'table' is {dtype}"):
        Gaussian(1.0).add(sums, Silent())


@pytest.mark.parametrize(
    ("multiplier", "sensitivity"), [(1e-23, 1e-23), (1e-200, 1e-200), (2, 1e39)]
)
def test_a_deviation_that_float32_would_round_away_is_refused(
    multiplier: float, sensitivity: float
) -> None:
    """Noise of deviation 1e-46 would round to nothing, and the sum would be released as it is."""
    with pytest.raises(ValueError, match="must be a normal float32"):
        Gaussian(multiplier).add(bounded(sensitivity, w=torch.ones(2)), Silent())


@pytest.mark.parametrize("multiplier", [-1.0, math.nan, math.inf])
def test_an_impossible_noise_multiplier_is_refused(multiplier: float) -> None:
    with pytest.raises(ValueError, match="finite and at least 0"):
        Gaussian(multiplier)


def test_the_event_is_what_is_added() -> None:
    assert Gaussian(1.1).event == GaussianEvent(1.1)
    assert Gaussian(0).event == GaussianEvent(0.0)


@pytest.mark.parametrize("secure", [False, True])
def test_resumed_noise_is_the_noise_that_was_due(secure: bool) -> None:
    """Pitfall: privacy 11."""
    generator, sums = drawn(secure), bounded(w=torch.zeros(101), b=torch.zeros(2))
    noise = Gaussian(1.0)
    noise.add(sums, generator)
    text = json.dumps(generator.state())
    due = [noise.add(sums, generator)["w"] for _ in range(3)]
    resumed = noise_generator(bytes(32), CPU, secure)
    resumed.restore(json.loads(text))
    for expected in due:
        assert torch.equal(noise.add(sums, resumed)["w"], expected)
