"""Separate streams of randomness for separate purposes, all from one secret.

Importable without torch.
"""

from __future__ import annotations

import hashlib
import hmac
import operator
import secrets
from typing import Final

import numpy as np

PURPOSES: Final = ("sampling", "noise", "initialisation", "audit", "components")


class Streams:
    """One independent stream of random numbers for each purpose.

    A purpose's key is HMAC-SHA256(secret, purpose), as in HKDF-Expand (RFC 5869): who learns one
    stream learns nothing about another, and drawing more from one moves no other.

    Guarantees:
        - Without a seed the secret is 256 bits from the operating system. No global generator
          (`random`, `numpy.random`, `torch`) is read, seeded or advanced.
        - The same seed gives the same streams, on every machine.

    A seed makes a run reproducible and its noise known: **with `seed=` the noise is not private
    against anyone who knows, or can guess, the seed**. `seeded` lets every report say so.

    Args:
        seed: a whole number of at least 0, or None for a secret from the operating system.

    Raises:
        TypeError: the seed is not a whole number.
        ValueError: the seed is negative.

    >>> streams = Streams(seed=7)
    >>> bool(streams.numpy("sampling").random() == Streams(seed=7).numpy("sampling").random())
    True
    >>> streams.key("sampling") == streams.key("noise")
    False
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seeded = seed is not None
        self._secret = secrets.token_bytes(32) if seed is None else _secret_from(seed)

    def key(self, purpose: str, rank: int = 0) -> bytes:
        """The purpose's key: 32 bytes, the same at every call.

        Args:
            purpose: what it is for.
            rank: of the process that it is for, where several train one model.

        Raises:
            ValueError: the purpose is not one of `PURPOSES`.
        """
        if purpose not in PURPOSES:
            raise ValueError(f"purpose must be one of {', '.join(PURPOSES)}; got {purpose!r}.")
        name = f"{purpose} {rank}" if rank else purpose
        return hmac.digest(self._secret, name.encode(), "sha256")

    def numpy(self, purpose: str) -> np.random.Generator:
        """A generator at the beginning of the purpose's stream, with 255 bits of state.

        Ask once and keep it: a second call starts the same stream again. Its
        `bit_generator.state` holds only strings and whole numbers, ready for JSON.

        Raises:
            ValueError: the purpose is not one of `PURPOSES`.
        """
        return numpy_generator(self.key(purpose))

    def __repr__(self) -> str:
        """Says where the streams come from, never the secret."""
        return f"Streams({'seeded' if self.seeded else 'from the operating system'})"


def numpy_generator(key: bytes) -> np.random.Generator:
    """A generator at the beginning of a key's stream."""
    # The default pool of 4 words would squeeze the key into 128 bits.
    entropy = np.random.SeedSequence(int.from_bytes(key), pool_size=8)
    return np.random.Generator(np.random.PCG64DXSM(entropy))


def derived_seed(seed: int | None, *labels: str | int) -> int | None:
    """A seed for one of several that must not draw alike; None where there is none.

    >>> derived_seed(7, "worker", 1) == derived_seed(7, "worker", 2)
    False
    """
    if seed is None:
        return None
    secret = _secret_from(seed)
    return int.from_bytes(hmac.digest(secret, "/".join(map(str, labels)).encode(), "sha256"))


def _secret_from(seed: int) -> bytes:
    try:
        if isinstance(seed, bool):
            raise TypeError
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number or None, got {seed!r}.") from None
    if number < 0:
        raise ValueError(f"seed must be at least 0, got {number}. Leave it out for a secret one.")
    return hashlib.sha256(f"deniable seed {number}".encode()).digest()
