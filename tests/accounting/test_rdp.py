from __future__ import annotations

import logging

import pytest

from deniable.accounting import ACCOUNTANTS
from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent

RDP = ACCOUNTANTS["rdp"]


def test_divergences_that_round_to_nothing_still_count() -> None:
    """A million of them at noise 10^4 must not be free. Pitfall: users 9."""
    tiny = PoissonSampledEvent(0.5, GaussianEvent(1e4))
    assert RDP.epsilon(SelfComposedEvent(tiny, 10**6), 1e-9) > 0.1


def test_orders_that_do_not_converge_are_bounded_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event = PoissonSampledEvent(128 / 1437, GaussianEvent(1.0))
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert 0 < RDP.epsilon(event, 1e-5) < 5
    assert caplog.records == []


def test_low_orders_that_do_not_converge_are_made_good() -> None:
    """At a large epsilon the best order is low, and dp-accounting cannot sum it below rate 1."""
    whole, sampled, half = (
        RDP.epsilon(SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(1.0)), 20_000), 1e-7)
        for rate in (1.0, 0.77, 0.5)
    )
    assert half < sampled <= whole
