"""Every way to a convolution's per-unit gradients gives the same norms and sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deniable.gradients import convolution, outer
from deniable.gradients.convolution import Convolution

SHAPES = {
    "padded": (5, 3, 4, 3, 9, 1, 1, 1),
    "strided, even kernel": (3, 2, 4, 4, 12, 2, 0, 1),
    "dilated": (4, 2, 3, 2, 10, 1, 1, 2),
    "one channel, larger than its stride": (6, 1, 2, 5, 11, 3, 2, 1),
}


def example(n: int, ins: int, outs: int, k: int, size: int, s: int, p: int, d: int) -> Convolution:
    torch.manual_seed(0)
    x = torch.randn(n, ins, size, size, dtype=torch.float64)
    weight = torch.randn(outs, ins, k, k, dtype=torch.float64)
    grad = torch.randn_like(F.conv2d(x, weight, stride=s, padding=p, dilation=d))
    return Convolution.of(x[:, None], grad[:, None], weight.shape, s, p, d, 1)


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("way", ["gram", "grouped", "swapped", "offsets", "patches"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_agrees_with_autograd_one_unit_at_a_time(
    shape: str, way: str, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of one unit each, too, as large inputs are dealt with."""
    if pieces:
        monkeypatch.setattr(convolution, "CACHED_ELEMENTS", 1)
        monkeypatch.setattr(convolution, "GROUPED_CHANNELS", 1)
        monkeypatch.setattr(convolution, "GRAM_ELEMENTS", 1)
        monkeypatch.setattr(outer, "GRAM_ELEMENTS", 1)
    use = example(*SHAPES[shape])
    one_by_one = torch.stack(
        [
            torch.nn.grad.conv2d_weight(
                use.input[k], use.shape, use.grad[k], use.stride, use.padding, use.dilation
            )
            for k in range(len(use.input))
        ]
    )
    form = use.ways()[way]()
    weights = torch.rand(len(use.input), dtype=torch.float64)
    torch.testing.assert_close(form.squared_norms(), one_by_one.flatten(1).square().sum(1))
    torch.testing.assert_close(
        form.weighted_sum(weights), torch.einsum("n,n...->...", weights, one_by_one)
    )
    keep = torch.arange(len(one_by_one)) != 1
    for part, expected in (
        (form.dense(), one_by_one),
        (form.some(1, 3).dense(), one_by_one[1:3]),
        (form.only(keep).dense(), one_by_one * keep.view(-1, 1, 1, 1, 1)),
    ):
        torch.testing.assert_close(part.values, expected)
