"""Forwards of a sharded model: all ranks run them, or none.

A block's parameters are gathered from all ranks whenever it runs, so that a rank which runs a
forward once more (see `probe.py`) needs the others beside it. Before and after each forward the
ranks ask each other whether any wants to; while one does, all others run theirs along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from deniable.gradients.calls import ForwardCall
from deniable.gradients.undisturbed import undisturbed
from deniable.shards import Shards


class Together:
    """One rank among those that hold a model in shards.

    Args:
        shards: of the model.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._met: ForwardCall | None = None

    def meet(self, forward: ForwardCall, look: Callable[[], object], wanted: bool) -> None:
        """Before a forward: look at it, if any rank wants to.

        Args:
            forward: what this rank is about to run.
            look: runs it some times more.
            wanted: whether this rank wants to.
        """
        self._take_turns(forward, look, wanted)
        self._met = forward

    def leave(self, look: Callable[[], object] = lambda: None, wanted: bool = False) -> None:
        """After the forward that was met: the same once more."""
        forward, self._met = self._met, None
        if forward is not None:
            self._take_turns(forward, look, wanted)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One further run, which the others join."""
        self._shards.ranks.any(True)
        return self._shards.model(*args, **kwargs)

    def gathered(self, wanted: Collection[Collection[str]]) -> Iterator[set[str]]:
        """See `Shards.gathered`."""
        return self._shards.gathered(wanted)

    def _take_turns(self, forward: ForwardCall, look: Callable[[], object], wanted: bool) -> None:
        if wanted:
            look()
        while self._shards.ranks.any(False):
            with undisturbed(forward, dropout=True), torch.no_grad():
                self._shards.model(*forward.args, **forward.kwargs)
