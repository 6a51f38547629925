"""What is left of a noise in shares, for those who know some of them."""

from __future__ import annotations

import math

import pytest

from deniable.accounting import spent
from deniable.accounting.coalition import without_shares
from deniable.events import (
    ComposedEvent,
    GaussianEvent,
    PoissonSampledEvent,
    SelfComposedEvent,
    singles,
    unsampled,
)


def noises(event: ComposedEvent | SelfComposedEvent) -> list[float]:
    return [getattr(unsampled(each), "noise_multiplier", 0.0) for each, _ in singles(event)]


@pytest.mark.parametrize(("workers", "survives"), [(2, 0), (4, 0), (4, 1), (4, 3)])
def test_the_noise_of_those_outside_a_coalition_is_left(workers: int, survives: int) -> None:
    sigma = 1.3
    share = sigma / math.sqrt(workers - survives)
    whole = PoissonSampledEvent(0.1, GaussianEvent(share * math.sqrt(workers)))
    for told in range(workers):
        [left] = noises(without_shares(SelfComposedEvent(whole, 5), share, told))
        assert left == pytest.approx(share * math.sqrt(workers - told))
        if told <= survives:
            assert left >= sigma - 1e-12


def test_who_knows_every_share_knows_the_sum() -> None:
    event = PoissonSampledEvent(0.1, GaussianEvent(0.7 * math.sqrt(3)))
    assert noises(without_shares(SelfComposedEvent(event, 2), 0.7, 3)) == [0.0]


def test_a_larger_coalition_never_learns_less() -> None:
    event = SelfComposedEvent(PoissonSampledEvent(0.1, GaussianEvent(2.0)), 20)
    found = [spent(without_shares(event, 1.0, told), 1e-5, "rdp").epsilon for told in range(4)]
    assert found == sorted(found) and found[0] < found[-1] < math.inf


def test_a_negative_share_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        without_shares(GaussianEvent(1.0), -1.0, 1)
