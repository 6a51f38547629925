from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deniable.papers.scattering import ANGLES, COEFFICIENTS, Scattering


@pytest.fixture(scope="module")
def transform() -> Scattering:
    return Scattering(16)


def images(count: int = 2, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def filtered(image: Tensor, spectrum: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(image) * spectrum)


def direct(transform: Scattering, image: Tensor, fine: int, coarse: int | None) -> Tensor:
    """One coefficient in float64 at full resolution, of which every fourth pixel is kept."""
    padded = torch.nn.functional.pad(image[None, None], [4] * 4, mode="reflect")[0, 0].double()
    found = filtered(padded, transform.fine[fine].double()).abs()
    if coarse is None:
        return filtered(found, transform.low.double()).real[::4, ::4][1:-1, 1:-1]
    found = filtered(found, transform.coarse[coarse].double()).abs()[::2, ::2]
    low = transform.low_coarse.double()
    return filtered(found, low).real[::2, ::2][1:-1, 1:-1]


def test_coefficients_are_those_of_the_formula_at_full_resolution(transform: Scattering) -> None:
    image = images(1)[0, 0]
    found = transform(image[None, None])[0].double()
    assert torch.allclose(found[1 + 3], direct(transform, image, 3, None), atol=1e-4)
    second = 1 + 2 * ANGLES + 3 * ANGLES + 5
    assert torch.allclose(found[second], direct(transform, image, 3, 5), atol=1e-4)


def test_each_image_and_channel_is_transformed_by_itself(transform: Scattering) -> None:
    both = images(2, 3)
    found = transform(both)
    assert found.shape == (2, 3 * COEFFICIENTS, 4, 4)
    alone = transform(both[1:, 2:])
    assert torch.allclose(found[1, 2 * COEFFICIENTS :], alone[0], atol=1e-6)


def test_a_constant_image_has_its_mean_and_no_waves(transform: Scattering) -> None:
    found = transform(torch.full((1, 1, 16, 16), 0.5))[0]
    assert torch.allclose(found[0], torch.full((4, 4), 0.5), atol=1e-3)
    assert float(found[1:].abs().max()) < 1e-3


def test_a_size_that_cannot_be_halved_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        Scattering(30)
