"""Per-unit gradients of one call by `torch.func`: correct for any function, fast for none.

Only the one call is differentiated again, on the inputs and output gradients that it met.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from deniable.errors import CaptureError
from deniable.gradients.contributions import Contribution, Dense, Kept, accurate
from deniable.gradients.outer import OneHot, Outer

if TYPE_CHECKING:
    from deniable.gradients.parameters import Derived
    from deniable.gradients.use import Use

Pairs = Iterator[tuple[Any, Contribution]]

# Elements of per-unit gradients that one chunk may form at once, beside the result itself.
_CHUNK_ELEMENTS = 1 << 24

_EMBEDDING_OPTIONS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")

_TRANSPOSES = {
    torch.t, Tensor.t, Tensor.t_, Tensor.T.__get__, Tensor.mT.__get__,  # type: ignore[attr-defined]
}  # fmt: skip


def per_unit_gradients(use: Use, position: int, grad: Tensor) -> Pairs:
    """`(parameter, Dense)` for every bound argument of a use, from the gradient of one output."""
    leaves, structure = tree_flatten((use.args, use.kwargs))
    exact = [_accurate(leaf) for leaf in leaves]
    bound = [k for k, leaf in enumerate(leaves) if use.is_bound(leaf)]
    unique = list({id(leaves[k]): k for k in bound}.values())
    batched: dict[int, Tensor] = {}
    for k, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and k not in bound and use.forward.carries_rows(leaf):
            batched[k] = use.layout(leaf).split_keeping_rank(exact[k], use.n)
    layout = use.layout(grad)
    grads = layout.split_keeping_rank(grad, use.n) if batched else layout.own(grad, use.n)

    def call(values: tuple[Tensor, ...], slices: dict[int, Tensor]) -> Tensor:
        by_id = {id(leaves[k]): value for k, value in zip(unique, values, strict=True)}
        filled = [
            by_id[id(leaf)] if k in bound else slices.get(k, exact[k])
            for k, leaf in enumerate(leaves)
        ]
        args, kwargs = tree_unflatten(filled, structure)
        result = use.function(*args, **kwargs)
        output: Tensor = result[position] if isinstance(result, (tuple, list)) else result
        return output

    def one_unit(slices: dict[int, Tensor], one: Tensor) -> tuple[Tensor, ...]:
        values = tuple(exact[k] for k in unique)
        output, pull, *_ = torch.func.vjp(lambda *each: call(each, slices), *values)
        if not batched:  # a parameter that is there for every row
            one = torch.where(one, grad, grad.new_zeros(()))
        return tuple(pull(one.to(output.dtype)))

    largest = max(leaves[k].numel() for k in unique)
    largest = largest if batched else max(largest, grad.numel())
    mapped = torch.func.vmap(
        one_unit, randomness="error", chunk_size=max(1, _CHUNK_ELEMENTS // largest)
    )
    try:
        with _without_speed_warnings():
            gradients = mapped(batched, grads)
    except RuntimeError as problem:
        raise use.error(
            "it has no per-unit rule, and torch.func could not differentiate it row by row "
            f"({str(problem).splitlines()[0]}). Write the same computation with functions whose "
            "batch dimension is explicit"
        ) from problem
    for k, gradient in zip(unique, gradients, strict=True):
        yield leaves[k], Dense(gradient)


def through(
    derived: Derived, contribution: Contribution, n: int, slot: Callable[[object], Any]
) -> Pairs:
    """Push the per-unit gradients of a derived parameter back to what it was computed from."""
    if isinstance(contribution, Kept):
        contribution = contribution.factors
    if derived.function in _TRANSPOSES or _is_matrix_transpose(derived):
        parent = derived.args[0]
        if isinstance(contribution, Outer) and isinstance(contribution.left, Tensor):
            yield parent, Outer(contribution.right, contribution.left, parent.shape)
            return
    if _is_plain_lookup(derived):
        index, table = derived.args[:2]
        rows = contribution.dense().values.reshape(n, -1, table.shape[1])
        # To look at the indices costs little on the CPU; elsewhere it would wait for the device.
        if index.is_cpu and torch.equal(index.flatten(), torch.arange(len(table))):
            yield table, Dense(rows)  # each row of the table, once
        else:
            repeated = OneHot(index.flatten().expand(n, -1), table.shape[0])
            yield table, Outer(repeated, rows, table.shape)
        return
    leaves, structure = tree_flatten((derived.args, derived.kwargs))
    bound = {id(leaf): k for k, leaf in enumerate(leaves) if slot(leaf) is not None}

    exact = [_accurate(leaf) for leaf in leaves]

    def compute(*values: Tensor) -> Tensor:
        by_id = dict(zip(bound, values, strict=True))
        filled = [by_id.get(id(leaf), each) for leaf, each in zip(leaves, exact, strict=True)]
        args, kwargs = tree_unflatten(filled, structure)
        result = derived.function(*args, **kwargs)
        value: Tensor = result if derived.output is None else result[derived.output]
        return value

    parents = [leaves[k] for k in bound.values()]
    with _drawing(derived):
        value, pull, *_ = torch.func.vjp(compute, *(exact[k] for k in bound.values()))
    values = contribution.dense().values.to(value.dtype)
    if len(values) != n:
        raise CaptureError(f"Expected {n} per-unit gradients, got {len(values)}.")
    with _without_speed_warnings():
        gradients = torch.func.vmap(pull)(values)
    for parent, gradient in zip(parents, gradients, strict=True):
        yield parent, Dense(gradient)


def random_state(device: torch.device) -> Tensor:
    """That of torch's generator on a device."""
    on_gpu = device.type == "cuda"
    return torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()


@contextmanager
def _drawing(derived: Derived) -> Iterator[None]:
    """The same random numbers as when the function ran in forward (a weight's dropout, say)."""
    if derived.random is None:
        yield
        return
    device = derived.value.device
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        if on_gpu:
            torch.cuda.set_rng_state(derived.random, device)
        else:
            torch.set_rng_state(derived.random)
        yield


def _accurate(leaf: Any) -> Any:
    """Half precision, autocast's included, is differentiated again in float32."""
    if not isinstance(leaf, Tensor):
        return leaf
    return accurate(leaf.detach()) if leaf.is_floating_point() else leaf.detach()


@contextmanager
def _without_speed_warnings() -> Iterator[None]:
    """Where torch lacks a batching rule it loops, which it says once: slow, and correct."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _is_plain_lookup(derived: Derived) -> bool:
    """An embedding of constant indices (a table of positions), without any further option."""
    if derived.function is not F.embedding or len(derived.args) < 2:
        return False
    options = dict(zip(_EMBEDDING_OPTIONS, derived.args[2:], strict=False)) | derived.kwargs
    padded = options.get("padding_idx") is not None
    return not (padded or options.get("max_norm") or options.get("scale_grad_by_freq"))


def _is_matrix_transpose(derived: Derived) -> bool:
    named = derived.function in (torch.transpose, Tensor.transpose)
    if not named or derived.value.ndim != 2 or derived.kwargs:
        return False
    return sorted(dim % 2 for dim in derived.args[1:]) == [0, 1]
