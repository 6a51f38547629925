"""What counts as a number where one is asked for: Python's and NumPy's alike, and no truth values.

Importable without torch.
"""

from __future__ import annotations

from numbers import Integral, Real


def is_whole(value: object) -> bool:
    """Whether it is a whole number.

    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a real number.

    >>> is_number(3), is_number(0.5), is_number("3")
    (True, True, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)
