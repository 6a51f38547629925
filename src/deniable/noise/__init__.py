"""Noise scaled to a sensitivity, private choices, and the generators that noise is drawn from."""

from deniable.noise.exponential import Exponential
from deniable.noise.gaussian import Gaussian
from deniable.noise.generators import (
    KeystreamGenerator,
    NoiseGenerator,
    PhiloxGenerator,
    noise_generator,
)
from deniable.noise.laplace import Laplace
from deniable.noise.per_unit import per_unit

__all__ = [
    "Exponential",
    "Gaussian",
    "KeystreamGenerator",
    "Laplace",
    "NoiseGenerator",
    "PhiloxGenerator",
    "noise_generator",
    "per_unit",
]
