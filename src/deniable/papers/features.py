"""What images are turned into before a model sees them: fixed filters, or private components."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deniable.data import fingerprint
from deniable.data.locate import cache
from deniable.ledger import Ledger
from deniable.papers.patches import Patches
from deniable.papers.points import Named
from deniable.pca import PrivatePCA

Images = npt.NDArray[Any]

PIECE = 100  # images at once


def fixed(features: Named, images: Images) -> Images:
    """Features that none of the images chose, which cost no privacy; `pca` leaves them alone."""
    if features.name == "patches":
        name = "-".join(["patches", *(f"{value}" for value in features.arguments.values())])
        return kept(name, lambda: Patches(**features.arguments), images)
    return images


def _silent(_: int) -> None:
    pass


def kept(
    name: str,
    made: Callable[[], nn.Module],
    images: Images,
    folder: Path | None = None,
    progress: Callable[[int], None] = _silent,
) -> Images:
    """What a transform makes of images, computed once, in a file named after it and the images.

    Args:
        name: of the transform, with its settings.
        made: the transform, which treats each image by itself.
        images: `(examples, channels, height, width)`.
        folder: where the file is kept; a file that stands there is whole. None: in the cache.
        progress: told how many images are done.

    Returns:
        What it makes, in float16, mapped from the file.
    """
    path = (folder or cache() / "features") / f"{name}-{fingerprint(images)[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        transform = made()
        shape = transform(torch.from_numpy(images[:1])).shape[1:]
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        try:
            file = np.lib.format.open_memmap(
                fresh, mode="w+", dtype=np.float16, shape=(len(images), *shape)
            )
            for start in range(0, len(images), PIECE):
                found = transform(torch.from_numpy(images[start : start + PIECE]))
                file[start : start + PIECE] = found.numpy()
                progress(min(start + PIECE, len(images)))
            file.flush()
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    mapped: Images = np.load(path, mmap_mode="c")
    return mapped


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
