"""The one registry of per-unit rules: torch function -> how its parameters' gradients factor.

A rule is a function with the signature of the torch function that it explains, preceded by the
`Use` (which knows the units) and the gradient of the output. It yields `(parameter, contribution)`
pairs; pairs for arguments that are not bound are ignored. A torch function without a rule goes
through `fallback.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deniable.gradients.contributions import Contribution, Dense, accurate
from deniable.gradients.convolution import Convolution
from deniable.gradients.layout import WHOLE, Fold
from deniable.gradients.outer import OneHot, Outer

if TYPE_CHECKING:
    from deniable.gradients.use import Use

Pairs = Iterator[tuple[Any, Contribution]]
Rule = Callable[..., Pairs]
RULES: dict[Callable[..., Any], Rule] = {}


def explains(*functions: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Register a rule for torch functions."""

    def register(rule: Rule) -> Rule:
        for function in functions:
            RULES[function] = rule
        return rule

    return register


def on_data(rule: Rule) -> Rule:
    """A layer's rule, for data as its input; a parameter there is differentiated as it stands."""

    @functools.wraps(rule)
    def guarded(use: Use, grad: Tensor, input: Any, *args: Any, **kwargs: Any) -> Pairs:
        if use.is_bound(input):
            return use.by_vmap(grad)
        return rule(use, grad, input, *args, **kwargs)

    return guarded


@explains(F.linear)
@on_data
def linear(use: Use, grad: Tensor, input: Tensor, weight: Tensor, bias: Any = None) -> Pairs:
    """`y = x W^T + b`: one outer product per position."""
    x, g = use.aligned(input, grad)
    outer = Outer(g, x, weight.shape)
    yield weight, outer
    if use.is_bound(bias):
        yield bias, outer.summed_left()


@explains(torch.addmm)
def addmm(
    use: Use, grad: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any
) -> Pairs:
    """`y = b + x W`: a linear layer stored the other way round."""
    if scales or use.is_bound(mat1) or not use.is_bound(mat2):
        yield from use.by_vmap(grad)
        return
    yield mat2, Outer(*use.aligned(mat1, grad), mat2.shape)
    if use.is_bound(input):
        yield input, Dense(reduce_to(use.units(grad, like=mat1, features=1), input.shape))


@explains(torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
def matmul(use: Use, grad: Tensor, input: Tensor, other: Tensor) -> Pairs:
    """`y = x W` with a matrix `W`; every other product is differentiated as it stands."""
    if use.is_bound(input) or other.ndim != 2 or input.ndim < 2:
        yield from use.by_vmap(grad)
        return
    yield other, Outer(*use.aligned(input, grad), other.shape)


def reduce_to(per_unit: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum what broadcasting repeated: `(n, ...)`, units split off, down to `(n, *shape)`."""
    n = per_unit.shape[0]
    extra = per_unit.ndim - 1 - len(shape)
    reduced = accurate(per_unit)
    if extra > 0:
        reduced = reduced.flatten(1, extra).sum(1)
    return reduced.sum_to_size(n, *shape)


def _broadcast_gradient(use: Use, grad: Tensor, operand: Tensor) -> Tensor:
    """The gradient of a broadcast operand, per unit: units may lie inside its own shape."""
    return reduce_to(use.layout(grad).split_keeping_rank(grad, use.n), operand.shape)


def _same_shape_after_broadcast(use: Use, operand: Tensor, grad: Tensor) -> bool:
    """Whether the operand has no extent along the units, so that its gradient just adds up."""
    layout = use.layout(grad)
    if layout is WHOLE:
        return True
    aligned = operand.ndim - grad.ndim + layout.dim
    return aligned < 0 or operand.shape[aligned] == 1


@explains(
    torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__,
)  # fmt: skip
def add(use: Use, grad: Tensor, input: Any, other: Any, *, alpha: float = 1) -> Pairs:
    """`y = a + b` with broadcasting: the gradient itself, summed over what was repeated."""
    for operand, scale in ((input, 1.0), (other, float(alpha))):
        if use.is_bound(operand):
            if not _same_shape_after_broadcast(use, operand, grad):
                yield from use.by_vmap(grad)
                return
            yield operand, Dense(_broadcast_gradient(use, grad, operand) * scale)


@explains(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
def mul(use: Use, grad: Tensor, input: Any, other: Any) -> Pairs:
    """`y = a * b` with broadcasting."""
    for operand, factor in ((input, other), (other, input)):
        if use.is_bound(operand):
            if not _same_shape_after_broadcast(use, operand, grad) or use.is_bound(factor):
                yield from use.by_vmap(grad)
                return
            yield operand, Dense(_broadcast_gradient(use, accurate(grad) * factor, operand))


@explains(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to)
def expand(use: Use, grad: Tensor, input: Tensor, *shape: Any, **options: Any) -> Pairs:
    """A parameter repeated for every unit (class tokens, position tables)."""
    yield input, Dense(_broadcast_gradient(use, grad, input))


@explains(Tensor.repeat, torch.tile, Tensor.tile)
def repeat(use: Use, grad: Tensor, input: Tensor, *repeats: Any, **options: Any) -> Pairs:
    """A parameter tiled, once for every unit along the batch."""
    layout = use.layout(grad)
    lead = grad.ndim - input.ndim
    extent = 1 if layout is WHOLE or layout.dim < lead else input.shape[layout.dim - lead]
    inside = grad.shape[layout.dim] // use.n if layout.fold is Fold.OUTER else 1
    if options or inside % extent:
        raise use.error(
            "it repeats a parameter that already has an extent along the batch. Use expand on a "
            "parameter with size 1 there"
        )
    per_unit = accurate(layout.split_keeping_rank(grad, use.n))
    for dim in range(grad.ndim):
        size = 1 if dim < lead else input.shape[dim - lead]
        blocks = per_unit.shape[dim + 1] // size
        shape = (*per_unit.shape[: dim + 1], blocks, size, *per_unit.shape[dim + 2 :])
        per_unit = per_unit.reshape(shape).sum(dim + 1)
    yield input, Dense(per_unit.reshape(use.n, *input.shape))


@explains(F.embedding)
def embedding(
    use: Use,
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Pairs:
    """A linear layer on one-hot rows, which are never formed."""
    if max_norm is not None or scale_grad_by_freq:
        raise use.error(
            "an embedding with max_norm or scale_grad_by_freq lets the units of a batch change "
            "each other's gradients. Build it without these options"
        )
    layout = use.layout(input)
    indices = layout.split(input, use.n).reshape(use.n, -1)
    g = layout.split(grad, use.n).reshape(use.n, -1, grad.shape[-1])
    if padding_idx is not None:
        padding = padding_idx % weight.shape[0]
        g = torch.where((indices == padding)[:, :, None], g.new_zeros(()), g)
    yield weight, Outer(OneHot(indices, weight.shape[0]), g, weight.shape)


@explains(F.conv1d, F.conv2d, F.conv3d)
@on_data
def convolution(
    use: Use,
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Pairs:
    """Cross-correlation in one to three dimensions."""
    x, g = _images(use, input, weight), _images(use, grad, weight, like=input)
    yield weight, Convolution.of(x, g, weight.shape, stride, padding, dilation, groups)
    if use.is_bound(bias):
        yield bias, Dense(accurate(g).flatten(3).sum(dim=(1, 3)))


@explains(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
@on_data
def transposed_convolution(
    use: Use,
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Pairs:
    """The adjoint of a convolution: input and output gradient change places."""
    x, g = _images(use, input, weight), _images(use, grad, weight, like=input)
    yield weight, Convolution.of(g, x, weight.shape, stride, padding, dilation, groups)
    if use.is_bound(bias):
        yield bias, Dense(accurate(g).flatten(3).sum(dim=(1, 3)))


def _images(use: Use, tensor: Tensor, weight: Tensor, like: Tensor | None = None) -> Tensor:
    """What a convolution took or gave, as `(n, T, channels, *spatial)`."""
    features = weight.ndim - 1
    if tensor.ndim == features:
        raise use.error(
            "a convolution was called without a batch dimension. Add one in front of its input"
        )
    units = use.units(tensor, like, features)
    return units[:, None] if units.ndim == features + 1 else units


@explains(F.layer_norm)
@on_data
def layer_norm(
    use: Use,
    grad: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Pairs:
    """`y = w * normalised(x) + b` over the last dimensions."""
    features = len(normalized_shape)
    g = accurate(use.units(grad, like=input, features=features))
    middle = tuple(range(1, g.ndim - features))
    if use.is_bound(weight):
        normalised = F.layer_norm(accurate(input), normalized_shape, None, None, eps)
        product = use.units(normalised, like=input, features=features).mul_(g)
        yield weight, Dense(product.sum(middle) if middle else product)
    if use.is_bound(bias):
        yield bias, Dense(g.sum(middle) if middle else g)


@explains(F.rms_norm)
@on_data
def rms_norm(
    use: Use,
    grad: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Any = None,
    eps: float | None = None,
) -> Pairs:
    """`y = w * x / rms(x)` over the last dimensions."""
    features = len(normalized_shape)
    g = accurate(use.units(grad, like=input, features=features))
    normalised = F.rms_norm(accurate(input), normalized_shape, None, eps)
    product = use.units(normalised, like=input, features=features).mul_(g)
    middle = tuple(range(1, g.ndim - features))
    yield weight, Dense(product.sum(middle) if middle else product)


@explains(F.instance_norm)
@on_data
def instance_norm(
    use: Use,
    grad: Tensor,
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Pairs:
    """Group normalisation with one channel a group."""
    if not use_input_stats:
        raise use.error(
            "normalisation by running statistics has no per-unit rule. Build the layer with "
            "track_running_stats=False"
        )
    yield from group_norm(use, grad, input, input.shape[1], weight, bias, eps)


@explains(F.group_norm)
@on_data
def group_norm(
    use: Use,
    grad: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Pairs:
    """`y = w * normalised(x) + b` over channels in dimension 1."""
    features = input.ndim - 1
    g = _channels(accurate(use.units(grad, like=input, features=features)), features)
    if use.is_bound(weight):
        normalised = F.group_norm(accurate(input), num_groups, None, None, eps)
        x = _channels(use.units(normalised, like=input, features=features), features)
        yield weight, Dense(torch.einsum("ntcs,ntcs->nc", g, x))
    if use.is_bound(bias):
        yield bias, Dense(g.sum(dim=(1, 3)))


def _channels(per_unit: Tensor, features: int) -> Tensor:
    """`(n, [T,] C, *spatial)` as `(n, T, C, S)`."""
    n, channels = per_unit.shape[0], per_unit.shape[-features]
    spatial = math.prod(per_unit.shape[per_unit.ndim - features + 1 :])
    return per_unit.reshape(n, -1, channels, spatial)
