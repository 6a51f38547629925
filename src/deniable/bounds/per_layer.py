"""Clipping each layer's share of a gradient by itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

from deniable.bounds.base import Bound, Gradients, Limited
from deniable.bounds.clip import checked_norm
from deniable.bounds.views import Scaled
from deniable.errors import AttachError
from deniable.units import Sensitivity


class PerLayerClip(Bound):
    """Each layer clipped to a threshold of its own: `g_l / max(1, |g_l| / C_l)`.

    McMahan et al., 2018, "Learning Differentially Private Recurrent Language Models", section 2.4.

    Formal guarantee: the sum moves by at most `sqrt(sum_l C_l^2)` in L2 when one unit is added or
    removed. A unit whose gradient is not finite anywhere contributes zero everywhere.

    Args:
        norm: one threshold C for the whole gradient, of which each of L layers gets `C / sqrt(L)`;
            or thresholds by name, of parameters or of modules, which must cover every parameter
            (the longest name that fits one counts).
        layer: what one threshold is split over: "parameter", or "module" (weight and bias
            together). Named thresholds say that themselves.

    Raises:
        ValueError: a norm is not a finite number of at least 1e-10, or the layer is no known word.

    >>> clip = PerLayerClip({"0": 3.0, "1": 4.0})
    >>> clip.sensitivity(dict.fromkeys(["0.weight", "0.bias", "1.weight"], torch.zeros(1))).value
    5.0
    """

    def __init__(
        self,
        norm: float | Mapping[str, float],
        layer: Literal["parameter", "module"] = "parameter",
    ) -> None:
        if layer not in ("parameter", "module"):
            raise ValueError(f"layer must be 'parameter' or 'module', got {layer!r}.")
        self.norm: float | dict[str, float] = (
            {name: checked_norm("PerLayerClip", each) for name, each in norm.items()}
            if isinstance(norm, Mapping)
            else checked_norm("PerLayerClip", norm)
        )
        self.layer = layer

    def __repr__(self) -> str:
        return f"PerLayerClip({self.norm}, layer={self.layer!r})"

    def thresholds(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """The threshold of each layer, by the layer's name.

        Raises:
            AttachError: a name is no parameter's and no module's, or a parameter has no threshold.
        """
        layers = dict.fromkeys(self._layer(name) for name in parameters)
        if not isinstance(self.norm, dict):
            return dict.fromkeys(layers, self.norm / math.sqrt(max(1, len(layers))))
        strangers = [name for name in self.norm if name not in layers]
        if strangers:
            raise AttachError(
                f"PerLayerClip has a threshold for {strangers[0]!r}, which is the name of no "
                f"trainable parameter or module here, or covers none that a longer name does not. "
                f"The parameters are {', '.join(parameters)}."
            )
        return {name: self.norm[name] for name in layers}

    def _layer(self, name: str) -> str:
        """The name of the layer that a parameter is of."""
        if not isinstance(self.norm, dict):
            return name if self.layer == "parameter" else name.rpartition(".")[0]
        found = name
        while found not in self.norm:
            found, dot, _ = found.rpartition(".")
            if not dot:
                raise AttachError(
                    f"PerLayerClip has no threshold for parameter {name!r}, so that it would stay "
                    "unbounded. Name it, or the module that it is in."
                )
        return found

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: `sqrt(sum_l C_l^2)`."""
        return Sensitivity(math.hypot(*self.thresholds(parameters).values()))

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {"name": "PerLayerClip", "norm": self.norm, "layer": self.layer}

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        if isinstance(self.norm, dict):
            return "clipped layer by layer, each to a norm of its own"
        return f"clipped {self.layer} by {self.layer}, to norm {self.norm:g} in all"

    def limit(self, gradients: Gradients) -> Limited:
        """Each layer of each gradient, scaled to its threshold where it is longer."""
        squares = gradients.squared_norms()
        thresholds = self.thresholds(gradients.parameters)
        layers: defaultdict[str, list[str]] = defaultdict(list)
        for name in squares:
            layers[self._layer(name)].append(name)
        factors: dict[str, Tensor] = {}
        for layer, names in layers.items():
            norms = reduce(torch.add, (squares[name] for name in names)).sqrt()
            factors |= dict.fromkeys(names, thresholds[layer] / norms.clamp(min=thresholds[layer]))
        view = Scaled(gradients, factors)
        norms = gradients.norms()
        return Limited(view, torch.where(norms > 0, view.norms() / norms, 1).clamp(max=1))
