"""The fingerprint that a report names its data by."""

from __future__ import annotations

import numpy as np
import pytest

from deniable.data import fingerprint

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_equal_arrays_have_one_fingerprint_whatever_their_layout() -> None:
    same = fingerprint(VALUES)
    assert fingerprint(VALUES.copy(order="F")) == same
    assert fingerprint(np.repeat(VALUES, 2, axis=0)[::2]) == same
    assert fingerprint(VALUES.astype(">f4")) == same


def test_any_difference_changes_it() -> None:
    changed = VALUES.copy()
    changed[2, 3] += 1
    others = [
        (changed,),
        (VALUES.reshape(4, 3),),
        (VALUES.astype(np.float64),),
        (VALUES.view(np.int32),),
        (VALUES[:2], VALUES[2:]),
        (VALUES, VALUES[:0]),
        (VALUES[:1], VALUES[1:]),
        (VALUES[2:], VALUES[:2]),
        (np.float32(0)[None], VALUES),
        (np.array(0, np.float32), VALUES),
    ]
    prints = [fingerprint(*each) for each in [(VALUES,), *others]]
    assert len(set(prints)) == len(prints)


def test_python_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="arrays of numbers"):
        fingerprint(np.array([{}]))
