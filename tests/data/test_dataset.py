"""What every loader returns."""

from __future__ import annotations

import numpy as np
import pytest

from deniable.data import Arrays
from deniable.errors import DataError


def test_inputs_and_targets_must_have_one_length() -> None:
    with pytest.raises(DataError, match=r"\(3, 2\) and \(4,\)"):
        Arrays(np.zeros((3, 2)), np.zeros(4))
