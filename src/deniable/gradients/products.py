"""Products of large matrices, by the library that multiplies them fastest on this processor.

On a CPU torch multiplies float32 matrices by MKL, which keeps its AVX-512 code for Intel's
processors: on others oneDNN, which torch brings along for convolutions, takes about half the time.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Below so many multiplications the call costs more than it saves.
LARGE = 1 << 23


def transposed_product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """`a b^T`, and `plus` if given: `(m, k)`, `(n, k)` and `(m, n)` to `(m, n)`.

    To be called where no gradients are recorded; in the precision of the matrices, if norms and
    sums are (see `exactly`).
    """
    if a.shape[0] * a.shape[1] * b.shape[0] < LARGE or not _by_onednn(a):
        return torch.mm(a, b.t()) if plus is None else torch.addmm(plus, a, b.t())
    product: Tensor
    if plus is not None:
        product = _linear.binary(a, plus, b, None, "add")
    elif b.shape[0] >= a.shape[0]:
        product = _linear(a, b, None, "none", [], "")
    else:  # it copies the first if that does not lie row by row: be it the smaller
        product = _linear(b, a, None, "none", [], "").t().contiguous()
    return product


def _by_onednn(a: Tensor) -> bool:
    usual = a.dtype == torch.float32 and a.device.type == "cpu"
    return usual and torch._C._get_mkldnn_enabled() and _onednn_is_faster()


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
