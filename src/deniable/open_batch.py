"""The logical batch in hand: its pieces are bounded and added up until it is whole."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from deniable.batches import Piece
from deniable.bounds import Bound, Gradients, Observed
from deniable.canaries import Canaries
from deniable.errors import DeniableWarning, StepError
from deniable.gradients import Capture, Groups, exactly
from deniable.shards import Shards
from deniable.units import BoundedSum, Sensitivity


class OpenBatch:
    """What was drawn and not yet released; one piece of it at a time is open.

    Args:
        capture: collects the per-unit gradients of a piece.
        bound: what limits one unit's influence.
        shards: what this rank keeps of each sum.
        device: where norms and sums are computed.
        loss_reduction: how the loss given to `backward` combines the rows of a piece.
        canaries: units of an audit, if any.

    Attributes:
        piece: the open one.
        observed: what was seen of the latest batch's gradients. Not private.
    """

    def __init__(
        self,
        capture: Capture,
        bound: Bound,
        shards: Shards,
        device: torch.device,
        loss_reduction: Literal["mean", "sum"],
        canaries: Canaries | None,
    ) -> None:
        self._capture, self._bound, self._shards, self._device = capture, bound, shards, device
        self._loss_reduction, self._canaries = loss_reduction, canaries
        self.piece: Piece | None = None
        self.observed: list[Observed] = []
        self._unstepped = False
        self._summed = 0
        self._sums: dict[str, Tensor] | None = None
        self._moved_by: Sensitivity | None = None
        self._scales = set[float]()

    def begin(self, piece: Piece, batch: Any) -> None:
        """A piece was drawn, and is this batch: the model's forwards are captured from here on."""
        self.expect(piece)
        self._capture.open(piece.rows, Groups(piece.sizes) if piece.sizes else None, batch)

    def expect(self, piece: Piece) -> None:
        """A piece is open, to be stepped on once."""
        self.piece, self._unstepped = piece, True

    def backward(self, losses: Tensor) -> None:
        """Backward for a vector of one loss per row of the piece."""
        rows = self.piece.rows if self.piece else 0
        if losses.shape != (rows,):
            raise StepError(
                f"private.backward expects one loss per row, shape ({rows},), got "
                f"{tuple(losses.shape)}. Use reduction='none', and mean over what is inside a row."
            )
        before = self._capture.receipts
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._summed += self._capture.receipts - before

    def to_step(self) -> Piece:
        """The open piece, which nobody has stepped on.

        Raises:
            StepError: there is none.
        """
        if self.piece is None or not self._unstepped:
            raise StepError(
                "optimizer.step() expects a batch from `for ... in private.batches(data)` and one "
                "backward pass before each step; no batch is open. One step belongs to each batch."
            )
        return self.piece

    def add(self, loss_scale: float = 1.0) -> None:
        """Bound the piece's per-unit gradients and add them to the batch's sum.

        Args:
            loss_scale: what a GradScaler multiplied the loss by.
        """
        piece = self.to_step()
        self._scales.add(loss_scale)
        if len(self._scales) > 1:
            raise StepError(
                "The pieces of one batch had losses of different scales. With a GradScaler, call "
                "scaler.step(optimizer) and scaler.update(scaler.get_scale()) on every piece."
            )
        if piece.rows and not self._capture.has_gradients:
            raise StepError(
                f"optimizer.step() came before any backward pass on the drawn {piece.rows} rows. "
                "Call loss.backward() first, on the model's output in training mode "
                "(model.train())."
            )
        if self._summed and self._summed != self._capture.receipts:
            raise StepError(
                "One batch saw both loss.backward() and private.backward(losses); their scales "
                "differ. Use one of them."
            )
        mean = self._loss_reduction == "mean" and not self._summed
        with torch.no_grad(), exactly(self._device):
            gradients: Gradients = self._capture.collect((piece.rows if mean else 1.0) / loss_scale)
            units = gradients.units
            if self._canaries is not None and piece.canaries is not None:
                gradients = self._canaries.join(gradients, piece.canaries)
            bounded, observed = self._bound(gradients, self._shards.kept)
        if self._sums is None:
            self.hold(bounded)
        elif bounded.sensitivity != self._moved_by:
            raise StepError(
                "The bound changed between the pieces of one batch, so that its sum has no one "
                "sensitivity. Change a bound after a step, and give each session one of its own."
            )
        else:
            for name, value in bounded.sums.items():
                self._sums[name] += value
        if len(observed.norms) > units:  # canaries come last
            observed = Observed(observed.norms[:units], observed.factors[:units])
        # Elsewhere than on the CPU, to look would be to wait for the device.
        if self._device.type == "cpu" and units > 1 and not bool(observed.factors.any()):
            warnings.warn(
                "No gradient of this batch is finite, so that its release is noise alone, and "
                "costs as much as any. Look at the inputs and the loss, or take a smaller learning "
                "rate.",
                DeniableWarning,
                stacklevel=2,
            )
        self.observed.append(observed)
        self._unstepped, self._summed = False, 0

    def hold(self, bounded: BoundedSum) -> None:
        """A batch's sum so far, in place of whatever there was."""
        self._sums, self._moved_by, self.observed = bounded.sums, bounded.sensitivity, []
        self._unstepped = False

    def passed_over(self) -> None:
        """The loop asks for the next piece: this one must be dealt with.

        Raises:
            StepError: it was the batch's last, and nobody stepped on it.
        """
        if self.piece is None or not self._unstepped:
            return
        if self.piece.last:
            raise StepError(
                "A drawn batch was passed over without optimizer.step(). Step on every batch, "
                "empty ones included; for gradient accumulation give private.batches(rows=...)."
            )
        self.add()

    def total(self) -> BoundedSum:
        """The sum of all pieces, bounded and without noise."""
        assert self._sums is not None and self._moved_by is not None
        return BoundedSum(self._sums, self._moved_by)

    def released(self) -> None:
        """The batch's sum is let go: it has left with its noise."""
        self._sums = None
        self._scales.clear()

    def forget(self) -> None:
        """Let go of a batch that was not released; nothing of it was."""
        self._capture.discard()
        self.piece, self._unstepped, self._summed = None, False, 0
        self.released()
