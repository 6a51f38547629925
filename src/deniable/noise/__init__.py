"""Noise scaled to a sensitivity, and the generators that it is drawn from."""

from deniable.noise.gaussian import Gaussian
from deniable.noise.generators import (
    KeystreamGenerator,
    NoiseGenerator,
    PhiloxGenerator,
    noise_generator,
)

__all__ = [
    "Gaussian",
    "KeystreamGenerator",
    "NoiseGenerator",
    "PhiloxGenerator",
    "noise_generator",
]
