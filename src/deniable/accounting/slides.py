"""The ladder as the slides on private deep learning climb it, by their formulas and figures.

Source: the slides to Abadi et al., 2016, "Deep Learning with Differential Privacy". They show how
much each step of the argument saves, and leave out constants: what their formulas give is NOT a
guarantee. Guarantees are what the accountants state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.units import Spent

RATE, NOISE, STEPS, DELTA = 0.01, 4.0, 10_000, 1e-5
EVENT = SelfComposedEvent(PoissonSampledEvent(RATE, GaussianEvent(NOISE)), STEPS)


def step(noise: float, delta: float) -> Spent:
    """One step: `sqrt(2 log(1 / delta)) / noise`.

    >>> round(step(4.0, 1e-5).epsilon, 4)
    1.1996
    """
    return Spent(math.sqrt(2 * math.log(1 / delta)) / noise, delta)


def basic(noise: float, steps: int, delta: float) -> Spent:
    """Basic composition: `(T e, T d)` of steps at (e, d)."""
    return Spent(steps * step(noise, delta).epsilon, steps * delta)


def strong(noise: float, steps: int, delta: float) -> Spent:
    """Strong composition: `(e sqrt(T log(1 / d)), T d)`."""
    grown = math.sqrt(steps * math.log(1 / delta))
    return Spent(step(noise, delta).epsilon * grown, steps * delta)


def amplified(rate: float, noise: float, steps: int, delta: float) -> Spent:
    """Strong composition of sampled steps: `(2 q e sqrt(T log(1 / d)), q T d)`."""
    found = strong(noise, steps, delta)
    return Spent(2 * rate * found.epsilon, rate * found.delta)


def moments(rate: float, noise: float, steps: int, delta: float) -> Spent:
    """What the moments accountant comes to: `(2 q e sqrt(T), d)`."""
    return Spent(2 * rate * step(noise, delta).epsilon * math.sqrt(steps), delta)


@dataclass(frozen=True)
class Slide:
    """One slide.

    Attributes:
        accountant: who answers the same question rigorously.
        formula: as the slide writes it.
        given: what the formula gives.
        printed: the epsilon that the slide prints.
        note: where the two, or the formula and the theorem, part.
    """

    accountant: str
    formula: str
    given: Spent
    printed: str
    note: str


SLIDES = (
    Slide(
        "basic",
        "T ε",
        basic(NOISE, STEPS, DELTA),
        "12,000",
        "The slides round 11,996. Their epsilon of one step, 1.2, leaves out a factor 1.25 inside "
        "the logarithm, and the theorem behind it stops at epsilon 1; here the exact epsilon of a "
        "step is even smaller, 0.93.",
    ),
    Slide(
        "strong",
        "ε √(T log 1/δ)",
        strong(NOISE, STEPS, DELTA),
        "360",
        "The formula gives 407; 360 would take a logarithm of 9 where log 1/δ is 11.5. It leaves "
        "out a factor √2 and the term T ε (e^ε - 1)/(e^ε + 1), which for steps at 1.2 is 6,441 and "
        "dwarfs the rest: of steps about which only (ε, δ) is known, nothing near 360 follows.",
    ),
    Slide(
        "amplified",
        "2qε √(T log 1/δ)",
        amplified(RATE, NOISE, STEPS, DELTA),
        "10",
        "The formula gives 8.1. With the delta of a sampled step, qδ, in the logarithm it gives "
        "9.6, which rounds to 10. The epsilon of a sampled step, 2qε, holds up to ε = 1.25 only.",
    ),
    Slide(
        "moments",
        "2qε √T",
        moments(RATE, NOISE, STEPS, DELTA),
        "1.25",
        "The formula gives 2.4. The 1.25 comes from computing the moments: 1.2586, here as there.",
    ),
)
