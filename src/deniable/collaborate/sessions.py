"""The two halves of a session whose sums travel: a worker forms them, the coordinator merges them.

A worker that adds noise itself is an ordinary `PrivateSession`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deniable.batches import Piece
from deniable.events import GaussianEvent, PoissonSampledEvent, unsampled
from deniable.noise import Gaussian, NoiseGenerator
from deniable.session import PrivateSession
from deniable.units import BoundedSum

FOREVER = 1 << 40


class DrawnAhead:
    """A noise generator that has the values for its next call ready, each still used once.

    Args:
        inner: where they come from.
    """

    def __init__(self, inner: NoiseGenerator) -> None:
        self.inner = inner
        self._asked: tuple[Sequence[int], torch.dtype, torch.device] | None = None
        self._ready: Tensor | None = None

    @property
    def precision(self) -> torch.dtype:
        """The least precision in which noise is drawn, scaled and added."""
        return self.inner.precision

    def prepare(self) -> None:
        """Draw what was asked for last time, unless that lies ready already."""
        if self._asked is not None and self._ready is None:
            shape, dtype, device = self._asked
            self._ready = self.inner.normal(shape, dtype=dtype, device=device)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Fresh values of N(0, 1), each used once."""
        asked, ready = (tuple(shape), dtype, device), self._ready
        if ready is not None and asked == self._asked:
            self._ready = None
            return ready
        self._asked = asked
        return self.inner.normal(shape, dtype=dtype, device=device)

    def state(self) -> dict[str, Any]:
        """The position of the generator within, which may be ahead of what was handed out."""
        return self.inner.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a position, and forget what lies ready."""
        self._ready = None
        self.inner.restore(state)


class HandsOver(PrivateSession):
    """A session that hands its sums to `hand_over`, without noise, and releases nothing itself.

    What it is given is a `BoundedSum`; `.grad` stays None, so that the worker's own optimizer does
    nothing. No event is recorded here: the coordinator's ledger has it. Batches are drawn ahead for
    the plan's next step, which the coordinator's may not be: see `is_for`.
    """

    hand_over: Callable[[BoundedSum], None]

    @property
    def ends_at(self) -> int:
        """Never: the coordinator says when it is over."""
        return FOREVER

    def _release(self, piece: Piece) -> None:
        bounded = self._to_release()
        for parameter in self._parameters.values():
            parameter.grad = None
        self._open.released()
        self.steps += 1
        self._source.expect(min(piece.state["step"], self.plan.steps - 1), piece.state)
        self.hand_over(bounded)

    def is_for(self, step: int) -> bool:
        """Whether the open batch was drawn as a step of the plan is to be."""
        drawn_for: int = self._open.to_step().state["step"] - 1
        return self.plan.at(drawn_for) == self.plan.at(step)

    def expect(self, step: int) -> None:
        """The next pass through the data begins with this step of the plan."""
        self._source.expect(step)


class Merges(PrivateSession):
    """A session whose sums come from workers, with some of the noise in them already.

    The event is recorded first, as ever; noise is added that makes up what the event says; then the
    optimizer receives the release.
    """

    _drawn_ahead: DrawnAhead | None = None
    _merged: dict[str, Tensor]
    _inside: float  # of the noise multiplier: what is in the sums already

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The bound parameters, by name."""
        return self._parameters

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on; no generator, since nothing is drawn again."""
        state = super().state_dict()
        return {name: each for name, each in state.items() if name not in ("noise", "sampler")}

    @property
    def opening(self) -> int:
        """The number under which this process opened the run: no other that did has it."""
        return self._run.opening

    def load_state_dict(self, state: Mapping[str, Any], *, replay: bool = False) -> None:
        """Go on after a saved state: who took part in the steps since cannot be repeated."""
        self.go_on(state)

    def recognise(self, data: Any) -> None:
        """Refuses other data than the ledger's."""
        self._source.recognise(data)

    def count_lost(self) -> None:
        """Count a step of which workers may have released something and nothing arrived."""
        self._run.release(self.next_event, self._alike())
        self.steps += 1

    def merge(self, sums: dict[str, Tensor], event: PoissonSampledEvent, inside: float) -> None:
        """Release merged sums, as `event`, and step.

        Args:
            sums: over all workers that answered; the session may change them.
            event: what the release is recorded as.
            inside: the noise multiplier that is in the sums already.
        """
        state = self._source.state | {"step": self.steps + 1}
        batch_size = self.plan.at(self.steps).batch_size
        self._merged, self._inside = sums, inside
        self._open.expect(Piece(0, None, True, event, batch_size, state))
        self._optimizer.step()
        for parameter in self._parameters.values():
            parameter.grad = None
        self._open.piece = None

    def _finish(self) -> None:
        self._open.hold(BoundedSum(self._merged, self._bound.sensitivity(self._parameters)))

    def _add_noise(self, piece: Piece, bounded: BoundedSum) -> dict[str, Tensor]:
        released = unsampled(piece.event)
        assert isinstance(released, GaussianEvent)
        missing = math.sqrt(max(0.0, released.noise_multiplier**2 - self._inside**2))
        generator = self._drawn_ahead or self._generator
        return Gaussian(missing, released.neighbouring).add(bounded, generator)

    def draw_ahead(self) -> None:
        """Draw the noise of the next release while workers compute; it does not depend on sums."""
        if self._drawn_ahead is None or self._drawn_ahead.inner is not self._generator:
            self._drawn_ahead = DrawnAhead(self._generator)
        self._drawn_ahead.prepare()
