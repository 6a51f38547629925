"""Many workers, one model, one guarantee; on torch.distributed.

A coordinator holds the global model and computes no gradient. Each round, every worker downloads
the parameters, forms a bounded sum of gradients on its own part of the data, and uploads; the
coordinator merges and steps (Xia et al., "Gradient-Based Differential Privacy Optimizer for Deep
Learning Model Using Collaborative Training Mode", section III.C). Who adds the noise, and what is
guaranteed against whom, is the mode: `Central`, `Shares` or `Local`.
"""

import sys
from types import ModuleType
from typing import Any

from deniable.collaborate.coordinator import Coordinator, Round
from deniable.collaborate.parts import members, sizes_by
from deniable.collaborate.start import Place, collaborate, local_plan
from deniable.collaborate.worker import Worker
from deniable.modes import MODES, Central, Local, Mode, Shares, mode_from_json

__all__ = [
    "MODES",
    "Central",
    "Coordinator",
    "Local",
    "Mode",
    "Place",
    "Round",
    "Shares",
    "Worker",
    "collaborate",
    "local_plan",
    "members",
    "mode_from_json",
    "sizes_by",
]


class _Callable(ModuleType):
    """This package, which is also the function: `deniable.collaborate(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Coordinator | Worker:
        return collaborate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
