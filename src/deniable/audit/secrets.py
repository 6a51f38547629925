"""What a character model makes of secrets: the loss of each, and how many it finds likelier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deniable.audit.exposure import by_rank, extrapolated, interpolated
from deniable.audit.planted import DIGITS, Canary
from deniable.data.ptb import START, sequences

SPACE = 10**DIGITS
MOST = math.log2(SPACE)  # bits
_ROWS = 1024
_SYMBOLS = list(b"0123456789")


@dataclass(frozen=True)
class Exposure:
    """How exposed one canary is, by every way to its rank.

    Attributes:
        canary: whose secret it is.
        loss: of the secret, in nats: minus the logarithm of its probability after what stands
            before it.
        rank: among all secrets of the space; None where it was not followed so far.
        ranked: the exposure by that rank, in bits.
        interpolated: by a sample of other secrets.
        extrapolated: by a distribution fitted to that sample.
        unseen: whether no secret of that sample was as likely.
    """

    canary: Canary
    loss: float
    rank: int | None
    ranked: float | None
    interpolated: float
    extrapolated: float
    unseen: bool

    @property
    def bits(self) -> float:
        """By the rank where that is known; else by the sample, and by the fit beyond its reach."""
        if self.ranked is not None:
            return self.ranked
        return max(self.interpolated, self.extrapolated) if self.unseen else self.interpolated


def exposure(
    model: nn.Module, canary: Canary, others: Sequence[str], limit: int = 5_000
) -> Exposure:
    """How exposed a canary is in a model.

    Args:
        model: from whole numbers `(batch, length)` to scores `(batch, length, 256)`, each position
            from those before it; in evaluation mode.
        canary: whether it was inserted or not.
        others: other secrets, drawn uniformly from the space.
        limit: the rank is given up when more than so many beginnings of secrets must be looked at.
    """
    losses = secret_losses(model, canary, [canary.secret, *others])
    own, rest = float(losses[0]), losses[1:]
    # Where the sample holds a likelier secret, millions of the space are, and none is counted.
    unseen = not (rest <= own).any()
    rank = count_likelier(model, canary, limit) if unseen else None
    return Exposure(
        canary,
        own,
        rank,
        None if rank is None else by_rank(rank, SPACE),
        interpolated(own, rest, SPACE),
        extrapolated(own, rest, SPACE),
        unseen,
    )


@torch.no_grad()
def secret_losses(
    model: nn.Module, canary: Canary, secrets: Sequence[str]
) -> npt.NDArray[np.float64]:
    """The loss of each secret in the place of the canary's, in nats, summed over its digits."""
    before = len(canary.before)
    texts = b"".join(Canary(canary.name, secret, canary.repetitions).text for secret in secrets)
    arrays = sequences(texts)
    # What stands behind the secret cannot change what is expected in it.
    inputs, targets = (
        torch.from_numpy(each[:, : before + DIGITS]) for each in (arrays.inputs, arrays.targets)
    )
    found = []
    for rows, goal in zip(torch.split(inputs, _ROWS), torch.split(targets, _ROWS), strict=True):
        scores = model(rows)[:, before:].double().log_softmax(-1)
        digits = goal[:, before:, None]
        found.append(-scores.gather(-1, digits).sum((1, 2)))
    return torch.cat(found).numpy()


@torch.no_grad()
def count_likelier(model: nn.Module, canary: Canary, limit: int) -> int | None:
    """The rank of the canary's secret: how many secrets have its loss or a smaller one.

    Digit by digit, and a beginning whose loss exceeds that of the whole secret is followed no
    further: losses only grow. So a secret that the model knows by heart is found at once.

    Args:
        model: as for `exposure`.
        canary: whose secret is looked for.
        limit: give up, and return None, when more beginnings than that remain.
    """
    bound = float(secret_losses(model, canary, [canary.secret])[0])
    bound += 1e-6 * max(1.0, bound)  # other batches round otherwise: what is as likely counts
    symbols = torch.tensor(_SYMBOLS)
    rows = torch.tensor([[START, *canary.before]])
    losses, looked = torch.zeros(1).double(), 0
    for _ in range(DIGITS):
        looked += len(rows)
        if looked > limit:
            return None
        scores = torch.cat([model(each)[:, -1] for each in torch.split(rows, _ROWS)])
        steps = -scores.double().log_softmax(-1)[:, symbols]
        total = losses[:, None] + steps
        kept, digit = (total <= bound).nonzero(as_tuple=True)
        losses = total[kept, digit]
        rows = torch.cat([rows[kept], symbols[digit, None]], 1)
    return max(1, len(rows))


def random_secrets(count: int, seed: int) -> list[str]:
    """Secrets drawn uniformly from the space.

    >>> len(random_secrets(3, seed=0)[0])
    9
    """
    drawn = np.random.default_rng(seed).integers(SPACE, size=count)
    return [f"{each:0{DIGITS}d}" for each in drawn]
