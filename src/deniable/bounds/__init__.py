"""Bounds: per-unit gradients in, one sum with a sensitivity out. One file a bound."""

from deniable.bounds.base import Bound, Observed
from deniable.bounds.clip import Clip

__all__ = ["Bound", "Clip", "Observed"]
