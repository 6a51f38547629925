"""What remains of a noise that was added in shares, once some who added them tell theirs.

Importable without torch.
"""

from __future__ import annotations

import math

from deniable.events import ComposedEvent, Event, SelfComposedEvent, singles, unsampled, with_noise


def without_shares(event: Event, share: float, told: int) -> Event:
    """The same releases for a coalition that subtracts its own shares of every noise.

    Independent Gaussian shares add their variances: of noise multiplier z, `sqrt(z^2 - told *
    share^2)` remains (Dwork et al., 2006, "Our Data, Ourselves", section 3).

    Args:
        event: what the ledger states, of releases with shares alone.
        share: the noise multiplier of one share.
        told: how many shares are known.

    Raises:
        ValueError: a share or their number is negative.

    >>> from deniable.events import GaussianEvent
    >>> without_shares(SelfComposedEvent(GaussianEvent(5.0), 2), share=2.0, told=4)
    ComposedEvent(events=(SelfComposedEvent(event=GaussianEvent(noise_multiplier=3.0), count=2),))
    """
    if not (share >= 0 and told >= 0):
        raise ValueError(f"Shares are of at least 0, got {told!r} of {share!r}.")
    found = []
    for each, count in singles(event):
        noise = getattr(unsampled(each), "noise_multiplier", 0.0)  # type: ignore[arg-type]
        left = noise**2 - told * share**2
        # Rounding must not leave noise where there is none.
        factor = math.sqrt(left) / noise if left > 1e-9 * noise**2 else 0.0
        found.append(SelfComposedEvent(with_noise(each, factor), count))
    return ComposedEvent(tuple(found))
