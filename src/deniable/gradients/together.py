"""Forwards of a sharded model: all ranks run them, or none.

A block's parameters are gathered from all ranks whenever it runs, so that a rank which runs a
forward once more (see `probe.py`) needs the others beside it. Before and after each forward the
ranks ask each other whether any wants to; while one does, all others run theirs along.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch

from deniable.gradients.probe import ForwardCall, undisturbed
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
        self._met = forward
        self._take_turns(look, wanted)

    def leave(self, look: Callable[[], object] = lambda: None, wanted: bool = False) -> None:
        """After the forward that was met: the same once more."""
        if self._met is not None:
            self._take_turns(look, wanted)
        self._met = None

    def begin(self) -> None:
        """Before each further run of this rank's."""
        self._shards.begin_forward()

    def gathered(self, wanted: Collection[Collection[str]]) -> Iterator[set[str]]:
        """See `Shards.gathered`."""
        return self._shards.gathered(wanted)

    def _take_turns(self, look: Callable[[], object], wanted: bool) -> None:
        forward = self._met
        assert forward is not None
        if wanted:
            look()
        while self._shards.others_run():
            with undisturbed(forward, dropout=True), torch.no_grad():
                forward.model.forward(*forward.args, **forward.kwargs)
