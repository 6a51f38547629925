"""What images are turned into before a model sees them: fixed filters, or private components."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from deniable.data.locate import cache
from deniable.ledger import Ledger
from deniable.papers.scattering import scattered
from deniable.pca import PrivatePCA

Images = npt.NDArray[Any]


def fixed(name: str | None, images: Images) -> Images:
    """Features that no data chose, which cost no privacy; other names leave the images alone."""
    if name == "scattering":
        return scattered(images, cache() / "features")
    return images


def principal_components(
    components: int,
    noise_multiplier: float,
    ledger: Ledger | None,
    seed: int,
    neighbouring: str = "add-or-remove",
) -> PrivatePCA:
    """A projection that is to be fitted to the training rows, under noise.

    Args:
        components: how many.
        noise_multiplier: of its release; 0 is not private, and stands in the ledger as that.
        ledger: where it is recorded; None where it stands already, and is made again bit for bit.
        seed: of its noise.
        neighbouring: the relation of its release.
    """
    return PrivatePCA(
        components,
        noise_multiplier=noise_multiplier,
        neighbouring=neighbouring,
        ledger=ledger,
        seed=seed,
    )
