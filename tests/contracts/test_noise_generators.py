"""What every noise generator must pass: to test another, add it to `GENERATORS`.

Each statistical check turns draws into a p-value and is failed below `ALPHA`. Keys are fixed, so
that a failure seen once is seen again; were they fresh, each check would fail falsely once in a
million runs. `test_spoiled_noise_is_rejected` is the negative control of all of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from deniable.errors import CheckpointError
from deniable.noise import NoiseGenerator, noise_generator

ALPHA = 1e-6
KEY = hashlib.sha256(b"the contract of noise generators").digest()
OTHER_KEY = hashlib.sha256(b"another").digest()
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    make: Callable[[bytes], NoiseGenerator]
    device: torch.device

    def draw(self, generator: NoiseGenerator, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return generator.normal(shape, dtype=dtype, device=self.device)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GENERATORS = {
    "keystream": Case(lambda key: noise_generator(key, CPU), CPU),
    "keystream, secure": Case(lambda key: noise_generator(key, CPU, secure=True), CPU),
    "philox": Case(lambda key: noise_generator(key, CUDA), CUDA),
}


@pytest.fixture(params=GENERATORS)
def case(request: pytest.FixtureRequest) -> Case:
    case = GENERATORS[request.param]
    if case.device == CUDA and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return case


@functools.cache
def million(case: Case) -> Values:
    values = case.draw(case.make(KEY), 1_000_000, dtype=torch.float32)
    return values.cpu().double().numpy()


# The checks: draws to a p-value.


def shape_and_scale(z: Values) -> float:
    return float(stats.kstest(z, "norm").pvalue)


def moments(z: Values) -> float:
    """Mean, variance, skewness and kurtosis: the smallest p-value of four, Bonferroni."""
    smallest = 1.0
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        score = ((z**power).mean() - mean) / math.sqrt(variance / len(z))
        smallest = min(smallest, 2 * stats.norm.sf(abs(score)))
    return 4 * smallest


def tails(z: Values) -> float:
    """The number beyond 4 standard deviations, 63 in a million."""
    beyond = int((np.abs(z) > 4).sum())
    return float(stats.binomtest(beyond, len(z), 2 * stats.norm.sf(4)).pvalue)


def fine_cells(z: Values) -> float:
    """Chi-square over 1,000 cells of equal probability: sees grids and gaps."""
    counts = np.bincount(cells(z, 1000), minlength=1000)
    return float(stats.chisquare(counts).pvalue)


def neighbours(z: Values) -> float:
    """Correlation of values, and of their squares, at distances 1 to 32; Bonferroni over 64."""
    smallest = 1.0
    for values in (z, (z**2 - 1) / math.sqrt(2)):
        for distance in range(1, 33):
            score = (values[:-distance] * values[distance:]).sum() / math.sqrt(len(z))
            smallest = min(smallest, 2 * stats.norm.sf(abs(score)))
    return 64 * smallest


def partners(first: Values, second: Values) -> float:
    """Chi-square of 16 x 16 cells of equal probability: any dependence, not only correlation."""
    counts = np.bincount(16 * cells(first, 16) + cells(second, 16), minlength=256)
    return float(stats.chisquare(counts).pvalue)


def cells(z: Values, count: int) -> NDArray[np.int64]:
    edges = stats.norm.ppf(np.arange(1, count) / count)
    return np.searchsorted(edges, z)


CHECKS = {check.__name__: check for check in (shape_and_scale, moments, tails, fine_cells)}
CHECKS["neighbours"] = neighbours


@pytest.mark.parametrize("check", CHECKS)
def test_a_million_draws_are_standard_normal(case: Case, check: str) -> None:
    assert CHECKS[check](million(case)) > ALPHA


@pytest.mark.parametrize("distance", [500, 50_000, 65_536])
def test_values_of_one_draw_are_independent(case: Case, distance: int) -> None:
    """At the distances at which vectorised transforms put the two values of a pair."""
    values = case.draw(case.make(KEY), 2 * distance, dtype=torch.float32).cpu().double().numpy()
    assert partners(values[:distance], values[distance:]) > ALPHA


def test_steps_are_independent(case: Case) -> None:
    generator = case.make(KEY)
    steps = [case.draw(generator, 300_000, dtype=torch.float32).cpu().double() for _ in range(3)]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert partners(steps[first].numpy(), steps[second].numpy()) > ALPHA


def test_generators_of_two_keys_are_independent(case: Case) -> None:
    other = case.draw(case.make(OTHER_KEY), 1_000_000, dtype=torch.float32).cpu().double().numpy()
    assert partners(million(case), other) > ALPHA


SPOILED: dict[str, tuple[str, Callable[[Values, np.random.Generator], Values]]] = {
    "1.1 times the scale": ("shape_and_scale", lambda z, _: 1.1 * z),
    "0.01 off centre": ("shape_and_scale", lambda z, _: z + 0.01),
    "1.01 times the scale": ("moments", lambda z, _: 1.01 * z),
    "heavier tails": ("moments", lambda z, rng: rng.standard_t(8, len(z)) * math.sqrt(6 / 8)),
    "nothing beyond 4": ("tails", lambda z, _: np.where(np.abs(z) > 4, 0.0, z)),
    "8 bits of mantissa": (
        "fine_cells",
        lambda z, _: torch.from_numpy(z).bfloat16().double().numpy(),
    ),
    "an echo": ("neighbours", lambda z, _: (z + 0.02 * np.roll(z, 1)) / math.hypot(1, 0.02)),
    "common radii": (
        "neighbours",
        lambda z, rng: np.repeat(np.abs(z[::2]), 2) * rng.choice([-1, 1], len(z)),
    ),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_spoiled_noise_is_rejected(spoil: str) -> None:
    """Negative control, from numpy's generator; missed far less than once in a million."""
    rng = np.random.default_rng(0)
    good = rng.standard_normal(1_000_000)
    check, change = SPOILED[spoil]
    assert CHECKS[check](good) > ALPHA
    assert CHECKS[check](change(good, rng)) < ALPHA


def test_dependent_partners_are_rejected() -> None:
    """Negative control: uncorrelated, each standard normal, of equal size."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal(10_000)
    assert partners(first, rng.standard_normal(10_000)) > ALPHA
    assert partners(first, first * rng.choice([-1, 1], 10_000)) < ALPHA


def bits_that_count(make: Callable[[bytes], NoiseGenerator], device: torch.device) -> int:
    """How many bits of the key change the first draw."""

    def first_draw(key: bytes) -> bytes:
        values = make(key).normal((8,), dtype=torch.float32, device=device)
        return values.cpu().numpy().tobytes()

    flipped = ((int.from_bytes(KEY) ^ 1 << bit).to_bytes(32) for bit in range(256))
    return len({first_draw(key) for key in flipped} - {first_draw(KEY)})


def test_at_least_128_bits_of_the_key_count(case: Case) -> None:
    """Pitfall: privacy 13."""
    assert bits_that_count(case.make, case.device) >= 128


class Seeded:
    """What the bits are counted for: a torch generator given all 64 bits that it asks for."""

    precision = torch.float32

    def __init__(self, key: bytes) -> None:
        self._generator = torch.Generator().manual_seed(int.from_bytes(key[:8]))

    def normal(self, shape: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(generator=self._generator)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None: ...


def test_a_generator_that_uses_32_bits_is_rejected() -> None:
    """Negative control: torch's CPU generator keeps half of its seed. Pitfall: privacy 13."""
    assert bits_that_count(Seeded, CPU) == 32


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(case: Case, length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, got {length}"):
        case.make(bytes(length))


SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7, 3), (2, 0, 3), (131_075,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_draws_have_the_shape_dtype_and_device_asked_for(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    values = case.draw(case.make(KEY), *shape, dtype=dtype)
    assert (values.shape, values.dtype, values.device.type) == (shape, dtype, case.device.type)
    assert bool(values.isfinite().all())
    assert not values.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_dtypes_are_refused(case: Case, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        case.draw(case.make(KEY), 3, dtype=dtype)


def test_a_key_fixes_the_draws(case: Case) -> None:
    first, second = (case.draw(case.make(KEY), 1001, dtype=torch.float32) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_generator_resumes_bit_for_bit(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """From any position, through JSON, in a generator that had another key.

    Pitfall: privacy 11.
    """
    generator = case.make(KEY)
    case.draw(generator, *shape, dtype=dtype)
    text = json.dumps(generator.state())
    resumed = case.make(OTHER_KEY)
    case.draw(resumed, 5, dtype=torch.float32)
    resumed.restore(json.loads(text))
    for size in (1, 2, 1001, 131_075):
        expected = case.draw(generator, size, dtype=dtype)
        assert torch.equal(case.draw(resumed, size, dtype=dtype), expected)
    assert resumed.state() == generator.state()


def test_saving_does_not_move_the_generator(case: Case) -> None:
    saved, left_alone = case.make(KEY), case.make(KEY)
    for size in (3, 100, 1):
        assert saved.state() == saved.state()
        expected = case.draw(left_alone, size, dtype=torch.float32)
        assert torch.equal(case.draw(saved, size, dtype=torch.float32), expected)


def windows(values: torch.Tensor) -> set[bytes]:
    """All runs of four values that follow each other: about 100 bits each."""
    content = values.cpu().numpy().tobytes()
    return {content[start : start + 16] for start in range(0, len(content) - 12, 4)}


def test_no_noise_is_drawn_twice_across_a_resume(case: Case) -> None:
    """False failure: below 1e-18. Pitfall: privacy 11."""
    generator = case.make(KEY)
    before = [case.draw(generator, 20_001, dtype=torch.float32) for _ in range(3)]
    resumed = case.make(KEY)
    resumed.restore(generator.state())
    after = [case.draw(resumed, 20_001, dtype=torch.float32) for _ in range(3)]
    assert len(windows(torch.cat(before + after))) == 6 * 20_001 - 3
    started_again = case.draw(case.make(KEY), 20_001, dtype=torch.float32)
    assert windows(started_again) <= windows(torch.cat(before)), "negative control"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {},
        lambda state: state | {"generator": "mersenne twister"},
        lambda state: {"generator": state["generator"]},
        lambda state: dict.fromkeys(state) | {"generator": state["generator"]},
        lambda state: {name: [1.5] for name in state} | {"generator": state["generator"]},
        lambda state: dict.fromkeys(state, "00") | {"generator": state["generator"]},
    ],
    ids=["empty", "another kind", "cut off", "nulls", "wrong types", "too short"],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_moves(
    case: Case, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    generator = case.make(KEY)
    case.draw(generator, 5, dtype=torch.float32)
    before = generator.state()
    with pytest.raises(CheckpointError, match="state"):
        generator.restore(spoil(before))
    assert generator.state() == before


def test_one_kind_of_generator_refuses_the_state_of_another() -> None:
    fast, secure = noise_generator(KEY, CPU), noise_generator(KEY, CPU, secure=True)
    for generator, other in ((fast, secure), (secure, fast)):
        with pytest.raises(CheckpointError, match="`secure` setting"):
            generator.restore(other.state())


def test_global_generators_are_neither_read_nor_moved(case: Case) -> None:
    """Pitfall: privacy 13."""
    draws = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        draws.append(case.draw(case.make(KEY), 100, dtype=torch.float32))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(*draws)
