"""Half precision, loss scaling and compiled models release what the plain model would."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deniable
from deniable.bounds import Clip
from deniable.errors import StepError
from deniable.gradients.contributions import Dense
from deniable.gradients.outer import Outer
from deniable.gradients.per_unit import PerUnitGradients
from oracles.gradients import clipped_sum, relative_error
from oracles.release import everyone, released_sum

NORM = 0.3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def rows(n: int = 9) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 6), torch.randint(3, (n,))


def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def test_autocast_releases_float32_sums_within_bfloat16_of_the_oracle() -> None:
    """Pitfall: users 3. bfloat16 has 8 bits, so a forward is right to about 1 in 100."""

    def autocast_loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(model, inputs, labels)

    expected = clipped_sum(network(), rows(), loss, NORM)
    found = released_sum(network(), rows(), autocast_loss, NORM)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert relative_error(found, expected) < 0.03


def test_a_compiled_model_equals_the_oracle() -> None:
    """Pitfall: users 3. While a batch is open the model runs as written, and is captured."""
    plain = network().double()
    inputs, labels = rows()
    batch = inputs.double(), labels
    expected = clipped_sum(plain, batch, loss, NORM)
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    found = released_sum(compiled, batch, loss, NORM)
    renamed = {name.removeprefix("_orig_mod."): value for name, value in found.items()}
    assert relative_error(renamed, expected) < 1e-10


def test_a_scaled_loss_is_unscaled_for_each_unit_before_the_bound() -> None:
    model = network()
    data = rows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plan = deniable.Plan(examples=9, batch_size=9, steps=2, noise_multiplier=0.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan, deniable.Clip(NORM))
    everyone(private)
    expected = clipped_sum(model, data, loss, NORM)
    for inputs, labels in private.batches(data, steps=1):
        scaler.scale(loss(model, inputs, labels)).backward()
        scaler.step(optimizer)
        scaler.update(scaler.get_scale())
    found = {name: each.grad * 9 for name, each in model.named_parameters()}
    assert relative_error(found, expected) < 1e-5
    for inputs, labels in private.batches(data, steps=1):
        scaler.scale(loss(model, inputs, labels)).backward()
        scaler.unscale_(optimizer)
        with pytest.raises(StepError, match="unscale_"):
            scaler.step(optimizer)
        break


def test_a_scale_that_would_lose_the_squares_of_gradients_is_refused() -> None:
    model, data = network(), rows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e-28)
    plan = deniable.Plan(examples=9, batch_size=9, steps=1, noise_multiplier=0.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan, deniable.Clip(NORM))
    for inputs, labels in private.batches(data):
        scaler.scale(loss(model, inputs, labels)).backward()
        with pytest.raises(StepError, match="at least 1"):
            scaler.step(optimizer)
        break


@pytest.mark.filterwarnings("ignore:Please use the new API settings")  # of older torch
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_shortened_float32_products_shorten_no_norm(precision: str) -> None:
    """One unit alone is as long as the bound says, whatever precision forward and backward have."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 32))
    batch = torch.randn(1, 16, 64), torch.randn(1, 16, 32)

    def far(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return ((model(inputs) - targets) ** 2).sum()

    torch.set_float32_matmul_precision(precision)
    try:
        found = released_sum(model, batch, far, NORM)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    whole = torch.cat([each.flatten().double() for each in found.values()]).norm()
    assert abs(whole / NORM - 1) < 1e-5


@pytest.mark.parametrize("positions", [1, 3])
def test_inputs_too_small_to_square_hide_no_gradient(positions: int) -> None:
    """2e-23 squared is nothing in float32; times 1.5e19 it is a gradient beyond the bound."""
    left = torch.full((1, positions, 1), 1.5e19 / positions)
    right = torch.full((1, positions, 10_000), 2e-23)
    outer = Outer(left, right, torch.Size((1, 10_000)))
    gradients = PerUnitGradients(1, {"w": torch.zeros(1, 10_000)}, {"w": outer}, scale=256.0)
    sums, _ = Clip(1.0)(gradients)
    assert float(sums.sums["w"].double().norm()) <= 1.00001


def test_long_gradients_are_no_longer_than_they_are_taken_for() -> None:
    """Squares that are added up one after another in float32 would lose a hundredth here."""
    values = torch.full((1, 10_000_000), 0.625)
    gradients = PerUnitGradients(1, {"w": values[0]}, {"w": Dense(values)})
    sums, _ = Clip(1.0)(gradients)
    assert float(sums.sums["w"].double().norm()) <= 1.00001
    # The negative control: one sum over all of it.
    assert float(torch.linalg.vector_norm(values, dim=1) / values.double().norm()) < 0.999


@pytest.mark.parametrize("times", [1, 2, 8, 64])
def test_what_flushed_products_of_several_uses_hide_counts(times: int) -> None:
    """Inputs of 1e18 and gradients of 1e-19: each product of two uses is flushed to zero."""

    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.layer.weight)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(x) for _ in range(times)]).sum(0)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).mul(1e-19).mean()

    torch.set_flush_denormal(True)
    try:
        found = released_sum(Repeated(), (torch.tensor([[1e18], [0.0]]),), loss, 1e-3)
    finally:
        torch.set_flush_denormal(False)
    assert float(found["layer.weight"].abs()) <= 1e-3
