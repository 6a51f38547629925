"""Bounds: per-unit gradients in, one sum with a sensitivity out. One file a bound."""

from deniable.bounds.adaptive import AdaptiveClip
from deniable.bounds.automatic import AutomaticClip
from deniable.bounds.base import Bound, Gradients, Limited, Observed
from deniable.bounds.chain import Chain
from deniable.bounds.clip import Clip
from deniable.bounds.per_layer import PerLayerClip
from deniable.bounds.tanh import Tanh

__all__ = [
    "AdaptiveClip",
    "AutomaticClip",
    "Bound",
    "Chain",
    "Clip",
    "Gradients",
    "Limited",
    "Observed",
    "PerLayerClip",
    "Tanh",
]
