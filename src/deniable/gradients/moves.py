"""Which torch functions move values, and along which dimensions; see `order.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deniable.gradients.tree import tensors_in

# Calls that move values and do nothing else; the arguments that hold the values.
MOVING: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ["getitem", "index_select", "gather", "take_along_dim", "masked_select", "flip", "roll",
         "pack_padded_sequence", "pad_packed_sequence", "transpose", "permute", "movedim",
         "swapaxes", "t", "unsqueeze", "squeeze", "flatten", "unflatten", "view", "reshape",
         "view_as", "reshape_as", "expand_as",
         "select", "narrow", "chunk", "split", "unbind", "expand", "cat", "stack"],
        (0,),
    ),
    "setitem": (0, 2),
    **dict.fromkeys(["index_copy", "scatter", "index_add", "scatter_add"], (0, 3)),
    "index_put": (0, 2),
}  # fmt: skip

# Those of them that write over a tensor, or over a copy of it.
OVERWRITING = {"setitem", "index_copy", "index_put", "scatter"}

# Those of them that add to a tensor at the places that an index names, along one dimension: what
# writes there, and what reads there.
ADDING: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "index_add": (Tensor.index_copy, Tensor.index_select),
    "scatter_add": (Tensor.scatter, Tensor.gather),
}

# Those of them that can bring rows into another order, or leave some out.
REORDERING = (
    OVERWRITING
    | set(ADDING)
    | {
        "getitem",
        "index_select",
        "gather",
        "take_along_dim",
        "masked_select",
        "flip",
        "roll",
    }
)

# Keyword arguments that say where, and hold no values.
INDICES = {"index", "indices", "mask"}

# Calls whose result at one place depends on their arguments at that place.
POINTWISE = {
    "add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "imul", "div", "rdiv",
    "truediv", "rtruediv", "itruediv", "true_divide", "floor_divide", "neg", "abs", "pow",
    "rpow", "sqrt", "rsqrt", "square", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "sin",
    "cos", "erf", "reciprocal", "sign", "round", "floor", "ceil", "clamp", "clamp_min",
    "clamp_max", "where", "masked_fill", "lerp", "addcmul", "addcdiv", "maximum", "minimum",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "and", "or",
    "xor", "invert", "isnan", "isfinite", "nan_to_num", "relu", "relu6", "leaky_relu",
    "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign", "hardtanh",
    "hardswish", "hardsigmoid", "logsigmoid", "threshold", "dropout", "feature_dropout",
    "alpha_dropout",
    "copy", "to", "float", "double", "half", "bfloat16", "long", "int", "bool", "type", "type_as",
    "cuda", "cpu", "clone", "contiguous", "detach", "requires_grad", "zeros_like", "ones_like",
    "full_like", "empty_like", "rand_like", "randn_like",
}  # fmt: skip

# Those of them whose second tensor, if any, only lends its type.
LIKE = {"to", "type_as"}

# Calls along the dimensions that they name, which must not be the one of the rows.
ALONG = {
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp", "softmax",
    "log_softmax", "cumsum", "var", "std", "any", "all", "prod",
}  # fmt: skip

# Calls on the last two dimensions.
MATRIX = {"matmul", "bmm", "baddbmm", "scaled_dot_product_attention"}

# Calls that are told by name and numbers which dimension comes where, whatever the sizes are.
TURNING = {
    "transpose", "transpose_", "permute", "movedim", "moveaxis", "swapaxes", "swapaxes_",
    "swapdims", "swapdims_", "flatten", "unsqueeze", "unsqueeze_", "stack", "cat", "unbind",
    "einsum",
}  # fmt: skip
_TURNED = {"T", "mT", "H", "mH"}  # attributes

_NAMES = {
    name: {name, f"{name}_", f"_{name}", f"__{name}__"}
    for name in {*REORDERING, "sort", "argsort", "pack_padded_sequence"}
}
STARTS = {spelling for spellings in _NAMES.values() for spelling in spellings}


def plain_name(func: Callable[..., Any]) -> str:
    """`add` for `add_`, `__add__` and `Tensor.add`."""
    return getattr(func, "__name__", str(func)).strip("_")


def turns(func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> str:
    """Which dimensions a call is told to turn, to be compared; empty where it turns none."""
    if name == "__get__":
        asked = getattr(func, "__self__", None)
        attribute = getattr(asked, "__name__", "")
        return attribute if attribute in _TURNED else ""
    told = [each for each in args if not tensors_in(each)]
    return f"{name}{told}{[*kwargs.items()] if not tensors_in(kwargs) else ''}"


def values(name: str, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors whose values a call passes on; those that only say where are left out."""
    if name in LIKE:
        return tensors_in(args)[:1]
    if name in MOVING:
        named = [value for key, value in kwargs.items() if key not in INDICES]
        return tensors_in([args[k] for k in MOVING[name] if k < len(args)], named)
    return tensors_in(args, kwargs)


def touched(name: str, args: Any, kwargs: Any) -> list[int]:
    """The dimensions along which a call moves values."""
    rank = args[0].ndim
    if name in ("getitem", "setitem", "index_put"):
        return _indexed(args[1] if isinstance(args[1], tuple) else (args[1],), rank)
    if name == "flip":
        named = kwargs.get("dims", args[1] if len(args) == 2 else args[1:])
    elif name == "roll":
        named = kwargs.get("dims", args[2] if len(args) > 2 else None)
    elif name == "take_along_dim":
        named = kwargs.get("dim", args[2] if len(args) > 2 else None)
    elif name == "masked_select":
        named = None
    else:
        named = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if named is None:
        return list(range(rank))
    dims = named if isinstance(named, (tuple, list)) else [named]
    return [dim % max(rank, 1) for dim in dims]


def _indexed(index: tuple[Any, ...], rank: int) -> list[int]:
    """The dimensions that `x[index]` reads in an order of its own; plain slices read none so."""
    dims: list[int] = []
    dim = 0
    for k, each in enumerate(index):
        if each is Ellipsis:
            dim = rank - sum(map(_width, index[k + 1 :]))
            continue
        if not isinstance(each, (int, slice, type(None))) or (
            isinstance(each, slice) and each.step not in (None, 1)
        ):
            dims += range(dim, dim + _width(each))
        dim += _width(each)
    return dims


def _width(index: Any) -> int:
    """How many dimensions one entry of an index takes."""
    if index is None or isinstance(index, bool):
        return 0
    return index.ndim if isinstance(index, Tensor) and index.dtype == torch.bool else 1


def beside(dim: int, before: Tensor, after: Tensor, args: Any, kwargs: Any) -> int | None:
    """Where a dimension lies after a call along others; None if the call is along it."""
    named = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if named is None or isinstance(named, Tensor):
        return None
    dims = {each % before.ndim for each in (named if isinstance(named, (tuple, list)) else [named])}
    if dim in dims:
        return None
    return dim if after.ndim == before.ndim else dim - sum(each < dim for each in dims)
