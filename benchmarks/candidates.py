"""The ways to take one training step that are compared: plain, deniable and its peers.

Every candidate starts from the same weights and the same batch, and its step is all of forward,
backward, bound, noise and SGD. `Setting.noise` and `Setting.clip` let a check compare what they
compute: without noise all of them must agree with one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import deniable
from benchmarks.workloads import CharacterLSTM, Transformer, Workload

OPACUS_MODES = ("hooks", "functorch", "ew", "ghost")


@dataclass(frozen=True)
class Setting:
    """What every candidate is given."""

    workload: Workload
    batch: int
    device: str = "cpu"
    noise: float = 1.0
    clip: float = 1.0
    lr: float = 1e-3

    def start(self) -> tuple[nn.Module, Tensor, Tensor]:
        """The model and its batch, the same for every candidate."""
        torch.manual_seed(0)
        model = self.workload.build().to(self.device)
        inputs, labels = self.workload.data(self.batch)
        return model, inputs.to(self.device), labels.to(self.device)

    def quiet(self) -> Setting:
        """For checks: no noise, a bound that binds, and steps that show above rounding."""
        return replace(self, noise=0.0, clip=0.05, lr=20.0)


@dataclass(frozen=True)
class Step:
    """A candidate that is ready: each `run()` is one training step of `model`."""

    model: nn.Module
    run: Callable[[], None]
    explain: Callable[[], str] = str


@dataclass(frozen=True)
class Loop:
    """An ordinary training loop, in parts."""

    model: nn.Module
    optimizer: Optimizer
    batches: Iterator[tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]

    def run(self) -> None:
        inputs, labels = next(self.batches)
        self.loss(self.model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()


def plain_loop(setting: Setting) -> Loop:
    model, inputs, labels = setting.start()
    optimizer = SGD(model.parameters(), lr=setting.lr)
    return Loop(model, optimizer, iter(lambda: (inputs, labels), None), setting.workload.loss)


def deniable_loop(setting: Setting) -> tuple[Loop, deniable.PrivateSession]:
    """The same loop, attached; each draw is the whole batch, so that every step has its size."""
    model, inputs, labels = setting.start()
    optimizer = SGD(model.parameters(), lr=setting.lr)
    plan = deniable.Plan(
        examples=setting.batch,
        batch_size=setting.batch,
        steps=10**6,
        noise_multiplier=setting.noise,
        delta=1e-5,
        accountant="rdp",
    )
    private = deniable.attach(model, optimizer, plan, deniable.Clip(setting.clip))
    everyone = np.arange(setting.batch)
    private._sampler.draw = lambda: everyone  # type: ignore[method-assign]
    batches = private.batches((inputs, labels))
    return Loop(model, optimizer, batches, setting.workload.loss), private


def plain(setting: Setting) -> Step:
    """PyTorch as it is: no bound, no noise."""
    loop = plain_loop(setting)
    return Step(loop.model, loop.run)


def with_deniable(setting: Setting) -> Step:
    """The user's loop, attached."""
    loop, private = deniable_loop(setting)
    return Step(loop.model, loop.run, private.explain)


def with_vmap(setting: Setting) -> Step:
    """`torch.func`: per-row gradients by `vmap(grad(...))`, then clipped, summed, noised."""
    model, inputs, labels = setting.start()
    if isinstance(model, CharacterLSTM):
        model.__class__ = OneHotByComparison
    optimizer = SGD(model.parameters(), lr=setting.lr)
    deviation = setting.noise * setting.clip

    def loss(parameters: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        outputs = functional_call(model, parameters, (row[None],))
        return setting.workload.loss(outputs, label[None])

    per_row = vmap(grad(loss), in_dims=(None, 0, 0))

    @torch.no_grad()
    def run() -> None:
        parameters = dict(model.named_parameters())
        gradients = per_row({name: p.detach() for name, p in parameters.items()}, inputs, labels)
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients.values()]).norm(
            dim=0
        )
        factors = (setting.clip / norms).clamp(max=1.0)
        for name, parameter in parameters.items():
            total = torch.einsum("n,n...->...", factors, gradients[name])
            total += deviation * torch.randn_like(total)
            parameter.grad = total / setting.batch
        optimizer.step()
        optimizer.zero_grad()

    return Step(model, run)


def with_opacus(setting: Setting, mode: str) -> Step:
    """Opacus as its users call it, in one of its gradient modes."""
    from opacus import PrivacyEngine
    from opacus.validators import ModuleValidator

    model, inputs, labels = setting.start()
    if isinstance(model, Transformer):
        model.__class__ = PositionsForEachRow
    model = ModuleValidator.fix(model)
    optimizer: Any = SGD(model.parameters(), lr=setting.lr)
    ghost = mode == "ghost"
    made = PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(inputs, labels), batch_size=setting.batch),
        noise_multiplier=setting.noise,
        max_grad_norm=setting.clip,
        poisson_sampling=False,  # every step is the whole batch, as for the other candidates
        grad_sample_mode=mode,
    )
    wrapped, optimizer, criterion = made[:3]

    def run() -> None:
        outputs = wrapped(inputs)
        if not ghost:
            setting.workload.loss(outputs, labels).backward()  # type: ignore[no-untyped-call]
        elif outputs.ndim == 3:
            criterion(outputs.flatten(0, 1), labels.flatten(), shape=outputs.shape).backward()
        else:
            criterion(outputs, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(model, run)


class PositionsForEachRow(Transformer):
    """Opacus takes the first dimension of every module's input for the rows of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device).expand_as(x).contiguous()
        h = self.tokens(x) + self.positions(places)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class OneHotByComparison(CharacterLSTM):
    """`F.one_hot` looks at values, which vmap cannot do."""

    def forward(self, x: Tensor) -> Tensor:
        symbols = torch.arange(self.symbols, device=x.device)
        outputs, _ = self.lstm((x[..., None] == symbols).to(self.head.weight.dtype))
        return self.head(outputs)


CANDIDATES: dict[str, Callable[[Setting], Step]] = {
    "plain": plain,
    "deniable": with_deniable,
    "vmap": with_vmap,
    **{f"opacus {mode}": partial(with_opacus, mode=mode) for mode in OPACUS_MODES},
}


def released(name: str, setting: Setting) -> Tensor:
    """What one step without noise takes off the weights, times the batch size: the clipped sum."""
    names = sorted(setting.workload.build().state_dict())
    step = CANDIDATES[name](setting.quiet())

    def weights() -> Tensor:
        # Opacus's LSTM keeps its parameters in another order, but knows them by these names too.
        state = step.model.state_dict()
        return torch.cat([state[name].double().flatten() for name in names])

    before = weights()
    step.run()
    return (before - weights()) * (setting.batch / setting.quiet().lr)


def one_row_at_a_time(setting: Setting) -> Tensor:
    """The clipped sum by the definition, in float64: a plain backward for every row."""
    model, inputs, labels = setting.start()
    clip = setting.quiet().clip
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    state = model.double().state_dict(keep_vars=True)
    parameters = [state[name] for name in sorted(state)]
    total = torch.zeros(sum(each.numel() for each in parameters), device=setting.device).double()
    for row, label in zip(inputs, labels, strict=True):
        loss = setting.workload.loss(model(row[None]), label[None])
        gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])
        total += gradient * (clip / gradient.norm()).clamp(max=1.0)
    return total


def error(name: str, setting: Setting, expected: Tensor) -> float:
    """How far the candidate's clipped sum is from the expected one, relative to its norm."""
    return float((released(name, setting) - expected).norm() / expected.norm())
