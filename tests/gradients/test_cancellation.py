"""Units whose gradient is a small difference of large parts move the sum by the bound at most."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deniable.bounds import Clip
from deniable.gradients.contributions import Contribution, Kept
from deniable.gradients.convolution import Convolution
from deniable.gradients.outer import Outer, Several
from deniable.gradients.per_unit import PerUnitGradients

SHAPE = torch.Size((4, 3))
Form = Callable[[Tensor, Tensor], Contribution]


def outer(grad: Tensor, x: Tensor) -> Outer:
    return Outer(grad, x, SHAPE)


def convolved(grad: Tensor, x: Tensor) -> Convolution:
    """Both positions as pixels of a convolution with a kernel of 1."""
    x, grad = (each.transpose(1, 2)[:, None] for each in (x, grad))
    return Convolution.of(x, grad, torch.Size((4, 3, 1)), 1, 0, 1, 1)


FORMS: dict[str, Form] = {
    "gram": outer,
    "instantiate": lambda grad, x: outer(grad, x).dense(),
    "streamed": lambda grad, x: Kept(outer(grad, x), 12),
    "used twice": lambda grad, x: Several(
        [outer(grad[:, :1], x[:, :1]), outer(grad[:, 1:], x[:, 1:])]
    ),
    "convolution, gram": convolved,
    "convolution, streamed": lambda grad, x: Kept(convolved(grad, x), 12),
}


def clipped(form: Form, grad: Tensor, x: Tensor) -> Tensor:
    contribution = form(grad, x)
    weight = torch.zeros(SHAPE).view(getattr(contribution, "shape", SHAPE))
    gradients = PerUnitGradients(len(x), {"weight": weight}, {"weight": contribution})
    bounded, _ = Clip(1.0)(gradients)
    return bounded.sums["weight"].double()


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("name", FORMS)
def test_parts_that_cancel_hide_nothing_from_the_bound(name: str, size: float) -> None:
    """By Gram matrices alone the worst of these moves a sum by ten times the bound and more."""
    form = FORMS[name]
    for seed in range(40):
        torch.manual_seed(seed)
        x, grad = torch.randn(8, 2, 3), torch.randn(8, 2, 4)
        x[0, 1], grad[0] = x[0, 0], size * grad[0]
        rest = size * 10 ** float(torch.empty(()).uniform_(-8, -2))
        grad[0, 1] = rest * torch.randn(4) - grad[0, 0]
        moved = clipped(form, grad, x) - clipped(form, grad[1:], x[1:])
        assert float(moved.norm()) < 1.05


@pytest.mark.parametrize("name", FORMS)
def test_parts_that_do_not_cancel_are_clipped_as_ever(name: str) -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(8, 2, 3), torch.randn(8, 2, 4)
    each = torch.einsum("ntr,ntl->nrl", grad.double(), x.double())
    expected = (each / each.flatten(1).norm(dim=1).clamp(min=1)[:, None, None]).sum(0)
    found = clipped(FORMS[name], grad, x).view(SHAPE)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
