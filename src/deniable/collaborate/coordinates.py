"""The coordinates of largest size, and a form for them of few bytes.

A value takes 32 bits; where it belongs takes about 4.7 bits at a tenth of the coordinates. The
distance from one chosen coordinate to the next is written in bytes, of which 255 says "255 further,
and not there yet", and Huffman coding (zlib) brings them close to their entropy.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
FURTHER = 255


def largest(values: Tensor, share: float) -> Tensor:
    """The sorted places of the largest sizes, `ceil(share * count)` of them.

    Args:
        values: one dimension.
        share: above 0 and up to 1.

    >>> largest(torch.tensor([0.1, -3.0, 2.0, 0.0]), 0.5)
    tensor([1, 2])
    """
    count = min(len(values), int(np.ceil(share * len(values) - 1e-9)))
    return values.abs().topk(count, sorted=False).indices.sort().values


def written(places: Tensor) -> bytes:
    """Sorted places in few bytes; `read` gets them back.

    >>> read(written(torch.tensor([3, 4, 1000]))).tolist()
    [3, 4, 1000]
    """
    gaps = np.diff(places.cpu().numpy(), prepend=-1) - 1
    steps = gaps // FURTHER
    ends = np.cumsum(steps + 1) - 1
    found = np.full(int(ends[-1]) + 1 if len(ends) else 0, FURTHER, np.uint8)
    found[ends] = gaps % FURTHER
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(found.tobytes()) + coder.flush()


def read(coded: bytes) -> Tensor:
    """The places that `written` wrote."""
    found = np.frombuffer(zlib.decompress(coded), np.uint8)
    is_there = found < FURTHER
    reached = np.cumsum(np.where(is_there, found.astype(np.int64) + 1, FURTHER)) - 1
    return torch.from_numpy(reached[is_there])
