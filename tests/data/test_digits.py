"""The digits that need no download."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from deniable.data import load


def test_the_split_is_stratified_and_never_moves() -> None:
    """A test set that moved would compare accuracies on different images."""
    digits = load("digits")
    assert digits.train.inputs.shape == (1437, 1, 8, 8)
    assert digits.test.inputs.shape == (360, 1, 8, 8)
    shares = np.bincount(digits.test.targets) / np.bincount(digits.train.targets)
    assert np.all(np.abs(shares - 0.25) < 0.02)
    assert digits.fingerprint == "5cd954eac0e5c9f5987c33c814897061bd65118d82476627e6ad7c1a427e6b1e"


def test_the_values_are_float32_from_0_to_1_and_labels_int64() -> None:
    digits = load("digits")
    assert digits.train.inputs.dtype == np.float32
    assert digits.train.targets.dtype == np.int64
    assert (digits.train.inputs.min(), digits.train.inputs.max()) == (0, 1)


def test_importing_data_imports_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, deniable.data; print({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
