"""The statement against a slow twin: one set of (opening, event) for each step."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deniable.events import Event, GaussianEvent
from deniable.ledger.statement import Statement

EVENTS = [GaussianEvent(1.0), GaussianEvent(2.0)]
entries = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from([None, *EVENTS]), st.integers(0, 12), st.integers(1, 6)
    ),
    max_size=8,
)


@given(entries, st.integers(0, 20))
def test_counts_are_those_of_a_table_with_a_row_for_each_step(
    rows: list[tuple[int, Event | None, int, int]], before: int
) -> None:
    statement = Statement()
    table: list[tuple[int, Event, int]] = []
    for opening, event, start, length in rows:
        if event is None:
            statement.settle(opening, start)
            table = [row for row in table if not (row[0] == opening and row[2] >= start)]
        else:
            statement.reserve(opening, event, start, start + length)
            table += [(opening, event, step) for step in range(start, start + length)]
    stated = {(event, step) for _, event, step in table}
    assert statement.steps == max((step + 1 for _, step in stated), default=0)
    assert statement.counts() == Counter(event for event, _ in stated)
    assert statement.counts(before) == Counter(event for event, step in stated if step < before)
    for event in EVENTS:
        until = statement.covered_until(event, before)
        if until is None:
            assert (event, before) not in stated
        else:
            assert all((event, step) in stated for step in range(before, until))
            assert (event, until) not in stated
