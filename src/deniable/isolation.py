"""`check`: does each row's gradient depend on that row alone, and is it what autograd says?

Differential privacy by clipping assumes that a row's gradient has nothing of the other rows in it.
Layers that normalise over the batch, losses that compare rows, and means over a number of tokens
that the rows decide together all break that, silently. Here one row is replaced, and everything
that belongs to another row must stay as it was.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from deniable.errors import CaptureError
from deniable.gradients import Capture
from deniable.gradients.layout import candidates
from deniable.gradients.undisturbed import leave_out_dropout

Loss = Callable[..., Tensor]
TOLERANCE = 1e-8  # of float64 gradients, relative to the largest row's


@dataclass(frozen=True)
class Checked:
    """A model and loss that passed.

    Attributes:
        rows: how many rows were looked at.
        parameters: how many trainable parameters.
        largest_error: the worst relative difference from autograd on one row at a time; None where
            the model draws random numbers, which one row alone would draw differently.
    """

    rows: int
    parameters: int
    largest_error: float | None


def check(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    loss_reduction: str = "mean",
    rows: int = 6,
) -> Checked:
    """Test that rows are isolated from each other, and that per-row gradients are right.

    The model is copied and taken to float64; nothing of it changes. Give a batch whose rows differ
    as they do in training: in length, in padding, in labels.

    Args:
        model: the module to be trained, in the mode in which it is trained.
        loss: called as `loss(model, *batch)`, or as `loss(model, batch)` where the batch is one
            tensor or a dictionary; returns what you would call `backward()` on. What is computed
            is in float64: a loss that is a module is copied and taken to it, too; tensors of your
            own that it uses should follow the model (`weights.to(outputs)`).
        batch: what your loop gets: tensors with the rows in dimension 0, or a dictionary of them.
        loss_reduction: how the loss combines rows, as `attach` will be told: "mean" or "sum".
        rows: how many rows of the batch to look at.

    Raises:
        CaptureError: naming the module (or the loss) in which rows meet, or the parameter whose
            gradient differs from autograd's; or the loss cannot be computed in float64.

    >>> inputs, labels = torch.randn(8, 4), torch.arange(8) % 2
    >>> def loss(model, inputs, labels):
    ...     return nn.functional.cross_entropy(model(inputs), labels)
    >>> check(nn.Linear(4, 2), loss, (inputs, labels)).rows
    6
    """
    _check_given(model, loss, batch, loss_reduction)
    twin = copy.deepcopy(model).double()
    leave_out_dropout(twin)  # one row alone would draw other numbers
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss).double()
    few = _each(_arguments(batch), lambda value: _in_double(value[:rows]))
    lengths = {len(each) for each in tree_leaves(few) if isinstance(each, Tensor) and each.ndim}
    n = min(lengths, default=0)
    if n < 2 or len(lengths) > 1:
        raise CaptureError(
            "check needs a batch of at least 2 rows, which lie along dimension 0 of each of its "
            f"tensors; got {sorted(lengths) or 'no tensor'}."
        )
    with _precision_explained():
        try:
            gradients = _isolated_gradients(twin, loss, few, n, loss_reduction)
        except CaptureError:
            for unit in (n - 1, 0):
                _name_the_guilty(twin, loss, few, unit, n)
            raise
        count = sum(each.numel() for each in twin.parameters() if each.requires_grad)
        return Checked(n, count, _compare_with_autograd(twin, loss, few, n, gradients))


def _check_given(model: object, loss: object, batch: object, loss_reduction: object) -> None:
    """What was given is of the kind that is looked at.

    Raises:
        CaptureError: what came in its place.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"check(model, loss, batch) needs a torch Module, got {model!r}.")
    if not any(each.requires_grad for each in model.parameters()):
        raise CaptureError("The model has no trainable parameter, and so no gradient to look at.")
    if not callable(loss) or loss in _PLAIN_LOSSES or isinstance(loss, _Loss):
        raise CaptureError(
            "check calls the loss as loss(model, *batch), with the model in it: give a function "
            "such as `def loss(model, inputs, labels): return F.cross_entropy(model(inputs), "
            f"labels)`, not {getattr(loss, '__name__', loss)}."
        )
    if not isinstance(batch, (Tensor, Mapping, list, tuple)):
        raise CaptureError(
            "check needs one batch as your loop gets it: a tensor, a dictionary, or a tuple or "
            f"list of tensors; got an object of type {type(batch).__name__}. Of a loader, give "
            "next(iter(loader))."
        )
    if loss_reduction not in ("mean", "sum"):
        raise CaptureError(f"loss_reduction must be 'mean' or 'sum', got {loss_reduction!r}.")


_PLAIN_LOSSES = (F.cross_entropy, F.mse_loss, F.nll_loss, F.l1_loss,
                 F.binary_cross_entropy_with_logits)  # fmt: skip


def _arguments(batch: Any) -> list[Any]:
    """What the loss is called with after the model."""
    if isinstance(batch, Mapping):
        return [dict(batch)]
    return [batch] if isinstance(batch, Tensor) else list(batch)


def _each(batch: list[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    """The batch with every tensor of rows changed, however deep it lies."""
    changed: list[Any] = tree_map(
        lambda leaf: change(leaf) if isinstance(leaf, Tensor) and leaf.ndim else leaf, batch
    )
    return changed


def _in_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


@contextmanager
def _precision_explained() -> Iterator[None]:
    """Turns torch's complaint that precisions differ into an error with its mend."""
    try:
        yield
    except CaptureError:
        raise
    except RuntimeError as problem:
        if not re.search(r"scalar type|dtype", str(problem)):
            raise
        raise CaptureError(
            "check computes in float64, and the loss or the model uses a tensor of another "
            f"precision that is neither a parameter nor in the batch: {problem}. Let it follow "
            "what it meets, as in weights.to(outputs), or make it a buffer of the model."
        ) from problem


def _moved(batch: list[Any], unit: int, n: int) -> list[Any]:
    """The batch with one row replaced by its neighbour, and floating values shaken besides."""

    def move(value: Tensor) -> Tensor:
        moved = value.clone()
        rows = [k for k in range(n) if not torch.equal(value[k], value[unit])]
        if rows:
            moved[unit] = value[rows[0]]
        if moved.is_floating_point():
            moved[unit] += 0.5 * torch.rand_like(moved[unit])
        return moved

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return _each(batch, move)


@contextmanager
def _same_draws(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


# -- forward: which module lets rows meet --------------------------------------------------------


def _name_the_guilty(model: nn.Module, loss: Loss, batch: list[Any], unit: int, n: int) -> None:
    before = _watch(model, loss, batch)
    after = _watch(model, loss, _moved(batch, unit, n))
    for (name, when, values), (other, _, changed) in zip(before, after, strict=False):
        if name != other:
            return
        for a, b in zip(values, changed, strict=False):
            if a.shape == b.shape and not _isolated(a, b, unit, n):
                raise CaptureError(_guilty(model, name, when))


def _watch(model: nn.Module, loss: Loss, batch: list[Any]) -> list[tuple[str, str, list[Tensor]]]:
    """What went into and came out of every module, in the order in which it happened."""
    seen: list[tuple[str, str, list[Tensor]]] = []

    def keep(name: str, when: str, values: Any) -> None:
        leaves = [
            leaf.detach().clone() for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor)
        ]
        seen.append((name, when, leaves))

    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(lambda _, args, name=name: keep(name, "into", args))
        )
        handles.append(
            module.register_forward_hook(lambda _, __, out, name=name: keep(name, "out of", out))
        )
    state = copy.deepcopy(model.state_dict())
    try:
        with _same_draws():
            loss(model, *batch)
    finally:
        model.load_state_dict(state)
        for handle in handles:
            handle.remove()
    return seen


def _isolated(before: Tensor, after: Tensor, unit: int, n: int) -> bool:
    """Whether the other rows hold what they held, along some dimension, in whatever order."""
    layouts = candidates(before, n)
    if not (layouts and before.is_floating_point() and before.numel()):
        return True
    allowed = 1e-9 * (1 + before.abs().max())
    for layout in layouts:
        mine, now = (layout.split(each, n).reshape(n, -1) for each in (before, after))
        found = torch.stack([((row - now).abs() <= allowed).all(1).any() for row in mine])
        found[unit] = True
        if bool(found.all()):
            return True
    return False


def _guilty(model: nn.Module, name: str, when: str) -> str:
    module, mend = model.get_submodule(name), "Keep the rows of a batch apart"
    if when == "out of":
        mend = _mend(module) or mend
        where = (
            f"in module '{name}' ({type(module).__name__})" if name else "in the model's forward"
        )
    elif name:
        parent = name.rpartition(".")[0]
        where = f"in the forward of '{parent}'" if parent else "in the model's own forward"
        where += f", before module '{name}'"
    else:
        where = "before the model is called"
    return (
        f"The rows of a batch meet {where}: one row was replaced, and values of another changed. "
        f"No bound per row covers that. {mend}."
    )


def _mend(module: nn.Module) -> str | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "deniable.replace_batchnorm(model, optimizer) puts GroupNorm in its place"
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and not module.batch_first:
        return "It takes dimension 0 for time; batch_first=True says that rows come first"
    return None


# -- backward: which loss does, and whether the numbers are right --------------------------------


def _per_row(
    capture: Capture, loss: Loss, batch: list[Any], n: int, reduction: str
) -> dict[str, Tensor]:
    """One gradient per row and parameter, `(n, *shape)`, as training would see them."""
    model, state = capture.model, copy.deepcopy(capture.model.state_dict())
    try:
        capture.open(n)
        with _same_draws():
            value = loss(model, *batch)
            if not isinstance(value, Tensor) or not value.requires_grad:
                raise CaptureError(
                    "The loss must be a tensor that hangs on the model's outputs, got "
                    f"{value!r}: nothing of it reaches a parameter. Return what backward() is "
                    "called on, without .item() or detach()."
                )
            if value.ndim:
                raise CaptureError(
                    f"The loss must be one number, got shape {tuple(value.shape)}. For losses per "
                    "row (private.backward), give check their sum and loss_reduction='sum'."
                )
            value.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            found = capture.collect(scale=n if reduction == "mean" else 1.0)
            return {name: found.instantiate(name).clone() for name in capture.parameters}
    finally:
        capture.discard()
        model.load_state_dict(state)


def _isolated_gradients(
    model: nn.Module, loss: Loss, batch: list[Any], n: int, reduction: str
) -> dict[str, Tensor]:
    """The gradients of every row, none of which depends on another row.

    Raises:
        CaptureError: one does, or they cannot be formed.
    """
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    capture = Capture(model, trainable)
    try:
        gradients = _per_row(capture, loss, batch, n, reduction)
        for unit in range(n):
            _check_gradients(capture, loss, batch, unit, n, reduction, gradients)
        return gradients
    finally:
        capture.remove()


def _check_gradients(
    capture: Capture, loss: Loss, batch: list[Any], unit: int, n: int, reduction: str,
    before: dict[str, Tensor],
) -> None:  # fmt: skip
    after = _per_row(capture, loss, _moved(batch, unit, n), n, reduction)
    others = [k for k in range(n) if k != unit]
    scale = max(float(each.abs().max()) for each in before.values())
    worst = max(float((before[k][others] - after[k][others]).abs().max()) for k in before)
    if worst > TOLERANCE * scale:
        raise CaptureError(
            "The rows of a batch meet in the loss: one row was replaced, and another row's "
            f"gradient changed by {worst / scale:.1%} of the largest. A mean over what the rows "
            "decide together (tokens that are not ignore_index, weights of classes) or a loss that "
            "compares rows does that. Reduce within each row first, and give private.backward one "
            "loss per row."
        )


def _compare_with_autograd(
    model: nn.Module, loss: Loss, batch: list[Any], n: int, found: dict[str, Tensor]
) -> float | None:
    """The worst difference, relative to the largest gradient of the parameter's row."""
    if _draws_random_numbers(model, loss, batch):
        return None
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    worst = 0.0
    for row in range(n):
        model.zero_grad()
        one = _each(batch, lambda value, row=row: value[row : row + 1])  # type: ignore[misc]
        loss(model, *one).backward()  # type: ignore[no-untyped-call]
        alone = {
            name: torch.zeros_like(each) if each.grad is None else each.grad.to_dense()
            for name, each in trainable.items()
        }
        size = math.sqrt(sum(float(each.square().sum()) for each in alone.values()))
        for name, expected in alone.items():
            error = float((found[name][row] - expected).norm())
            if error > 1e-6 * size:
                raise CaptureError(_wrong(name, found[name][row], expected, n))
            worst = max(worst, error / size if size else 0.0)
    return worst


def _wrong(name: str, found: Tensor, expected: Tensor, n: int) -> str:
    if torch.allclose(found, expected * n):
        return (
            "The loss is the sum over rows, and was taken for their mean. Attach with "
            "loss_reduction='sum'."
        )
    if torch.allclose(found * n, expected):
        return (
            "The loss is the mean over rows, and was taken for their sum. Attach with "
            "loss_reduction='mean'."
        )
    return (
        f"Parameter '{name}': a row's gradient differs from autograd's on that row alone by "
        f"{float((found - expected).norm()):.3g}, at a norm of {float(expected.norm()):.3g}. The "
        "model may treat a batch of one differently; if not, this is a bug worth reporting."
    )


def _draws_random_numbers(model: nn.Module, loss: Loss, batch: list[Any]) -> bool:
    values = []
    for seed in (1, 2):
        with _same_draws(seed):
            values.append(float(loss(model, *batch).detach()))
    return values[0] != values[1]
