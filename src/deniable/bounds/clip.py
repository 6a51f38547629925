"""Clipping each unit's whole gradient to a norm."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from deniable.bounds.base import Bound, Gradients, Limited
from deniable.bounds.thresholds import Choice, Loss, closeness, norms_of_rows
from deniable.bounds.views import Scaled
from deniable.rows import fingerprint
from deniable.units import Sensitivity

if TYPE_CHECKING:
    from deniable.ledger import Ledger

# Squared elements are summed in float32: of shorter gradients the norm could be lost.
SHORTEST = 1e-10


class Clip(Bound):
    """Flat clipping: `g / max(1, |g| / norm)` (Abadi et al., 2016, algorithm 1).

    Formal guarantee: the sum of clipped gradients moves by at most `norm` in L2 when one unit is
    added or removed. A unit whose gradient is not finite contributes zero.

    Args:
        norm: the threshold C, in gradient units; finite and at least 1e-10.

    Raises:
        ValueError: the norm is not a finite number of at least 1e-10.

    >>> Clip(1.0).sensitivity({}).value
    1.0
    """

    def __init__(self, norm: float) -> None:
        self.norm = checked_norm("Clip", norm)

    @classmethod
    def from_public(
        cls, model: nn.Module, loss: Loss, batch: Sequence[Tensor], quantile: float = 0.5
    ) -> Self:
        """Clipping to a quantile of the norms on public data, at no cost in privacy.

        The threshold of Xia et al., "gradient tailoring": statistics of a model trained before. The
        batch must not be of the data that is to be protected, nor chosen by looking at it.

        Args:
            model: before it is attached; trained on public data, for thresholds of later steps.
            loss: called as `loss(model, *row)` on batches of one row.
            batch: public tensors with the rows in dimension 0; a few hundred rows are enough.
            quantile: the share of rows whose norm shall be within the threshold.

        Raises:
            ValueError: no row has a finite gradient, the quantile is not between 0 and 1, or the
                norm there is none to clip to.

        >>> def loss(model, inputs, labels):
        ...     return nn.functional.mse_loss(model(inputs), labels)
        >>> model = nn.Linear(1, 1, bias=False)
        >>> inputs = torch.tensor([[1.0], [2.0], [3.0]])
        >>> Clip.from_public(model, loss, (inputs, model(inputs).detach() - 0.5))
        Clip(2.0)
        """
        norms = norms_of_rows(model, loss, batch)
        norms = norms[torch.isfinite(norms)]
        if not (len(norms) and 0 <= quantile <= 1):
            raise ValueError(
                f"A threshold needs rows with finite gradients, got {len(norms)}, and a quantile "
                f"between 0 and 1, got {quantile!r}."
            )
        return cls(float(torch.quantile(norms, quantile)))

    @classmethod
    def privately(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Sequence[Tensor],
        candidates: Sequence[float],
        *,
        by: Choice,
        ledger: Ledger,
        quantile: float = 0.5,
        run_id: str | None = None,
    ) -> Self:
        """Clipping to that candidate which is closest to a quantile of the norms on private data.

        The choice is a release of its own, recorded in the ledger before it is made, and composed
        there with the training. It looks at how many rows have a norm up to each candidate, which
        one row moves by at most 1.

        Args:
            model: before it is attached.
            loss: called as `loss(model, *row)` on batches of one row.
            data: private tensors with the rows in dimension 0, each row one example: the data set
                that is trained on. A part that was chosen without looking at it is another form of
                the same data: a ledger for both is named, `Ledger(path, data="...")`.
            candidates: public thresholds to choose from, such as 0.1, 0.2, 0.4 and so on.
            by: who chooses: `deniable.noise.Exponential(epsilon)`.
            ledger: of the data.
            quantile: the share of rows whose norm shall be within the threshold, between 0 and 1.
            run_id: the choice's name in the ledger; a fresh one if not given.

        Raises:
            BudgetError: the ledger's budget has no room for the choice; nothing was computed.
            LedgerError: the ledger is that of another data set.
            ValueError: no candidates, one is no threshold, or the quantile is not between 0 and 1.
        """
        bounds = [cls(each) for each in candidates]
        if not bounds:
            raise ValueError("A private choice needs candidates. Give thresholds such as 0.1, 1.")
        if not 0 <= quantile <= 1:  # beyond, one row would move a score by more than 1
            raise ValueError(f"A quantile must lie between 0 and 1, got {quantile!r}.")
        event = by.event
        ledger.recognise(fingerprint(tuple(data)))
        ledger.release(
            run_id or f"clip-threshold-{uuid.uuid4().hex[:12]}",
            event,
            description={"choice": "clip threshold", "candidates": [each.norm for each in bounds]},
        )
        norms = norms_of_rows(model, loss, data)
        scores = closeness(norms, [each.norm for each in bounds], quantile)
        return bounds[by.choose(scores, Sensitivity(1.0, event.neighbouring))]

    def __repr__(self) -> str:
        return f"Clip({self.norm})"

    def sensitivity(self, parameters: Mapping[str, Tensor]) -> Sensitivity:
        """How far one unit can move the sum: the norm."""
        return Sensitivity(self.norm)

    def settings(self) -> dict[str, Any]:
        """Name and settings, as JSON values, for reports."""
        return {"name": "Clip", "norm": self.norm}

    @property
    def in_words(self) -> str:
        """What is done to each gradient."""
        return f"clipped to norm {self.norm:g}"

    def limit(self, gradients: Gradients) -> Limited:
        """Each gradient, times `norm / |g|` where it is longer than the norm."""
        factors = gradients.norms().clamp(min=self.norm).reciprocal_().mul_(self.norm)
        return Limited(Scaled(gradients, factors), factors)


def checked_norm(name: str, norm: object) -> float:
    """A threshold as a float.

    Raises:
        ValueError: it is not a finite number of at least 1e-10.
    """
    if not (isinstance(norm, (int, float)) and math.isfinite(norm) and norm >= SHORTEST):
        raise ValueError(
            f"{name} needs a positive, finite norm of at least {SHORTEST:g}, got {norm!r}. "
            f"Try {name}(1.0)."
        )
    return float(norm)
