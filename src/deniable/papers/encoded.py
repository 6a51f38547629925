"""Pictures in results: a byte a value, in hexadecimal.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deniable.audit.pictures import pixels


def encode(pictures: npt.NDArray[Any]) -> list[str]:
    """Each picture, with values in [0, 1], as text.

    >>> encode(np.array([[[[0.0, 1.0]]]]))
    ['00ff']
    """
    return [(each.clip(0, 1) * 255).round().astype(np.uint8).tobytes().hex() for each in pictures]


def image(encoded: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """What `encode` made text of, as sheets have it.

    Args:
        encoded: one picture.
        shape: channels, height, width.

    >>> image("00ff", (1, 1, 2))
    array([[0., 1.]])
    """
    return pixels(np.frombuffer(bytes.fromhex(encoded), np.uint8).reshape(shape) / 255)
