"""Which models and optimizers can be made private, and which parameters of them are bound."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from deniable import words
from deniable.bounds import Bound
from deniable.canaries import Canaries
from deniable.errors import AttachError, DeniableWarning
from deniable.grouping import Unit
from deniable.ledger import Ledger
from deniable.plan import Plan

_MENDS = {
    "model": (nn.Module, "The order is attach(model, optimizer, plan)"),
    "optimizer": (
        Optimizer,
        "Make one of the model's parameters, such as torch.optim.SGD(model.parameters(), lr=0.1); "
        "the order is attach(model, optimizer, plan)",
    ),
    "plan": (
        Plan,
        "Make one: Plan(examples=..., batch_size=..., epochs=..., epsilon=..., delta=...)",
    ),
    "bound": (
        Bound,
        "Clip(1.0) keeps each gradient's norm to 1; it is what holds where bound is left out",
    ),
    "unit": (
        Unit,
        "User(ids) protects people with all their rows; where unit is left out, rows are protected",
    ),
    "ledger": (
        Ledger | str | Path | None,
        "A path keeps the record in a file; where ledger is left out, it is in memory",
    ),
    "run_id": (str | None, "It is the run's name in its ledger; where left out, a fresh one"),
    "secure": (bool, "True draws noise in float64"),
    "canaries": (
        Canaries | None,
        "Canaries(model) are units of an audit, which `deniable audit` explains",
    ),
}
"""What `attach` must be given under each name, and what to do about anything else."""


def check_arguments(plan: Plan, **given: object) -> None:
    """Refuses what `attach` was given of another type; warns of a delta that means little.

    Raises:
        AttachError: what was expected, what came, and the mend.
    """
    for name, value in {"plan": plan, **given}.items():
        expected, mend = _MENDS[name]
        if not isinstance(value, expected):
            came = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
            if len(came) > 60:
                came = f"an object of type {type(value).__name__}"
            raise AttachError(f"{name} must be {_in_words(expected)}, got {came}. {mend}.")
    if plan.noise_multiplier and plan.delta * plan.examples >= 1:
        warnings.warn(
            "delta is the probability with which epsilon may fail to hold. The plan's is "
            f"{plan.delta:g}, not below 1 / examples = {words.scientific(1 / plan.examples)}, so "
            "that publishing one example at random would count as private. Take one well below.",
            DeniableWarning,
            stacklevel=3,
        )


def _in_words(expected: type | UnionType) -> str:
    """A type, or all of a union, with the package that a class is of."""
    if isinstance(expected, UnionType):
        return " or ".join(_in_words(each) for each in expected.__args__)
    if expected is NoneType:
        return "None"
    home = expected.__module__.partition(".")[0]
    return f"a {expected.__name__}" if home == "builtins" else f"a {home} {expected.__name__}"


def bound_parameters(model: nn.Module, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """The trainable parameters, by name, once everything about them is in order.

    Raises:
        AttachError: what stands in the way, and the mend.
    """
    if any(_is_ours(hook) for hook in optimizer._optimizer_step_pre_hooks.values()):
        raise AttachError(
            "This optimizer is attached already: both sessions would wait for each step. Call "
            "private.detach() on the earlier one first."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise AttachError(
            "LBFGS evaluates the loss several times a step, each of which would be a release. "
            "Use a first-order optimizer such as SGD, Adam or Adagrad."
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise AttachError(
                f"{f'{name!r}' if name else 'The model'} was made by torch.jit, whose code cannot "
                "be followed example by example. Attach the model that it was made of, and script "
                "or trace that after detach(); torch.compile works."
            )
        if isinstance(module, _BatchNorm) and (module.training or _trainable(module)):
            raise AttachError(
                f"'{name}' is a {type(module).__name__}: its batch statistics mix the examples of "
                "a batch, so no bound per example exists. deniable.replace_batchnorm(model, "
                "optimizer) puts GroupNorm in its place; or freeze it: eval() and "
                "requires_grad_(False)."
            )
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            raise AttachError(
                f"'{name}' is a {type(module).__name__} with running statistics: they are means "
                "over the data without noise, and would be saved with the model. Build it with "
                "track_running_stats=False."
            )
    in_model = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in in_model.items()}
    optimized = [each for group in optimizer.param_groups for each in group["params"]]
    strangers = sum(id(each) not in names for each in optimized)
    if strangers:
        raise AttachError(
            f"The optimizer holds {strangers} parameters that are not the model's. Attach one "
            "module that owns every parameter the optimizer updates and whose forward uses them "
            "(of two networks in a row, nn.Sequential(first, second))."
        )
    held = {id(each) for each in optimized}
    left_out = [
        name for name, each in in_model.items() if each.requires_grad and id(each) not in held
    ]
    if left_out:
        raise AttachError(
            f"Parameter '{left_out[0]}' ({len(left_out)} in all) is trainable but not in the "
            "optimizer, so its gradient would stay unbounded in .grad. Give it to the optimizer, "
            "or freeze it with requires_grad_(False)."
        )
    bound = {name: each for name, each in in_model.items() if each.requires_grad}
    if not bound:
        raise AttachError("The model has no trainable parameter; there is nothing to train.")
    for name, each in bound.items():
        if isinstance(each, nn.parameter.UninitializedParameter):
            raise AttachError(
                f"Parameter '{name}' has no shape yet: it belongs to a lazy layer. Run the model "
                "once, on made-up data of the right shape, before you make the optimizer."
            )
        if not each.is_floating_point():
            raise AttachError(f"Parameter '{name}' must be real floating point, got {each.dtype}.")
        if _has_hooks(each):
            raise AttachError(
                f"Parameter '{name}' has a hook, which would never run: no gradient reaches a "
                "parameter without noise. Remove it; to hold entries still, multiply the "
                "parameter by a mask in forward, or freeze it with requires_grad_(False)."
            )
    for each in optimized:
        each.grad = None
    return bound


def _has_hooks(parameter: nn.Parameter) -> bool:
    """Whether the user hangs something on a parameter's gradient."""
    mine = parameter._backward_hooks or {}
    after = getattr(parameter, "_post_accumulate_grad_hooks", None) or {}
    return any(not _is_ours(hook) for hook in (*mine.values(), *after.values()))


def _is_ours(hook: object) -> bool:
    """Whether another session, which may be attached to the same model, set it."""
    return str(getattr(hook, "__module__", "")).startswith("deniable.")


class Unchanged:
    """Notices parameters that were swapped, added, frozen or unfrozen after `attach`.

    Args:
        model: as it was attached.
        optimizer: likewise.
        bound: the bound parameters, by name.
        in_calls: what may stand in a bound parameter's place in its module, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        bound: Mapping[str, nn.Parameter],
        in_calls: Mapping[str, nn.Parameter],
    ) -> None:
        self._optimizer = optimizer
        self._same = {id(each): id(bound[name]) for name, each in in_calls.items()}
        self._modules = list(model.named_modules())
        self._members = [self._members_of(module) for _, module in self._modules]
        self._frozen = [
            (name, each) for name, each in model.named_parameters() if not each.requires_grad
        ]
        self._bound = list(bound.items())
        self._held = self._in_optimizer()

    def check(self) -> None:
        """Compare with what was attached: identities alone, quick enough for every step.

        Raises:
            AttachError: naming the parameter.
        """
        for (name, module), members in zip(self._modules, self._members, strict=True):
            if self._members_of(module) != members:
                raise self._changed(f"A parameter or layer of '{name or 'the model'}'", "replaced")
        for name, parameter in self._frozen:
            if parameter.requires_grad or parameter.grad is not None:
                raise self._changed(f"Parameter '{name}'", "unfrozen")
        for name, parameter in self._bound:
            if not parameter.requires_grad:
                raise self._changed(f"Parameter '{name}'", "frozen")
        if self._in_optimizer() != self._held:
            raise self._changed("The optimizer's list of parameters", "changed")

    def _members_of(self, module: nn.Module) -> list[int]:
        """The parameters and layers of one module, by identity."""
        members = [*map(id, module._parameters.values()), *map(id, module._modules.values())]
        return [self._same.get(each, each) for each in members] if self._same else members

    def _in_optimizer(self) -> list[int]:
        return [id(each) for group in self._optimizer.param_groups for each in group["params"]]

    @staticmethod
    def _changed(what: str, how: str) -> AttachError:
        return AttachError(
            f"{what} was {how} after attach, so it would train without a bound or not at all. "
            "detach(), change the model, then attach again."
        )


def _trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
