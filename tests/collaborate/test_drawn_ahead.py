"""Noise that is drawn while workers compute is the noise that would have been drawn."""

from __future__ import annotations

import torch

from deniable.collaborate.sessions import DrawnAhead
from deniable.noise import noise_generator

CPU = torch.device("cpu")


def test_no_value_is_lost_or_comes_twice() -> None:
    plain = noise_generator(bytes(32), CPU)
    ahead = DrawnAhead(noise_generator(bytes(32), CPU))
    for _ in range(4):
        expected = plain.normal((10,), dtype=torch.float32, device=CPU)
        assert torch.equal(ahead.normal((10,), dtype=torch.float32, device=CPU), expected)
        ahead.prepare()
        ahead.prepare()  # what lies ready stays


def test_what_lies_ready_is_not_handed_out_for_another_shape() -> None:
    ahead = DrawnAhead(noise_generator(bytes(32), CPU))
    first = ahead.normal((10,), dtype=torch.float32, device=CPU)
    ahead.prepare()
    other = ahead.normal((6,), dtype=torch.float32, device=CPU)
    assert other.shape == (6,) and not torch.equal(other, first[:6])
