"""Products of matrices: the same numbers by whichever library, in the precision asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.gradients import exactly, products
from deniable.gradients.outer import Outer
from deniable.gradients.products import transposed_product

LARGE = [(64, 300, 512), (512, 300, 64), (1, 4100, 2050), (2050, 4100, 1)]
SMALL = [(3, 4, 5), (0, 4, 5), (3, 4, 0), (3, 0, 5)]


@pytest.fixture(params=["torch's own", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each library in turn, whatever this processor is."""
    if request.param == "oneDNN" and not products._agrees():
        pytest.skip("this torch has no such operator")
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: request.param == "oneDNN")
    monkeypatch.setattr(products, "LARGE", 1 << 22)
    yield request.param


def relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", LARGE + SMALL, ids=str)
def test_a_product_is_what_float64_says(
    shape: tuple[int, int, int], turned: tuple[bool, bool], dtype: torch.dtype, library: str
) -> None:
    m, k, n = shape
    a, b = (
        torch.randn(k, size, dtype=dtype).t() if flip else torch.randn(size, k, dtype=dtype)
        for size, flip in zip((m, n), turned, strict=True)
    )
    plus = torch.randn(m, n, dtype=dtype)
    before = plus.clone()
    expected = a.double() @ b.double().t()
    for found, wanted in (
        (transposed_product(a, b), expected),
        (transposed_product(a, b, plus), expected + plus),
    ):
        assert found.dtype == dtype and found.shape == (m, n)
        assert relative(found, wanted) < 1e-5
    assert torch.equal(plus, before), "what is added must stay as it is"


def test_what_is_not_finite_stays_where_it_belongs(library: str) -> None:
    a, b = torch.randn(64, 300), torch.randn(512, 300)
    a[3], b[5] = float("nan"), float("inf")
    lost = ~transposed_product(a, b).isfinite()
    assert lost[3].all() and lost[:, 5].all() and int(lost.sum()) == 512 + 64 - 1


def test_a_sum_is_not_rounded_to_fewer_digits_than_its_gradients(library: str) -> None:
    """Where torch is told to shorten products, sums of gradients are not."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    left, right, weights = torch.randn(8, 64, 100), torch.randn(8, 64, 200), torch.rand(8)
    expected = torch.einsum("n,ntl,ntr->lr", *(e.double() for e in (weights, left, right)))
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        with exactly(left.device):
            found = Outer(left, right, torch.Size((100, 200))).weighted_sum(weights)
    finally:
        setting.fp32_precision = before
    assert relative(found, expected) < 1e-6


@pytest.mark.parametrize("order", ["units first", "positions first"])
@pytest.mark.parametrize(("wide", "narrow"), [(200, 100), (100, 200), (150, 150)])
def test_a_weighted_sum_does_not_depend_on_how_factors_lie(
    order: str, wide: int, narrow: int, library: str
) -> None:
    """Each factor in either order; the product of both is always the same."""
    weights = torch.rand(8)
    left, right = torch.randn(8, 64, wide), torch.randn(8, 64, narrow)
    expected = torch.einsum("n,ntl,ntr->lr", *(e.double() for e in (weights, left, right)))
    lies = [left, left.transpose(0, 1).contiguous().transpose(0, 1)]
    other = right if order == "units first" else right.transpose(0, 1).contiguous().transpose(0, 1)
    for each in lies:
        found = Outer(each, other, torch.Size((wide, narrow))).weighted_sum(weights)
        assert found.is_contiguous() and relative(found, expected) < 1e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8, 300), (600, 300), (30, 20, 300), (6, 5, 20, 300)], ids=str)
def test_a_linear_layer_and_its_input_gradient_are_what_float64_says(
    shape: tuple[int, ...], bias: bool, library: str
) -> None:
    """Any number of dimensions, lying in any order; one time with few rows, which stay torch's."""
    weight, shift = torch.randn(512, 300), torch.randn(512) if bias else None
    for values in (
        torch.randn(shape),
        torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))),
    ):
        inputs = [values.to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64)]
        found = products.linear(inputs[0], weight, shift)
        expected = F.linear(inputs[1], weight.double(), None if shift is None else shift.double())
        assert found.shape == expected.shape and relative(found, expected) < 1e-5
        arriving = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(found, inputs[0], arriving.float())
        (exact,) = torch.autograd.grad(expected, inputs[1], arriving)
        assert gradient.shape == values.shape and relative(gradient, exact) < 1e-5


def test_under_autocast_a_linear_layer_is_torch_s_own(library: str) -> None:
    x, weight = torch.randn(600, 300), torch.randn(512, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(products.linear(x, weight), F.linear(x, weight))


class Marked(Tensor):
    """A tensor of a user's own."""


@pytest.mark.parametrize(
    ("weight", "bias", "error"),
    [
        (torch.randn(512, 200), None, "shapes cannot be multiplied"),
        (torch.randn(512, 300).double(), None, "dtype"),
        (torch.randn(512, 300), torch.randn(512).double(), "dtype"),
        (torch.randn(512, 300), torch.randn(7), "size"),
    ],
    ids=["columns", "weight's dtype", "bias's dtype", "bias's size"],
)
def test_what_does_not_fit_is_torch_s_own_error(
    weight: Tensor, bias: Tensor | None, error: str, library: str
) -> None:
    with pytest.raises(RuntimeError, match=error):
        products.linear(torch.randn(600, 300), weight, bias)


def test_tensors_of_a_class_of_their_own_keep_it(library: str) -> None:
    x, weight = torch.randn(600, 300).as_subclass(Marked), torch.randn(512, 300)
    assert type(products.linear(x, weight)) is Marked


def test_an_operator_that_means_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is torch's own for its compiler, so that a later torch may change it."""

    class Changed:
        binary = staticmethod(lambda a, plus, b, *_: a @ b.t() - plus)

        def __call__(self, a: Tensor, b: Tensor, *_: object) -> Tensor:
            return a @ b.t()

    monkeypatch.setattr(products, "_linear", Changed())
    assert not products._agrees()
    monkeypatch.setattr(products, "_linear", None)
    assert not products._agrees()


def test_nothing_goes_to_onednn_where_torch_is_told_not_to_use_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_linear", None)
    a, b = torch.randn(64, 300), torch.randn(512, 300)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert torch.equal(transposed_product(a, b), torch.mm(a, b.t()))
    assert torch.equal(products.linear(a, b), F.linear(a, b))
