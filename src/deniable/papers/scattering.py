"""The scattering transform of small images: fixed features that no data chose.

Mallat (2012, "Group Invariant Scattering") and Oyallon & Mallat (2015, "Deep Roto-Translation
Scattering for Object Classification"); Tramer & Boneh (2021, "Differentially Private Learning Needs
Better Features (or Much More Data)") train privately on it. Wavelets and padding are those of these
papers, so that the coefficients agree with theirs up to their order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SCALES = 2
ANGLES = 8
COEFFICIENTS = 1 + ANGLES * SCALES + ANGLES**2 * SCALES * (SCALES - 1) // 2


class Scattering(nn.Module):
    """Two orders of wavelet moduli at two scales and eight angles, averaged over 4 x 4 pixels.

    `x * phi`, `|x * psi_1| * phi` and `||x * psi_1| * psi_2| * phi` with Morlet wavelets psi and a
    Gaussian phi (Oyallon & Mallat, 2015, section 2). The filters are formulas: nothing is learned,
    so that no privacy is spent.

    Args:
        size: height and width of the images, a multiple of 4.

    Shape: from `(batch, channels, size, size)` to `(batch, channels * 81, size / 4, size / 4)`.

    >>> Scattering(32)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 243, 8, 8])
    """

    low: Tensor
    low_coarse: Tensor
    fine: Tensor
    coarse: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        step = 2**SCALES
        if size < step or size % step:
            raise ValueError(f"Images must be a multiple of {step} pixels wide, got {size}.")
        self.size, self.padding = size, step
        padded = size + 2 * step
        wavelets = [
            torch.stack([_morlet(padded, scale, angle) for angle in range(ANGLES)])
            for scale in range(SCALES)
        ]
        low = _gaussian(padded)
        self.register_buffer("low", low, persistent=False)
        # A filter's aliases add up, where those of an image are averaged.
        self.register_buffer("low_coarse", 4 * _subsampled(low), persistent=False)
        self.register_buffer("fine", wavelets[0], persistent=False)
        self.register_buffer("coarse", wavelets[1], persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The coefficients of each channel, one order after another."""
        batch, channels = images.shape[:2]
        padded = nn.functional.pad(images, [self.padding] * 4, mode="reflect")
        spectrum = torch.fft.fft2(padded.flatten(0, 1))[:, None]
        first_fine = _modulus(spectrum * self.fine)
        first_coarse = _modulus(_subsampled(spectrum * self.coarse))
        second = _modulus(_subsampled(first_fine[:, :, None] * self.coarse)).flatten(1, 2)
        found = torch.cat(
            [
                self._averaged(spectrum, self.low, SCALES),
                self._averaged(first_fine, self.low, SCALES),
                self._averaged(first_coarse, self.low_coarse, SCALES - 1),
                self._averaged(second, self.low_coarse, SCALES - 1),
            ],
            dim=1,
        )
        return found.view(batch, channels * COEFFICIENTS, *found.shape[2:])

    def _averaged(self, spectrum: Tensor, low: Tensor, halvings: int) -> Tensor:
        """Low frequencies alone, at the final resolution and without the padding."""
        kept = spectrum * low
        for _ in range(halvings):
            kept = _subsampled(kept)
        inside = self.padding >> SCALES
        averaged: Tensor = torch.fft.ifft2(kept)
        return averaged.real[..., inside:-inside, inside:-inside]


def _modulus(spectrum: Tensor) -> Tensor:
    """The spectrum of the modulus of what has this spectrum."""
    found: Tensor = torch.fft.fft2(torch.fft.ifft2(spectrum).abs())
    return found


def _subsampled(spectrum: Tensor) -> Tensor:
    """The spectrum of every second pixel: the four aliases of a frequency, averaged."""
    half = spectrum.shape[-1] // 2
    parts = spectrum.reshape(*spectrum.shape[:-2], 2, half, 2, half)
    return parts.mean(dim=(-4, -2))


def _morlet(size: int, scale: int, angle: int) -> Tensor:
    """A wave in a Gaussian window, with a constant taken off so that its mean is zero."""
    sigma, frequency = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    turn = (ANGLES - ANGLES / 2 - 1 - angle) * math.pi / ANGLES
    slant = 4 / ANGLES
    wave = _gabor(size, sigma, turn, frequency, slant)
    window = _gabor(size, sigma, turn, 0.0, slant)
    return _response(wave - wave.sum() / window.sum() * window)


def _gaussian(size: int) -> Tensor:
    return _response(_gabor(size, 0.8 * 2 ** (SCALES - 1), 0.0, 0.0, 1.0))


def _response(filter: Tensor) -> Tensor:
    """The spectrum of a filter, which is real: the filter is its own mirror image, conjugated."""
    spectrum: Tensor = torch.fft.fft2(filter)
    return spectrum.real.float()


def _gabor(size: int, sigma: float, turn: float, frequency: float, slant: float) -> Tensor:
    """A windowed wave on the torus: the sum of its periods, in float64."""
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64
    )
    shape = rotation @ torch.diag(torch.tensor([1.0, slant**2], dtype=torch.float64)) @ rotation.T
    shape /= 2 * sigma**2
    total = torch.zeros(size, size, dtype=torch.complex128)
    pixels = torch.arange(size, dtype=torch.float64)
    for row_shift in range(-2, 3):
        for column_shift in range(-2, 3):
            row = (pixels + row_shift * size)[:, None]
            column = (pixels + column_shift * size)[None, :]
            exponent = -(
                shape[0, 0] * row**2
                + (shape[0, 1] + shape[1, 0]) * row * column
                + shape[1, 1] * column**2
            )
            phase = frequency * (row * math.cos(turn) + column * math.sin(turn))
            total += torch.polar(exponent.exp(), phase)
    return total / (2 * math.pi * sigma**2 / slant)
