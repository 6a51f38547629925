"""Processes that train one model together, each a rank of gloo."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from benchmarks.processes import Training
from deniable.collaborate import Place

SECONDS = 60.0


def crew(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns on each of `size` ranks of gloo; an error there is one here.

    Args:
        size: how many processes.
        work: of a module that can be imported.
        arguments: the same for all.
    """
    found = Training(size - 1, _member, work, arguments).start().ended(SECONDS)
    return [found[rank] for rank in range(size)]


def _member(place: Place, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    import torch.distributed as dist

    warnings.simplefilter("ignore")  # of torch's own, about gloo and FSDP
    dist.init_process_group(
        "gloo", store=place.store, rank=place.rank, world_size=place.world_size,
        timeout=timedelta(seconds=SECONDS / 2),
    )  # fmt: skip
    result = work(*arguments)  # an error is told before the others lose this rank
    dist.destroy_process_group()
    return result
