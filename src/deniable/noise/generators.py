"""Generators of standard normal noise, keyed with 256 bits and resumable at an exact position."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from deniable.errors import CheckpointError

_KEY_BYTES: Final = 32
_BLOCK_BYTES: Final = 16
# Pairs of normals made at once: few calls for a small model, and all of it stays in the cache.
_PAIRS: Final = 1 << 15


class NoiseGenerator(Protocol):
    """A source of standard normal values that nobody else can predict or repeat."""

    @property
    def precision(self) -> torch.dtype:
        """The least precision in which noise is drawn, scaled and added."""

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Fresh values of N(0, 1), each used once; `dtype` is float32 or float64."""

    def state(self) -> dict[str, Any]:
        """The exact position, as strings and whole numbers. It holds the key: keep it private."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to the position that `state` returned, so that the next draws repeat bit for bit.

        Raises:
            CheckpointError: the state is another generator's, or is damaged.
        """


def noise_generator(key: bytes, device: torch.device, secure: bool = False) -> NoiseGenerator:
    """The generator to draw noise from on a device.

    | device | default | `secure=True` |
    | --- | --- | --- |
    | CUDA | `PhiloxGenerator` | `KeystreamGenerator` in float64, copied to the device |
    | CPU and all others | `KeystreamGenerator` in float32 | `KeystreamGenerator` in float64 |

    What `secure=True` protects against: an attacker who predicts noise from noise seen before
    (AES-256 in counter mode, NIST SP 800-38A; true on the CPU by default too, not of Philox), and
    one who reads the hidden sum from the low bits of a release, because noise of too few bits
    cannot reach every float next to it (Mironov, 2012, "On Significance of the Least Significant
    Bits For Differential Privacy"; Jin et al., 2022, "Are We There Yet? Timing and Floating-Point
    Attacks on Differential Privacy Systems"). Noise is made from 106 random bits a pair, scaled
    and added in float64, and only the result is rounded to the sum's dtype.

    What it does not protect against: that rounding is a mitigation, not a proof (a proof needs
    discrete noise on integers: Canonne, Kamath & Steinke, 2020); float64 sums get no coarser
    rounding, so no such help; rounding inside the gradients may move a sum by more than its exact
    sensitivity; timing; anyone who reads the process's memory or its checkpoints.

    Args:
        key: 32 bytes nobody else knows, used for nothing else (`Streams.key("noise")`).
        device: where the noise will be added.
        secure: see above; about twice the time.

    Raises:
        ValueError: the key is not 32 bytes.

    >>> generator = noise_generator(bytes(32), torch.device("cpu"))
    >>> generator.normal((2, 3), dtype=torch.float32, device=torch.device("cpu")).shape
    torch.Size([2, 3])
    """
    if secure:
        return KeystreamGenerator(key, precision=torch.float64)
    if device.type == "cuda":
        return PhiloxGenerator(key, device)
    return KeystreamGenerator(key)


class KeystreamGenerator:
    """Standard normals from an AES-256-CTR keystream through the Box-Muller transform.

    `sqrt(-2 ln u) * (cos 2 pi v, sin 2 pi v)` with u in (0, 1] and v in [-1/2, 1/2) (Box &
    Muller, 1958, "A Note on the Generation of Random Normal Deviates"). In float64, u and v have
    53 bits each; in float32, u has 40 bits and v 24. Where all bits of u are 0, beyond 8.6 standard
    deviations or 7.4, u gets as many bits more, and so on. If the tail ended there, a release that
    lies beyond would show for certain that the sum was another: too often where delta is tiny, or
    the noise a small part of the sensitivity.

    Args:
        key: 32 bytes.
        precision: the least precision that normals are computed in, float32 or float64.

    Raises:
        ValueError: the key is not 32 bytes.
    """

    def __init__(self, key: bytes, precision: torch.dtype = torch.float32) -> None:
        self.precision = _floating(precision)
        self._kind = f"aes-256-ctr {'float64' if precision == torch.float64 else 'float32'}"
        self._zeros = memoryview(bytes(_PAIRS * 16))
        # The cipher asks for room for one more block than it writes.
        self._bytes = bytearray(_PAIRS * 16 + _BLOCK_BYTES)
        self._words = np.frombuffer(self._bytes, dtype=np.int64)
        self._some_bits = np.empty(_PAIRS, dtype=np.int64)
        self._go_to(_checked(key), 0)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Fresh values of N(0, 1), computed on the CPU and moved to `device`."""
        count = math.prod(shape)
        computed = torch.promote_types(_floating(dtype), self.precision)
        values = torch.empty(count + count % 2, dtype=computed)
        array = values.numpy()
        for start in range(0, len(array), 2 * _PAIRS):
            self._fill(array[start : start + 2 * _PAIRS])
        shaped = (values if len(values) == count else values[:count]).view(tuple(shape))
        return shaped if device.type == "cpu" and dtype == computed else shaped.to(device, dtype)

    def state(self) -> dict[str, Any]:
        """The key, and how many bytes of its keystream were used."""
        return {"generator": self._kind, "key": self._key.hex(), "position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a position of a keystream.

        Raises:
            CheckpointError: the state is another generator's, or is damaged.
        """
        _check_kind(state, self._kind)
        try:
            self._go_to(_checked(bytes.fromhex(state["key"])), operator.index(state["position"]))
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise _damaged(problem) from problem

    def _fill(self, out: NDArray[Any]) -> None:
        pairs = len(out) // 2
        radius, angle = out[:pairs], out[pairs:]
        if out.dtype == np.float64:
            words = self._next_words(2 * pairs)
            self._fill_angle(angle, words[pairs:], bits=53)
            self._fill_radius(radius, words[:pairs], bits=53)
        else:
            words = self._next_words(pairs)
            self._fill_angle(angle, words, bits=24)
            self._fill_radius(radius, words, bits=40)
        cosine = _function("cos", angle, self._some_bits.view(out.dtype)[:pairs])
        _function("sin", angle, angle)
        angle *= radius
        radius *= cosine

    def _fill_radius(self, out: NDArray[Any], words: NDArray[np.int64], bits: int) -> None:
        """`sqrt(-2 ln u)`, u from the low bits and in (0, 1]: never 0, which has no logarithm."""
        low = np.bitwise_and(words, (1 << bits) - 1, out=self._some_bits[: len(words)])
        low += 1
        _function("log", _scaled(low, 2.0**-bits, out), out)
        if low.min() == 1:
            for place in np.flatnonzero(low == 1):
                out[place] = self._log_of_least(bits)
        out *= -2
        np.sqrt(out, out=out)

    def _log_of_least(self, bits: int) -> float:
        """`ln u` where the first bits of u are all 0; it takes further words of the keystream."""
        zeros = bits
        while not (rest := int(self._next_words(1)[0]) & ((1 << bits) - 1)):
            zeros += bits
        return math.log(rest + 1) - (zeros + bits) * math.log(2)

    def _fill_angle(self, out: NDArray[Any], words: NDArray[np.int64], bits: int) -> None:
        """Angles in [-pi, pi) from the high bits."""
        high = np.right_shift(words, 64 - bits, out=self._some_bits[: len(words)])
        _scaled(high, 2 * math.pi * 2.0**-bits, out)

    def _next_words(self, count: int) -> NDArray[np.int64]:
        self._cipher.update_into(self._zeros[: 8 * count], self._bytes)
        self._position += 8 * count
        return self._words[:count]

    def _go_to(self, key: bytes, position: int) -> None:
        blocks, rest = divmod(position, _BLOCK_BYTES)
        counter = modes.CTR(blocks.to_bytes(_BLOCK_BYTES))
        self._cipher = Cipher(algorithms.AES(key), counter).encryptor()
        self._cipher.update(bytes(rest))
        self._key, self._position = key, position


class PhiloxGenerator:
    """Standard normals from two of torch's CUDA generators, added and divided by sqrt(2).

    A CUDA generator is Philox4x32-10 (Salmon et al., 2011, "Parallel Random Numbers: As Easy as
    1, 2, 3") with a seed of 64 bits and an offset: one alone could be found by trying seeds. The
    key fills the seeds of both (128 bits) and 60 bits of each offset, so that neither trying all
    states nor meeting in the middle is feasible. A sum of two normals is exactly normal; it also
    fills in the tail, which ends at 6.8 in one alone, and hides the low bits that each has
    (Holohan & Braghin, 2021, "Secure Random Sampling in Differential Privacy").

    Philox was not designed as a cipher: no attack is known, and none has been proved absent.

    Args:
        key: 32 bytes.
        device: the CUDA device to draw on.

    Raises:
        ValueError: the key is not 32 bytes.
    """

    precision = torch.float32

    def __init__(self, key: bytes, device: torch.device) -> None:
        words = [int(word) for word in np.frombuffer(_checked(key), "<u8")]
        self._device = device
        self._generators = tuple(torch.Generator(device) for _ in range(2))
        for generator, seed, offset in zip(self._generators, words[:2], words[2:], strict=True):
            generator.manual_seed(seed)
            # Below 2**62 and a multiple of 4, as torch asks: no run comes near the end.
            generator.set_offset((offset >> 4) << 2)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Fresh values of N(0, 1), computed on the generator's device and moved to `device`."""
        total, other = (
            torch.empty(tuple(shape), dtype=_floating(dtype), device=self._device).normal_(
                generator=generator
            )
            for generator in self._generators
        )
        return total.add_(other).mul_(math.sqrt(0.5)).to(device)

    def state(self) -> dict[str, Any]:
        """The seed and offset of both generators."""
        states = [generator.get_state().numpy().tobytes().hex() for generator in self._generators]
        return {"generator": "philox", "states": states}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to the position that `state` returned.

        Raises:
            CheckpointError: the state is another generator's, or is damaged.
        """
        _check_kind(state, "philox")
        restored = tuple(torch.Generator(self._device) for _ in self._generators)
        try:
            for generator, saved in zip(restored, state["states"], strict=True):
                content = bytearray(bytes.fromhex(saved))
                generator.set_state(torch.frombuffer(content, dtype=torch.uint8))
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:
            raise _damaged(problem) from problem
        self._generators = restored


def _scaled(numbers: NDArray[np.int64], scale: float, out: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers times a scale, in the precision of `out`."""
    product: NDArray[Any] = np.multiply(numbers, scale, out=out, dtype=out.dtype)
    return product


def _function(name: str, values: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
    """By the library that takes a third of the other's time: NumPy in float32, torch in float64."""
    if out.dtype == np.float32:
        getattr(np, name)(values, out=out)
    else:
        getattr(torch, name)(torch.from_numpy(values), out=torch.from_numpy(out))
    return out


def _floating(dtype: torch.dtype) -> torch.dtype:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Noise is drawn in float32 or float64, not in {dtype}: convert the sum.")
    return dtype


def _checked(key: bytes) -> bytes:
    if len(key) != _KEY_BYTES:
        raise ValueError(
            f"A noise key must be {_KEY_BYTES} bytes, got {len(key)}. Use Streams().key('noise')."
        )
    return bytes(key)


def _check_kind(state: Mapping[str, Any], kind: str) -> None:
    if state.get("generator") != kind:
        raise CheckpointError(
            f"Noise from a {kind!r} generator cannot be resumed from the state of "
            f"{state.get('generator')!r}. Resume with the device and the `secure` setting of the "
            "run that saved it."
        )


def _damaged(problem: Exception) -> CheckpointError:
    return CheckpointError(
        f"A noise generator's state must be what state() returned, but it is damaged: {problem!r}. "
        "Use an intact checkpoint: noise drawn from elsewhere would be noise drawn again."
    )
