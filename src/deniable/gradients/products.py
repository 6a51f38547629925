"""Products of large matrices, by the library that multiplies them fastest on this processor.

On a CPU torch multiplies float32 matrices by MKL, which keeps its AVX-512 code for Intel's
processors: on others oneDNN, which torch brings along for convolutions, takes about half the time.
Where torch is told not to use oneDNN (`torch.backends.mkldnn.enabled = False`), nothing is.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Below so many multiplications the call costs more than it saves.
LARGE = 1 << 24


def transposed_product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """`a b^T`, and `plus` if given: `(m, k)`, `(n, k)` and `(m, n)` to `(m, n)`.

    To be called where no gradients are recorded; in the precision of the matrices, if norms and
    sums are (see `exactly`).
    """
    if a.shape[0] * b.numel() < LARGE or not _are_for_onednn(a, b):
        return torch.mm(a, b.t()) if plus is None else torch.addmm(plus, a, b.t())
    product: Tensor
    if plus is not None:
        product = _linear.binary(a, plus, b, None, "add")
    elif b.shape[0] >= a.shape[0]:
        product = _linear(a, b, None, "none", [], "")
    else:  # it copies the first if that does not lie row by row: be it the smaller
        product = _linear(b, a, None, "none", [], "").t().contiguous()
    return product


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, of which only the input has a gradient."""
    if input.numel() * len(weight) < LARGE:
        return F.linear(input, weight, bias)
    given = (input, weight) if bias is None else (input, weight, bias)
    fits = input.shape[-1:] == weight.shape[1:] and (bias is None or bias.shape == weight.shape[:1])
    if not (fits and input.ndim > 1 and _are_for_onednn(*given)):
        return F.linear(input, weight, bias)
    result: Tensor = _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    """A linear layer by oneDNN."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`input weight^T + bias`."""
        ctx.save_for_backward(weight)
        output: Tensor = _linear(input, weight, bias, "none", [], "")
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The input's gradient."""
        (weight,) = ctx.saved_tensors
        return _linear(grad, weight.t(), None, "none", [], ""), None, None


def _are_for_onednn(*tensors: Tensor) -> bool:
    """Whether oneDNN multiplies such matrices in the precision that they have, and more quickly."""
    usual = all(
        type(each) is Tensor and each.dtype == torch.float32 and each.device.type == "cpu"
        and each.layout == torch.strided
        for each in tensors
    )  # fmt: skip
    as_they_are = torch._C._get_mkldnn_enabled() and not torch.is_autocast_enabled("cpu")
    return usual and as_they_are and _onednn_is_faster()


@cache
def _onednn_is_faster() -> bool:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and torch._C.has_mkl and not _is_intel() and _agrees()


def _is_intel() -> bool:
    about = Path("/proc/cpuinfo")
    return "Intel" in (about.read_text() if about.exists() else platform.processor())


def _agrees() -> bool:
    """Whether the operator, which torch has for its compiler, is there and still means this."""
    a, b, plus = torch.arange(6.0).view(2, 3), torch.ones(4, 3), torch.ones(2, 4)
    try:
        found = _linear(a, b, None, "none", [], ""), _linear.binary(a, plus, b, None, "add")
    except (RuntimeError, AttributeError, TypeError):
        return False
    expected = a @ b.t()
    return bool((found[0] == expected).all() and (found[1] == expected + plus).all())


_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
# What is called in place of a torch function, on parameters that are detached.
BY_LIBRARY: dict[Callable[..., Any], Callable[..., Any]] = {F.linear: linear}
