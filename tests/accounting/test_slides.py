"""The formulas of the slides are held against exact curves, and are no guarantees."""

from __future__ import annotations

import math

import pytest

from deniable.accounting import ACCOUNTANTS
from deniable.accounting.slides import DELTA, EVENT, NOISE, RATE, SLIDES, STEPS, step, strong
from oracles.composition import optimal_delta
from oracles.privacy_curves import epsilon_at, gaussian_delta, sampled_gaussian_delta


def test_what_the_slides_print_is_printed_beside_what_their_formulas_give() -> None:
    printed = {slide.accountant: slide.printed for slide in SLIDES}
    assert printed == {"basic": "12,000", "strong": "360", "amplified": "10", "moments": "1.25"}
    assert [round(slide.given.epsilon, 1) for slide in SLIDES] == [11996.3, 407.0, 8.1, 2.4]


def test_the_notes_on_the_figures_are_right() -> None:
    """Each number in a note, computed."""
    basic, strong_, amplified, moments = (slide.note for slide in SLIDES)
    exact = epsilon_at(lambda epsilon: gaussian_delta(NOISE, epsilon), DELTA)
    assert f"{exact:.2f}" == "0.93" and "0.93" in basic
    per_step = step(NOISE, DELTA).epsilon
    assert (360 / per_step) ** 2 / STEPS == pytest.approx(9, abs=0.01)
    assert f"{math.log(1 / DELTA):.1f}" == "11.5" and "11.5" in strong_
    left_out = STEPS * per_step * math.tanh(per_step / 2)
    assert f"{left_out:,.0f}" == "6,441" and "6,441" in strong_
    in_sampled = 2 * RATE * per_step * math.sqrt(STEPS * math.log(1 / (RATE * DELTA)))
    assert f"{in_sampled:.1f}" == "9.6" and "9.6" in amplified
    assert math.expm1(1.25) < 2 * 1.25 and math.expm1(1.26) > 2 * 1.26
    assert f"{ACCOUNTANTS['moments'].epsilon(EVENT, DELTA):.4f}" in moments


def test_a_step_at_low_noise_costs_more_than_the_slides_say() -> None:
    assert gaussian_delta(0.05, step(0.05, DELTA).epsilon) > 10 * DELTA


def test_many_steps_cost_more_than_the_slides_strong_composition() -> None:
    """A thousand releases at noise 1/2 are exactly one of a 31.6th of it."""
    claimed = strong(0.5, 1_000, DELTA)
    assert gaussian_delta(0.5 / math.sqrt(1_000), claimed.epsilon) > claimed.delta


def test_of_steps_known_by_epsilon_and_delta_the_printed_360_does_not_follow() -> None:
    claimed = step(NOISE, DELTA)
    assert optimal_delta(claimed.epsilon, DELTA, STEPS, 360.0) > 0.99


def test_doubling_the_rate_does_not_cover_what_sampling_leaves_at_a_large_epsilon() -> None:
    """At noise 0.5 a step costs 9.6, and a sampled one far more than 2 q times that."""
    claimed = 2 * RATE * step(0.5, DELTA).epsilon
    assert sampled_gaussian_delta(RATE, 0.5, claimed) > 10 * RATE * DELTA
