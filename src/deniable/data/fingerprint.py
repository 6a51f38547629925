"""One short name for the exact content of some arrays."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt


def fingerprint(*arrays: npt.NDArray[Any]) -> str:
    """The SHA-256, hexadecimal, of the arrays' types, shapes and values, in their order.

    Memory layout and byte order do not matter; any other difference changes it.

    Raises:
        ValueError: an array holds Python objects, which have no bytes of their own.

    >>> fingerprint(np.arange(3, dtype=np.int64))[:8]
    'c084c8b6'
    """
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.hasobject:
            raise ValueError(
                f"A fingerprint needs arrays of numbers, got dtype {array.dtype}. "
                "Convert the array to a numeric dtype first."
            )
        # np.ascontiguousarray would turn a scalar's shape () into (1,).
        plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        digest.update(json.dumps([plain.dtype.str, plain.shape]).encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
