from __future__ import annotations

from deniable.accounting.tally import tally
from deniable.events import ComposedEvent, GaussianEvent, PoissonSampledEvent, SelfComposedEvent

STEP, OTHER = PoissonSampledEvent(0.1, GaussianEvent(1.0)), GaussianEvent(2.0)


def test_counts_multiply_through_nesting_and_add_up_over_branches() -> None:
    pair = ComposedEvent((SelfComposedEvent(STEP, 3), OTHER))
    assert tally(ComposedEvent((SelfComposedEvent(pair, 5), STEP))) == {STEP: 16, OTHER: 5}


def test_what_is_released_no_times_or_on_nobody_is_left_out() -> None:
    nobody = PoissonSampledEvent(0.0, GaussianEvent(0.0))
    assert tally(ComposedEvent((SelfComposedEvent(OTHER, 0), nobody))) == {}
