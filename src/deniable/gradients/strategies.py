"""Which way to a norm: the choice between rank one, Gram and instantiate."""

from __future__ import annotations

from deniable.gradients.contributions import Contribution, OneHot, Outer
from deniable.gradients.convolution import Convolution


def reduced(contribution: Contribution) -> Contribution:
    """The contribution in the form in which its norm and sum are cheapest."""
    if isinstance(contribution, Convolution):
        return contribution.dense()
    if isinstance(contribution, Outer) and contribution.positions > 1:
        return contribution if _gram_is_cheaper(contribution) else contribution.dense()
    return contribution


def _gram_is_cheaper(outer: Outer) -> bool:
    if isinstance(outer.left, OneHot):
        return True
    left, right = outer.left_size, outer.right.shape[2]
    return outer.positions * (left + right) <= left * right
