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

# "fast gradient clipping" is the ghost mode without its shortcuts to a norm, layer by layer.
OPACUS_MODES = ("hooks", "functorch", "ew", "ghost", "fast gradient clipping", "ghost_fsdp")

# The strategies that a session chose, as `Chooser.state` gives them.
Choices = list[dict[str, Any]]


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


def gathered(inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch of every step, picked from the data by index, as any training loop does."""
    everyone = torch.arange(len(inputs), device=inputs.device)
    while True:
        yield inputs.index_select(0, everyone), labels.index_select(0, everyone)


@dataclass(frozen=True)
class Step:
    """A candidate that is ready: each `run()` is one training step of `model`.

    Attributes:
        needs: what its user must do to the workload's model or loop before it runs.
        explain: how norms are computed, for those who say it.
        choices: the same for a program.
    """

    model: nn.Module
    run: Callable[[], None]
    needs: str = ""
    explain: Callable[[], str] = str
    choices: Callable[[], Choices] = list


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
    return Loop(model, optimizer, gathered(inputs, labels), setting.workload.loss)


def deniable_loop(
    setting: Setting, choices: Choices | None = None
) -> tuple[Loop, deniable.PrivateSession]:
    """The same loop, attached; each draw is the whole batch, so that every step has its size.

    Args:
        setting: what to train.
        choices: strategies that were chosen before; None: the first step tries them.
    """
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
    if choices is not None:
        private._capture.chooser.restore(choices)
    everyone = np.arange(setting.batch)
    private._source.sampling.draw = lambda: everyone  # type: ignore[method-assign]
    batches = private.batches((inputs, labels))
    return Loop(model, optimizer, batches, setting.workload.loss), private


def plain(setting: Setting) -> Step:
    """PyTorch as it is: no bound, no noise."""
    loop = plain_loop(setting)
    return Step(loop.model, loop.run)


def with_deniable(setting: Setting, choices: Choices | None = None) -> Step:
    """The user's loop, attached."""
    loop, private = deniable_loop(setting, choices)
    chooser = private._capture.chooser
    return Step(loop.model, loop.run, explain=private.explain, choices=chooser.state)


def with_vmap(setting: Setting) -> Step:
    """`torch.func`: per-row gradients by `vmap(grad(...))`, then clipped, summed, noised."""
    model, inputs, labels = setting.start()
    needs = ""
    if isinstance(model, CharacterLSTM):
        model.__class__ = OneHotByComparison
        needs = "one-hot vectors made by comparison, because F.one_hot looks at values"
    optimizer = SGD(model.parameters(), lr=setting.lr)
    deviation = setting.noise * setting.clip

    def loss(parameters: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        outputs = functional_call(model, parameters, (row[None],))
        return setting.workload.loss(outputs, label[None])

    per_row, batches = vmap(grad(loss), in_dims=(None, 0, 0)), gathered(inputs, labels)

    @torch.no_grad()
    def run() -> None:
        parameters = dict(model.named_parameters())
        values = {name: each.detach() for name, each in parameters.items()}
        gradients = per_row(values, *next(batches))
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

    return Step(model, run, needs)


def with_opacus(setting: Setting, mode: str) -> Step:
    """Opacus as its users call it, in one of its gradient modes."""
    from opacus import GradSampleModule, PrivacyEngine
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.validators import ModuleValidator

    model, inputs, labels = setting.start()
    needs = []
    if isinstance(model, Transformer):
        model.__class__ = PositionsForEachRow
        needs.append("position numbers repeated for every row")
    if isinstance(model, CharacterLSTM):
        needs.append("nn.LSTM replaced by DPLSTM, which runs step by step in Python")
    model = ModuleValidator.fix(model)
    optimizer: Any = SGD(model.parameters(), lr=setting.lr)
    wrapped: nn.Module | GradSampleModule = model
    if mode == "fast gradient clipping":
        mode = "ghost"
        wrapped = GradSampleModuleFastGradientClipping(
            model, max_grad_norm=setting.clip, use_ghost_clipping=False
        )
    made = PrivacyEngine(accountant="rdp").make_private(
        module=wrapped,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(inputs, labels), batch_size=setting.batch),
        noise_multiplier=setting.noise,
        max_grad_norm=setting.clip,
        poisson_sampling=False,  # every step is the whole batch, as for the other candidates
        grad_sample_mode=mode,
    )
    wrapped, optimizer, criterion = made[:3]
    two_passes, batches = mode.startswith("ghost"), gathered(inputs, labels)
    if two_passes and labels.ndim == 2:
        needs.append("the loss given the outputs' shape")

    def run() -> None:
        inputs, labels = next(batches)
        outputs = wrapped(inputs)
        if not two_passes:
            setting.workload.loss(outputs, labels).backward()  # type: ignore[no-untyped-call]
        elif outputs.ndim == 3:
            criterion(outputs.flatten(0, 1), labels.flatten(), shape=outputs.shape).backward()
        else:
            criterion(outputs, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(model, run, ", ".join(needs))


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
