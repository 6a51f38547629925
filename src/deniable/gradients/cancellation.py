"""Gradients whose parts cancel: what rounding can hide of them counts as if it were there.

A unit's gradient may be the small difference of large parts: of positions with the same input and
opposite gradients, say. A norm from Gram matrices is then off by what rounds off the squares of the
parts, and a sum of weighted parts by what rounds off the parts, beyond every clipping threshold.
Whoever makes data can make such units. So no norm counts for less than a share of what it would be
if nothing cancelled; the larger norm scales the parts down, and their rounding with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from deniable.gradients.contributions import Contribution, Kept, accurate
from deniable.gradients.convolution import Convolution
from deniable.gradients.outer import Outer, Several
from deniable.lengths import squared_lengths

# Shares of the squared size of the parts, in units of the dtype's precision: what is squared and
# added up in Gram matrices is off by a few such units; a sum of parts, by one of their sizes. Of a
# unit with T unrelated parts the squared norm is 1 / T: far more, for as many as there ever are.
_SQUARED, _SUMMED = 64.0, 0.125


def squared_norms(contribution: Contribution) -> Tensor:
    """The squared norm of each unit's gradient, shape `(n,)`; where its parts cancel, more."""
    norms, sizes = contribution.squared_norms(), _squared_sizes(contribution)
    if sizes is None:
        return norms
    units = _SUMMED if isinstance(contribution, Kept) else _SQUARED
    return torch.maximum(norms, sizes * (torch.finfo(norms.dtype).eps * units))


def _squared_sizes(contribution: Contribution) -> Tensor | None:
    """Squares of the norms that gradients could have if nothing cancelled; None where it cannot."""
    of = _OF.get(type(contribution))
    return None if of is None else of(contribution)


def _of_outer(outer: Outer) -> Tensor | None:
    return None if outer.positions == 1 else outer.squared_sizes()


def _of_convolution(convolution: Convolution) -> Tensor:
    kernel = math.prod(convolution.shape[2:])
    return kernel * _square(convolution.input) * _square(convolution.grad)


def _of_several(several: Several) -> Tensor:
    sizes = [(part, _squared_sizes(part)) for part in several.parts]
    roots = [(part.squared_norms() if size is None else size).sqrt() for part, size in sizes]
    return reduce(torch.add, roots).square()


_OF: dict[type, Callable[[Any], Tensor | None]] = {
    Outer: _of_outer,
    Convolution: _of_convolution,
    Several: _of_several,
    Kept: lambda kept: _squared_sizes(kept.factors),
}


def _square(values: Tensor) -> Tensor:
    return squared_lengths(accurate(values).flatten(1))
