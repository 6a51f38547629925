from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deniable import words
from deniable.units import Spent


@given(st.floats(min_value=1e-3, max_value=1e5))
def test_a_printed_bound_never_understates(value: float) -> None:
    printed = float(words.rounded_up(value).replace(",", ""))
    assert value * (1 - 1e-11) <= printed <= value * 1.001 + 1e-12


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (2.99979, "3.000"),
        (3.0, "3.000"),
        (0.1, "0.1000"),
        (2.0001, "2.001"),
        (12345.6, "12,350"),
        (0.0, "0.000"),
        (math.inf, "∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_a_bound_is_rounded_up(value: float | None, printed: str) -> None:
    assert words.rounded_up(value) == printed


@given(st.floats(min_value=0, max_value=1))
def test_a_count_of_people_never_understates(rate: float) -> None:
    assert 100 * rate * (1 - 1e-11) <= float(words.out_of_hundred(rate)) <= 100 * rate + 0.1001


def test_an_epsilon_that_promises_nothing_is_not_called_a_limit() -> None:
    limit, figures = words.meaning(Spent(epsilon=20.0, delta=1e-5))
    assert "promises next to nothing" in limit
    assert "at most 100 in every 100" in figures


@pytest.mark.parametrize("words_for", [words.percent, words.significant, words.duration])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_a_number_is_a_dash(words_for: object, value: float | None) -> None:
    assert words_for(value) == "–"  # type: ignore[operator]
