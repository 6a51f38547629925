"""Laplace noise: scaled to an L1 sensitivity, on a grid that tells nothing of the sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from deniable.events import LaplaceEvent
from deniable.noise import Gaussian, Laplace, NoiseGenerator, noise_generator
from deniable.units import BoundedSum, Neighbouring, Sensitivity

CPU = torch.device("cpu")
ALPHA = 1e-6


def drawn(secure: bool = False) -> NoiseGenerator:
    return noise_generator(bytes(range(32)), CPU, secure)


def bounded(sensitivity: float = 1.0, **sums: torch.Tensor) -> BoundedSum:
    return BoundedSum(sums, Sensitivity(sensitivity, norm="L1"))


def is_laplace(values: torch.Tensor, scale: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), "laplace", (0, scale)).pvalue > ALPHA)


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_the_scale_multiplier_times_sensitivity(secure: bool) -> None:
    """Kolmogorov-Smirnov; false failure 1e-6 were the key fresh; 1.05 times that is rejected."""
    noisy = Laplace(3.0).add(bounded(0.5, w=torch.zeros(400, 1000)), drawn(secure))["w"].flatten()
    assert is_laplace(noisy, 1.5)
    assert not is_laplace(1.05 * noisy, 1.5)
    gaussian = drawn(secure).normal((400_000,), dtype=torch.float64, device=CPU)
    assert not is_laplace(1.5 * math.sqrt(2) * gaussian, 1.5), "negative control: another law"


def test_its_tails_are_those_of_the_law() -> None:
    """Beyond t scales lies exp(-t): a binomial count, false failure 1e-6."""
    noisy = Laplace(1.0).add(bounded(w=torch.zeros(1_000_000, dtype=torch.float64)), drawn(True))
    for far in (2.0, 5.0, 9.0):
        found = int((noisy["w"].abs() > far).sum())
        assert ALPHA < stats.binom.cdf(found, 1_000_000, math.exp(-far)) < 1 - ALPHA
    assert noisy["w"].abs().max() > 11


def test_coordinates_and_calls_receive_noise_of_their_own() -> None:
    generator, sums = drawn(), bounded(a=torch.zeros(50_000), b=torch.zeros(50_000))
    draws = [each for _ in range(2) for each in Laplace(1.0).add(sums, generator).values()]
    scores = np.corrcoef(torch.stack(draws).numpy()) * math.sqrt(50_000)
    assert np.abs(scores[~np.eye(4, dtype=bool)]).max() < 4.9


def test_every_result_lies_on_one_grid_whatever_the_sum_was() -> None:
    """Mironov (2012) reads a sum from the low bits of sum plus noise; here they are the grid's."""
    grid = 2.0 ** (math.frexp(2.0)[1] - 40)
    for value in (0.0, 0.1, math.pi * 1e-9, 1e5 + 1 / 3):
        sums = bounded(w=torch.full((1000,), value, dtype=torch.float64))
        noisy = Laplace(2.0).add(sums, drawn(True))["w"].numpy()
        assert np.all(np.fmod(noisy, grid) == 0)
    plain = 0.1 + stats.laplace.rvs(size=1000, random_state=0)
    assert not np.all(np.fmod(plain, grid) == 0), "negative control"


def test_rounding_to_the_grid_is_paid_for() -> None:
    """Ten million coordinates: the scale is larger by what rounding all of them can move."""
    coordinates = 10_000_000
    grid = 2.0 ** (math.frexp(1.0)[1] - 40)
    sums = bounded(w=torch.zeros(1, dtype=torch.float64).expand(coordinates))
    noisy = Laplace(1.0).add(sums, Unit())["w"]
    assert noisy[0].item() == pytest.approx(2 * (1 + coordinates * grid), rel=1e-9)


class Unit:
    """Every normal is 1, so that every Laplace value is 2."""

    precision = torch.float64

    def normal(self, shape, *, dtype, device):  # type: ignore[no-untyped-def]
        return torch.ones(tuple(shape), dtype=dtype, device=device)


def test_dtypes_and_shapes_are_kept_and_nothing_given_is_modified() -> None:
    given = {
        "single": torch.ones(2, 3),
        "double": torch.tensor(4.0, dtype=torch.float64),
        "half": torch.ones(4, dtype=torch.bfloat16),
        "turned": torch.arange(6.0).view(2, 3).T,
        "none": torch.zeros(0, 4),
    }
    noisy = Laplace(1.0).add(bounded(1.0, **given), Unit())  # type: ignore[arg-type]
    assert [each.dtype for each in noisy.values()] == [
        torch.float32, torch.float64, torch.float32, torch.float32, torch.float32,
    ]  # fmt: skip
    assert all(noisy[name].shape == given[name].shape for name in given)
    torch.testing.assert_close(noisy["turned"], given["turned"] + 2)
    assert given["single"].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(("multiplier", "sensitivity"), [(0.0, 1.0), (1.0, 0.0)])
def test_without_noise_the_very_sums_come_back(multiplier: float, sensitivity: float) -> None:
    given = {"w": torch.ones(3)}
    noisy = Laplace(multiplier).add(bounded(sensitivity, **given), drawn())
    assert noisy["w"] is given["w"]


def test_each_noise_refuses_the_sensitivity_of_the_other() -> None:
    sums = {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match="Laplace noise is scaled to a sensitivity in L1 norm"):
        Laplace(1.0).add(BoundedSum(sums, Sensitivity(1.0)), drawn())
    with pytest.raises(ValueError, match="Gaussian noise is scaled to a sensitivity in L2 norm"):
        Gaussian(1.0).add(bounded(**sums), drawn())


def test_another_relation_a_bare_sum_and_a_table_of_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="they differ by a factor of 2"):
        Laplace(1.0, Neighbouring.REPLACE).add(bounded(w=torch.zeros(3)), drawn())
    with pytest.raises(TypeError, match="needs a BoundedSum"):
        Laplace(1.0).add({"w": torch.zeros(3)}, drawn())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'w' is torch\.int64"):
        Laplace(1.0).add(bounded(w=torch.zeros(3).long()), drawn())


def test_the_event_is_what_is_added() -> None:
    assert Laplace(2.0, Neighbouring.REPLACE).event == LaplaceEvent(2.0, Neighbouring.REPLACE)


def test_an_odds_ratio_between_neighbours_stays_within_epsilon() -> None:
    """A count of 10 or of 11, a million releases each: no bin's odds exceed exp(1/2) by more than
    sampling explains (six standard errors over 40 bins: false failure 1e-7); 1/3 is rejected.
    """
    generator = drawn(True)
    counts = []
    for value in (10.0, 11.0):
        sums = bounded(w=torch.full((1_000_000,), value, dtype=torch.float64))
        # One count at a time: the million are separate releases.
        noisy = Laplace(2.0).add(sums, generator)["w"].numpy()
        counts.append(np.histogram(noisy, bins=np.linspace(0, 21, 41))[0])
    odds = np.log(counts[0] / counts[1])
    errors = np.sqrt(1 / counts[0] + 1 / counts[1])
    assert np.all(np.abs(odds) <= 0.5 + 6 * errors)
    assert not np.all(np.abs(odds) <= 1 / 3 + 6 * errors)
