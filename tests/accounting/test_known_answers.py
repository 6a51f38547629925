"""Published settings, to the digits that are known for them."""

from __future__ import annotations

from math import log

import pytest

from deniable.accounting import slides, spent
from deniable.accounting.moments import _log_moments
from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.units import Spent


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta", "rdp", "pld"),
    [
        (0.01, 4.0, 10_000, 1e-5, "1.0355", "0.947"),
        (256 / 60_000, 1.1, 14_040, 1e-5, "2.5944", "2.380"),
        (256 / 60_000, 0.5, 3_525, 1e-5, "12.83", "11.05"),
        (0.005, 0.6, 200, 1e-6, "4.716", "3.794"),
    ],
)
def test_known_answers_to_the_digits_printed(
    rate: float, noise: float, steps: int, delta: float, rdp: str, pld: str
) -> None:
    event = SelfComposedEvent(PoissonSampledEvent(rate, GaussianEvent(noise)), steps)
    for name, known in {"rdp": rdp, "pld": pld}.items():
        digits = len(known.split(".")[1])
        assert f"{spent(event, delta, name).epsilon:.{digits}f}" == known


@pytest.mark.parametrize(
    ("given", "digits", "known", "delta"),
    [
        (slides.step(4.0, 1e-5), 4, "1.1996", 1e-5),
        (slides.basic(4.0, 10_000, 1e-5), 0, "11996", 0.1),
        (slides.strong(4.0, 10_000, 1e-5), 0, "407", 0.1),
        (slides.amplified(0.01, 4.0, 10_000, 1e-5), 1, "8.1", 1e-3),
    ],
)
def test_the_formulas_of_the_slides(given: Spent, digits: int, known: str, delta: float) -> None:
    assert f"{given.epsilon:.{digits}f}" == known
    assert given.delta == pytest.approx(delta)


def test_the_integer_moments_accountant_of_the_slides_setting() -> None:
    """With the 32 moments that the paper looks at; more of them change nothing here."""
    event = SelfComposedEvent(PoissonSampledEvent(0.01, GaussianEvent(4.0)), 10_000)
    assert f"{spent(event, 1e-5, 'moments').epsilon:.4f}" == "1.2586"
    alphas = 10_000 * _log_moments(event.event)[:32]  # type: ignore[arg-type]
    assert f"{min((alphas + log(1e5)) / range(1, 33)):.4f}" == "1.2586"


def test_both_accountants_answer_for_the_relation_of_adding_or_removing_one() -> None:
    """Under replacement, one release at noise 1 costs what adding does at noise 1/2.

    Pitfall: privacy 14.
    """
    added = spent(GaussianEvent(1.0), 1e-5, "pld").epsilon
    replaced = spent(GaussianEvent(0.5), 1e-5, "pld").epsilon
    assert added == pytest.approx(4.377, abs=1e-3)
    assert replaced == pytest.approx(9.997, abs=1e-3)
    assert added <= spent(GaussianEvent(1.0), 1e-5, "rdp").epsilon < 5
