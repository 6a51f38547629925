"""Contract 1: nothing escapes the bound; what cannot be bounded raises, naming the parameter."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deniable
from deniable.errors import CaptureError
from oracles.release import everyone, no_one


def step(model: nn.Module, loss: Callable[[Tensor], Tensor], data: Tensor | None = None) -> None:
    """One private step over all rows."""
    inputs = torch.randn(6, 4) if data is None else data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(
        examples=len(inputs), batch_size=len(inputs), steps=1, noise_multiplier=0.0, delta=1e-3
    )
    private = deniable.attach(model, optimizer, plan)
    everyone(private)
    for (batch,) in private.batches((inputs,)):
        loss(batch).backward()
        optimizer.step()


class Wrapped(nn.Module):
    """A linear layer with a name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_parameter_used_outside_forward_raises_by_name() -> None:
    """Pitfall: users 1."""
    model = Wrapped()
    with pytest.raises(CaptureError, match=r"'inner\.weight' \(module 'inner'\).*own forward"):
        step(model, lambda x: F.linear(model(x), model.inner.weight).mean())


def test_a_penalty_on_the_weights_in_the_loss_raises() -> None:
    model = Wrapped()
    with pytest.raises(CaptureError, match=r"'inner\.weight'"):
        step(model, lambda x: model(x).mean() + model.inner.weight.square().sum())


def test_a_penalty_returned_by_forward_raises() -> None:
    class WithPenalty(Wrapped):
        def forward(self, x: Tensor) -> Any:
            return self.inner(x), self.inner.weight.square().sum()

    model = WithPenalty()
    with pytest.raises(CaptureError, match="weight_decay"):
        step(model, lambda x: sum(each.mean() for each in model(x)))


def test_a_model_in_evaluation_mode_raises_when_trained() -> None:
    model = Wrapped().eval()
    with pytest.raises(CaptureError, match=r"model\.train\(\)"):
        step(model, lambda x: model(x).mean())


def test_a_gradient_without_a_drawn_batch_raises() -> None:
    model = Wrapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(examples=6, batch_size=6, steps=1, noise_multiplier=0.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    with pytest.raises(CaptureError, match=r"private\.batches"):
        model(torch.randn(3, 4)).mean().backward()
    private.detach()
    model(torch.randn(3, 4)).mean().backward()


def test_the_graph_of_an_earlier_batch_raises() -> None:
    model = Wrapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(examples=6, batch_size=6, steps=2, noise_multiplier=0.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    kept: list[Tensor] = []
    with pytest.raises(CaptureError, match="earlier batch"):
        for (batch,) in private.batches((torch.randn(6, 4),)):
            kept.append(model(batch).mean())
            kept[0].backward(retain_graph=True)
            optimizer.step()


def test_rows_mixed_before_a_layer_raise() -> None:
    """A layer on the mean over the batch: no gradient per row exists."""
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(3, 2)})

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["b"](self.parts["a"](x).mean(0))

    mixing = Mixing()
    with pytest.raises(CaptureError, match=r"'parts\.b\.weight', 'parts\.b\.bias'.*mixed"):
        step(mixing, lambda x: mixing(x).mean(), torch.randn(7, 4))


def test_attention_across_the_batch_is_found_where_shapes_hide_it() -> None:
    """As many rows as positions: the probe runs, and sees one row move another."""

    class Across(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = x + self.table
            return self.head(h - h.mean(0))

    across = Across()
    with pytest.raises(CaptureError, match="depend on another row"):
        step(across, lambda x: across(x).mean(), torch.randn(6, 6, 4))


def test_an_input_changed_in_place_after_its_layer_raises() -> None:
    class InPlace(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(x)
            y = self.inner(h)
            h.mul_(2)
            return y

    model = InPlace()
    with pytest.raises(CaptureError, match="modified in place"):
        step(model, lambda x: model(x).mean())


def test_an_embedding_with_max_norm_raises() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True))
    with pytest.raises(CaptureError, match=r"'0\.weight'.*scale_grad_by_freq"):
        step(model, lambda x: model(x).mean(), torch.randint(5, (6, 2)))


def test_a_data_set_row_that_is_two_rows_to_the_model_raises() -> None:
    model = Wrapped()
    with pytest.raises(CaptureError, match="6 rows"):
        step(model, lambda x: model(x[:5]).mean())


def test_grad_never_holds_a_sum_without_noise() -> None:
    model = Wrapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(examples=6, batch_size=6, steps=1, noise_multiplier=1.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    everyone(private)
    for (batch,) in private.batches((torch.randn(6, 4),)):
        model(batch).mean().backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        optimizer.step()


def test_a_forward_that_fails_leaves_nothing_behind() -> None:
    class Failing(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("user's own")

    model = Failing()
    with pytest.raises(RuntimeError, match="user's own"):
        step(model, lambda x: model(x).mean())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_model_that_cannot_take_an_empty_batch_says_what_to_do() -> None:
    class Flattening(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.view(len(x), -1))

    model = Flattening()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(examples=5, batch_size=5, steps=2, noise_multiplier=0.0, delta=1e-3)
    private = deniable.attach(model, optimizer, plan)
    no_one(private)
    for k, (batch,) in enumerate(private.batches((torch.randn(5, 4),))):
        if not k:
            with pytest.raises(RuntimeError) as raised:
                model(batch)
            assert "call optimizer.step() alone" in raised.value.__notes__[0]
        optimizer.step()
    assert private.steps == 2


def test_a_step_leaves_no_activation_to_the_garbage_collector() -> None:
    """Python collects cycles when it likes: until then they would hold a step's memory."""

    def tensors() -> list[Tensor]:
        return [each for each in gc.get_objects() if type(each) is Tensor and each.ndim == 3]

    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 7))
    data = torch.randn(6, 6, 4)  # the shape leaves open where rows lie, so the model is run again
    gc.collect()
    gc.disable()
    try:
        before = {id(each) for each in tensors()}
        step(model, lambda x: model(x).mean(), data)
        assert [each.shape for each in tensors() if id(each) not in before] == []
    finally:
        gc.enable()


def test_a_position_table_with_as_many_rows_as_the_batch_is_not_taken_for_the_batch() -> None:
    """`arange(T)` with T equal to the batch: taking positions for rows would bound nothing."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.table(torch.arange(x.shape[1])))

    torch.manual_seed(0)
    model, data = Positions(), torch.randn(6, 6, 4)
    step(model, lambda x: 100 * model(x).square().mean(), data)
    moved = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert float(moved.norm()) <= 1.0 + 1e-6, "six clipped gradients, over six expected rows"


def causal() -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(5).double()


class Masked(nn.Module):
    """Attention whose mask of `(T, T)` comes with the batch, or is made in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = causal() if mask is None else mask
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


def masked_steps(mask_of: Callable[[Tensor, Tensor], Tensor | None]) -> list[Tensor]:
    """Steps on 3, 3, 3 and 5 rows of length 5, without noise; the gradients of the last one.

    The first forward and the fourth are run again with rows replaced.
    """
    sizes = [3, 3, 3, 5]
    torch.manual_seed(0)
    model = Masked().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plan = deniable.Plan(
        examples=8, batch_size=8, steps=len(sizes), noise_multiplier=0.0, delta=1e-3
    )
    private = deniable.attach(model, optimizer, plan)
    draws = iter(sizes)
    private._source.sampling.draw = lambda: np.arange(next(draws))
    mask = causal()
    for (batch,) in private.batches((torch.randn(8, 5, 4).double(),)):
        model(batch, mask_of(mask, batch)).square().mean().backward()
        optimizer.step()
    return [each.grad for each in model.parameters() if each.grad is not None]


@pytest.mark.parametrize("again", [lambda mask, _: mask, lambda mask, _: mask.clone()])
def test_an_argument_that_held_no_rows_holds_none_in_a_batch_of_its_size(
    again: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Batches are of random sizes: one of T rows is no other than those before it."""
    expected = masked_steps(lambda *_: None)
    for each, other in zip(masked_steps(again), expected, strict=True):
        assert torch.allclose(each, other, rtol=1e-10, atol=1e-14)


def test_an_argument_that_was_written_to_since_is_taken_for_rows() -> None:
    def written(mask: Tensor, batch: Tensor) -> Tensor:
        return mask.add_(batch.mean())

    with pytest.raises(CaptureError, match="depend on another row"):
        masked_steps(written)
