"""What images have in common with patches of two public photographs: features that no row chose.

Coates, Lee & Ng (2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning")
compare every patch of an image with whitened ones. Coates & Ng (2011, "The Importance of Encoding
Versus Training with Sparse Coding and Vector Quantization") find that patches drawn at random do
for that, under a soft threshold. They draw theirs from the training images. Here they come from the
photographs that scikit-learn carries, so that no privacy is spent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

Floats = npt.NDArray[Any]

SIDE = 6  # of a patch, in pixels
GRID = 4  # cells across, over which responses are averaged
THRESHOLD = 1.75
SHRINKINGS = (2, 3, 4, 6)  # small images are large ones made small
PATCHES = 20_000  # at most, of each photograph at each size
FLAT = 0.01  # variance that is added to a patch's own, so that noise is not blown up
WHITENING = 0.01  # likewise, to each direction's
STRUCTURED = 0.2  # variance above which a patch may become a filter


class Patches(nn.Module):
    """Soft-thresholded responses to patches of photographs, by sign, averaged over a 4 x 4 grid.

    With `p` a patch of the image less its mean over its deviation, `W` the whitening of such
    patches in the photographs and `f` a filter, a whitened patch of norm 1, the responses are
    `max(0, f W p - t)` and `max(0, -f W p - t)`. They are averaged over the cells and over the
    image and its mirror image, and the root is taken. Each image's responses are then normalised in
    `groups` groups by their own mean and deviation.

    Args:
        filters: how many.
        groups: into which the `2 * filters` channels are normalised.
        seed: which patches become filters.

    Shape: from `(batch, 3, height, width)` to `(batch, 2 * filters, 4, 4)`.

    >>> Patches(16, groups=4)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 32, 4, 4])
    """

    filters: Tensor

    def __init__(self, filters: int, groups: int, seed: int = 0) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("filters", _filters(filters, seed), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The responses of each image, without regard to left and right."""
        both = self._responses(images) + self._responses(images.flip(-1))
        return nn.functional.group_norm(both.sqrt(), self.groups)

    def _responses(self, images: Tensor) -> Tensor:
        patches = nn.functional.unfold(images, SIDE).transpose(1, 2)
        # Many processors multiply half precision several times as fast; the cells average it out.
        found = _normalised(patches).bfloat16() @ self.filters.bfloat16()
        across = images.shape[-1] - SIDE + 1
        cells = _cells(images.shape[-2] - SIDE + 1, across).bfloat16()
        positive = cells @ (found - THRESHOLD).relu_()
        negative = cells @ (-found - THRESHOLD).relu_()
        joined = torch.cat([positive, negative], dim=2).transpose(1, 2).float()
        return joined.reshape(len(images), -1, GRID, GRID)


def _normalised(patches: Tensor) -> Tensor:
    centred = patches - patches.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + FLAT).rsqrt()


def _cells(down: int, across: int) -> Tensor:
    """Row by row, the weights with which a cell averages the positions."""
    positions = torch.eye(down * across).view(-1, 1, down, across)
    return nn.functional.adaptive_avg_pool2d(positions, GRID).flatten(1).T


def _filters(count: int, seed: int) -> Tensor:
    """Whitening and filters in one matrix, a filter a column."""
    generator = torch.Generator().manual_seed(seed)
    patches = _normalised(_photographed(generator))
    covariance = patches.T.double() @ patches.double() / len(patches)
    variances, directions = torch.linalg.eigh(covariance)
    whitening = (directions * (variances + WHITENING).rsqrt()) @ directions.T
    structured = patches[patches.square().mean(-1) > STRUCTURED]
    drawn = structured[torch.randperm(len(structured), generator=generator)[:count]]
    filters = nn.functional.normalize(drawn.double() @ whitening)
    both: Tensor = whitening @ filters.T
    return both.float()


def _photographed(generator: torch.Generator) -> Tensor:
    """Patches of the photographs and of their mirror images."""
    found = []
    for photograph in load_sample_images().images:
        pixels = torch.from_numpy(np.asarray(photograph, dtype=np.float32) / 255).permute(2, 0, 1)
        for shrinking in SHRINKINGS:
            small = nn.functional.avg_pool2d(pixels[None], shrinking)
            for view in (small, small.flip(-1)):
                patches = nn.functional.unfold(view, SIDE)[0].T
                found.append(patches[torch.randperm(len(patches), generator=generator)[:PATCHES]])
    return torch.cat(found)
