"""Replacing batch normalisation, which no per-unit bound can live with."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from deniable.errors import AttachError

MOST_GROUPS = 32  # Wu & He, 2018, "Group Normalization", section 4.1


def replace_batchnorm(model: nn.Module, optimizer: Optimizer | None = None) -> list[str]:
    """Put a `GroupNorm` in the place of every batch normalisation layer, in place.

    Scale and shift stay the very same `nn.Parameter` objects, under the same names, so an optimizer
    that holds them goes on holding them; what it remembers of their gradients is cleared.

    Args:
        model: the module to change; if it is itself a batch norm, wrap it first.
        optimizer: the optimizer over its parameters, if there is one already.

    Returns:
        The names of the layers that were replaced.

    Raises:
        AttachError: no module was given.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> replace_batchnorm(model)
    ['1']
    >>> model[1]
    GroupNorm(4, 8, eps=1e-05, affine=True...)
    """
    if not isinstance(model, nn.Module):
        raise AttachError(f"replace_batchnorm changes a torch.nn.Module, got {model!r}.")
    replaced = []
    for name, module in list(model.named_modules()):
        if not isinstance(module, _BatchNorm) or not name:
            continue
        norm = nn.GroupNorm(groups_for(module.num_features), module.num_features, module.eps, False)
        norm.affine = module.affine
        norm.weight, norm.bias = module.weight, module.bias
        norm.train(module.training)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, norm)
        for parameter in norm.parameters():
            if optimizer is not None:
                optimizer.state.pop(parameter, None)
        replaced.append(name)
    return replaced


def groups_for(channels: int) -> int:
    """The most groups of at least two channels each, at most 32, that divide the channels."""
    return max(
        k for k in range(1, MOST_GROUPS + 1) if channels % k == 0 and (k == 1 or channels // k > 1)
    )
