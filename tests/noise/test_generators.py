"""The generators, each against what it says it computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from deniable.noise import KeystreamGenerator, PhiloxGenerator, noise_generator

CPU = torch.device("cpu")
KEY = bytes(range(32))


def keystream(blocks: int) -> bytes:
    """AES-256 of the numbers 0, 1, 2, ..., block by block: counter mode, spelled out."""
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    return b"".join(encryptor.update(block.to_bytes(16)) for block in range(blocks))


def box_muller(u: float, v: float) -> tuple[float, float]:
    length = math.sqrt(-2 * math.log(u))
    return length * math.cos(2 * math.pi * v), length * math.sin(2 * math.pi * v)


def test_float64_normals_are_those_of_the_slow_twin() -> None:
    stream = keystream(500)
    words = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 8000, 8)]
    pairs = [
        box_muller((words[i] % 2**53 + 1) / 2**53, (words[500 + i] >> 11) / 2**53)
        for i in range(500)
    ]
    expected = torch.tensor(pairs, dtype=torch.float64).T.flatten()
    drawn = KeystreamGenerator(KEY, torch.float64).normal((1000,), dtype=torch.float64, device=CPU)
    torch.testing.assert_close(drawn, expected, rtol=1e-13, atol=1e-14)


def test_float32_normals_are_those_of_the_slow_twin() -> None:
    stream = keystream(250)
    words = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 4000, 8)]
    pairs = [box_muller((word % 2**40 + 1) / 2**40, (word >> 40) / 2**24) for word in words]
    expected = torch.tensor(pairs, dtype=torch.float64).T.flatten()
    drawn = KeystreamGenerator(KEY).normal((1000,), dtype=torch.float32, device=CPU)
    torch.testing.assert_close(drawn.double(), expected, rtol=1e-5, atol=5e-6)


def begin_with(
    generator: KeystreamGenerator, word: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make the first words of a keystream this one, and those after them what they are."""
    drawn, left = generator._next_words, iter(range(calls))

    def next_words(count: int) -> Any:
        words = drawn(count)
        if next(left, None) is not None:
            words[:] = word
        return words

    monkeypatch.setattr(generator, "_next_words", next_words)


@pytest.mark.parametrize("zeros", [1, 2])
@pytest.mark.parametrize(("precision", "bits"), [(torch.float32, 40), (torch.float64, 53)])
def test_the_tail_goes_on_where_the_first_bits_end(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype, bits: int, zeros: int
) -> None:
    """Half of the squared length is exponential, also beyond these bits: false below 1e-6.

    A tail that ends there, at 7.4 deviations in float32, is rejected: all lengths would be one.
    """
    lengths = []
    generator = KeystreamGenerator(KEY, precision)
    for _ in range(500):
        begin_with(generator, 0, zeros, monkeypatch)
        pair = generator.normal((2,), dtype=precision, device=CPU)
        monkeypatch.undo()
        lengths.append(float(pair.double().square().sum()) / 2)
    beyond = np.array(lengths) - zeros * bits * math.log(2)
    assert stats.kstest(beyond, "expon").pvalue > 1e-6
    assert stats.kstest(np.zeros(500), "expon").pvalue < 1e-6


@pytest.mark.parametrize("word", [0, -1, 2**63 - 1, -(2**63), 2**40 - 1, 2**53 - 1])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_extreme_random_words_give_finite_normals(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype, word: int
) -> None:
    generator = KeystreamGenerator(KEY, precision)
    begin_with(generator, word, 1, monkeypatch)
    assert bool(generator.normal((2,), dtype=precision, device=CPU).isfinite().all())


def test_draws_from_one_keystream_use_each_byte_once() -> None:
    """Two pairs of float32 take one block, the next pair starts in the middle of the next."""
    generator = KeystreamGenerator(KEY)
    positions = []
    for count in (2, 1, 3, 4):
        generator.normal((count,), dtype=torch.float32, device=CPU)
        positions.append(generator.state()["position"])
    assert positions == [8, 16, 32, 48]


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_number_of_threads_does_not_change_the_noise(precision: torch.dtype) -> None:
    """A run may be resumed on a machine with other cores. Pitfall: privacy 11."""
    before = torch.get_num_threads()
    draws = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            generator = KeystreamGenerator(KEY, precision)
            draws.append(generator.normal((200_001,), dtype=precision, device=CPU))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_a_keystream_of_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        KeystreamGenerator(KEY, torch.bfloat16)


def test_the_device_chooses_the_generator() -> None:
    """Every device but CUDA draws on the CPU; so does `secure`, everywhere."""
    assert isinstance(noise_generator(KEY, CPU), KeystreamGenerator)
    assert isinstance(noise_generator(KEY, torch.device("mps")), KeystreamGenerator)
    secure = noise_generator(KEY, torch.device("cuda"), secure=True)
    assert isinstance(secure, KeystreamGenerator)
    assert secure.precision == torch.float64
    if torch.cuda.is_available():
        assert isinstance(noise_generator(KEY, torch.device("cuda")), PhiloxGenerator)


def test_noise_is_moved_to_the_device_of_the_sum() -> None:
    values = noise_generator(KEY, CPU).normal(
        (3,), dtype=torch.float32, device=torch.device("meta")
    )
    assert values.device.type == "meta"
