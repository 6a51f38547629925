"""The command that makes a run again, from its settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from deniable.settings import OF_BOUNDS


def command(settings: Mapping[str, Any]) -> list[str]:
    """The `deniable train` command line in its parts, quoted for a shell, less what was unset.

    >>> command({"data": "digits", "epsilon": 3.0, "seed": None, "secure": True})
    ['deniable train', '--data digits', '--epsilon 3.0', '--secure']
    """
    parts, bound = ["deniable train"], settings.get("bound")
    for name, value in settings.items():
        if value is None or value is False:
            continue
        if bound is not None and bound not in OF_BOUNDS.get(name, (bound,)):
            continue  # it says nothing of this bound
        option = f"--{str(name).replace('_', '-')}"
        parts.append(shlex.join([option] if value is True else [option, str(value)]))
    return parts
