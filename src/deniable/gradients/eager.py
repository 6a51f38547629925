"""Compiled code hides the calls that take parameters: while a batch is open it runs as written."""

from __future__ import annotations

from typing import Any

import torch

_HOLDERS: set[int] = set()
_STANCE: list[Any] = []


def run_as_written(holder: object) -> None:
    """Until `allow_compiled`, functions and modules of `torch.compile` run without compilation.

    The compiler's stance is one for the whole process, so it goes back when the last holder lets
    go: two sessions may have a batch open at the same time.
    """
    if not _HOLDERS:
        _STANCE.append(torch.compiler.set_stance("force_eager"))
    _HOLDERS.add(id(holder))


def allow_compiled(holder: object) -> None:
    """The holder needs it no more; without effect if it held nothing."""
    if id(holder) not in _HOLDERS:
        return
    _HOLDERS.remove(id(holder))
    if not _HOLDERS:
        _STANCE.pop().__exit__(None, None, None)
