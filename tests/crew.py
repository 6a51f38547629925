"""Processes that train one model together, forked from one server that has torch loaded already."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

SECONDS = 60.0
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "deniable.session", "torch.distributed.fsdp"])


def crew(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns on each of `size` ranks of gloo; an error there is one here.

    Args:
        size: how many processes.
        work: of a module that can be imported.
        arguments: the same for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        queue = _context.Queue()
        processes = [
            _context.Process(
                target=_member, args=(rank, size, folder, queue, work, arguments), daemon=True
            )
            for rank in range(size)
        ]
        for each in processes:
            each.start()
        try:
            found = dict(queue.get(timeout=SECONDS) for _ in processes)
        finally:
            for each in processes:
                each.join(5)
                each.kill()
    for rank, result in sorted(found.items()):
        if isinstance(result, str) and result.startswith("Traceback"):
            raise AssertionError(f"rank {rank}: {result}")
    return [found[rank] for rank in range(size)]


def _member(
    rank: int, size: int, folder: str, queue: Any, work: Callable[..., Any], arguments: Any
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of torch's own, about gloo and FSDP
    dist.init_process_group(
        "gloo", init_method=f"file://{Path(folder) / 'store'}", rank=rank, world_size=size,
        timeout=timedelta(seconds=SECONDS / 2),
    )  # fmt: skip
    try:
        result = work(*arguments)
    except Exception:
        result = traceback.format_exc()
    queue.put((rank, result))
    queue.close()
    queue.join_thread()
    dist.destroy_process_group()
