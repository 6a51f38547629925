"""The user's own loader: nothing is known of who is in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deniable.events import GaussianEvent, OwnLoaderEvent
from deniable.sampling.base import Sampling
from deniable.units import Neighbouring


class OwnLoader(Sampling):
    """Batches that somebody else draws; everybody counts as in every one of them.

    Guarantees: holds for every loader that reads an example at most once into a batch, and whose
    choice of rows does not depend on what is in them. **No amplification by sampling is claimed.**
    Stated under replacement alone: with one example more or less, a loader may put every later row
    into another batch.

    >>> OwnLoader(examples=60_000, batch_size=256).relations
    (<Neighbouring.REPLACE: 'replace'>,)
    """

    name = "own-loader"
    amplifies = False
    relations = (Neighbouring.REPLACE,)
    why_not = "with one example less, a loader puts those after it into other batches"

    def event(self, inner: GaussianEvent) -> OwnLoaderEvent:
        """The event of releasing `inner` on a batch that arrived."""
        return OwnLoaderEvent(inner)

    def state(self) -> dict[str, Any]:
        """Nothing: the loader's place in the data is the user's to keep."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to go back to."""

    @property
    def in_words(self) -> str:
        """How batches come about and what the guarantee makes of it."""
        return (
            "The batches come from your own loader. No amplification by sampling is claimed: "
            "everybody counts as in every step, at most once, which costs much more than batches "
            "drawn by deniable."
        )
