"""What ranks do in the tests of replicas and shards; see `crew.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import deniable
from deniable.errors import DeniableError

WORDS, LENGTH, WIDTH = 11, 6, 8
ROWS = 24


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Two blocks, a table of positions that is cut to length, and tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Parameter(0.1 * torch.randn(LENGTH + 3, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.double()

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.positions[: words.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def loss_of(model: nn.Module, words: Tensor) -> Tensor:
    """Of the next word, a mean over rows and places."""
    return F.cross_entropy(model(words).flatten(0, 1), words.roll(-1, 1).flatten())


def sentences() -> Tensor:
    return torch.randint(WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))


def in_parts(model: nn.Module, kind: str) -> nn.Module:
    """The model as ranks hold it: "replica", "ddp", "fsdp", or "hybrid" (replicas of shards)."""
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind in ("fsdp", "hybrid"):
        size = dist.get_world_size()
        shape, names = (
            ((2, size // 2), ("replica", "shard")) if kind == "hybrid" else ((size,), None)
        )
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for block in getattr(model, "blocks", ()):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def together(model: nn.Module, kind: str, plan: deniable.Plan, **given: Any) -> Any:
    """Model, optimizer and session, on each rank."""
    model = in_parts(model, kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    group = dist.group.WORLD if kind == "replica" else None
    private = deniable.attach(model, optimizer, plan, process_group=group, **given)
    return model, optimizer, private


def whole(parameter: Tensor) -> Tensor:
    """All of it, whatever is held here."""
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach()


def gradients(model: nn.Module) -> dict[str, Any]:
    return {
        name.removeprefix("module."): whole(each.grad).numpy()
        for name, each in model.named_parameters()
    }


def plan_of(**changes: Any) -> deniable.Plan:
    given = {"examples": ROWS, "batch_size": 6, "steps": 8, "noise_multiplier": 0.0, "delta": 1e-3}
    return deniable.Plan(**(given | changes))


def released_sums(
    kind: str, drawn: Sequence[int], norm: float, rows: int | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """For each number of drawn rows: how many were this rank's, and the sum that was released."""
    plan = plan_of()
    model, optimizer, private = together(
        Transformer(), kind, plan, bound=deniable.Clip(norm), seed=1
    )
    counts = iter(drawn)
    private._source.sampling.draw = lambda: np.arange(next(counts))
    found, mine = [], 0
    for words in private.batches(sentences(), rows=rows, steps=len(drawn)):
        mine += len(words)
        loss_of(model, words).backward()
        before = private.steps
        with torch.no_grad():
            kept = [each.detach().clone() for each in model.parameters()]
        optimizer.step()
        if private.steps > before:
            sums = gradients(model)
            found.append((mine, {name: each * plan.batch_size for name, each in sums.items()}))
            mine = 0
            with torch.no_grad():
                for each, value in zip(model.parameters(), kept, strict=True):
                    each.copy_(value)
        optimizer.zero_grad()
    private.detach()
    return found


def trained(kind: str, bound: deniable.Bound, rows: int | None, noise: float) -> dict[str, Any]:
    """The weights after eight steps with momentum, and what was spent."""
    torch.set_grad_enabled(True)
    model = in_parts(Transformer(), kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    private = deniable.attach(
        model, optimizer, plan_of(noise_multiplier=noise), bound, seed=5,
        process_group=dist.group.WORLD if kind == "replica" else None,
    )  # fmt: skip
    for words in private.batches(sentences(), rows=rows):
        loss_of(model, words).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name.removeprefix("module."): whole(each).numpy() for name, each in
               model.named_parameters()}  # fmt: skip
    return {"weights": weights, "epsilon": private.spent().epsilon, "bound": private.bound.state()}


def noise_alone(kind: str) -> list[Any]:
    """Two releases of nothing but noise: the whole of it, as each rank sees it."""
    model, optimizer, private = together(
        nn.Linear(300, 101), kind, plan_of(noise_multiplier=3.0), bound=deniable.Clip(0.5)
    )
    private._source.sampling.draw = lambda: np.arange(0)
    found = []
    for inputs, labels in private.batches((torch.zeros(ROWS, 300), torch.zeros(ROWS).long())):
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        found.append(np.concatenate([each.ravel() for each in gradients(model).values()]))
        optimizer.zero_grad()
    return found


def refusals(kinds: Sequence[str], folder: str) -> list[str]:
    """What ranks say to one thing that is not allowed after another."""
    return [_refusal(kind, folder) for kind in kinds]


def _refusal(kind: str, folder: str) -> str:
    rank, plan = dist.get_rank(), plan_of(noise_multiplier=1.0)
    given: dict[str, Any] = {"bound": deniable.Clip(1.0)}
    data = sentences()
    if kind == "plan":
        plan = plan_of(noise_multiplier=1.0 + rank)
    if kind == "seed":
        given["seed"] = rank
    if kind == "part":
        data = data[rank::2]
    if kind == "data":
        data = data + rank
    if kind == "own loader":
        plan = plan_of(noise_multiplier=1.0, sampling="own-loader")
    if kind == "budget":
        given["ledger"] = Path(folder) / "ledger.sqlite"
        if rank == 0:
            with deniable.Ledger(given["ledger"]) as ledger:
                ledger.set_budget(0.01, 1e-3)
    try:
        model, _, private = together(Transformer(), "fsdp", plan, **given)
        for words in private.batches(data, steps=1):
            loss = loss_of(model, words)
            if kind == "around":
                loss = loss + model.norm.weight.square().sum()
            loss.backward()
    except DeniableError as refused:
        return f"{type(refused).__name__}: {refused}"
    return "nothing"


def recorded(folder: str) -> tuple[int, float, str]:
    """Steps, epsilon and what asking for the claim gives, with a ledger in a file."""
    path = Path(folder) / "ledger.sqlite"
    model, optimizer, private = together(
        Transformer(), "fsdp", plan_of(noise_multiplier=2.0), ledger=path, run_id="one"
    )
    for words in private.batches(sentences(), steps=5):
        loss_of(model, words).backward()
        optimizer.step()
        optimizer.zero_grad()
    epsilon = private.spent().epsilon
    try:
        said = str(private.claim().epsilon)
    except DeniableError as refused:
        said = str(refused)
    private.detach()
    return private.steps, epsilon, said


def gone_on(kind: str, folder: str) -> dict[str, Any]:
    """Of a run that is killed after 3 steps and goes on afresh: what each rank says of it."""
    plan = plan_of(noise_multiplier=2.0)
    path = Path(folder) / "ledger.sqlite"
    given: dict[str, Any] = {"run_id": "one", "ledger": path, "budget": 3.0}
    model, optimizer, private = together(Transformer(), kind, plan, **given)
    private.at_once = 2
    for words in private.batches(sentences(), steps=3):
        loss_of(model, words).backward()
        optimizer.step()
        optimizer.zero_grad()
    # No detach: the processes are gone, with a step recorded that was not released.
    model, optimizer, private = together(Transformer(), kind, plan, **given)
    private.go_on()
    began, epsilon, ends_at = private.steps, private.spent().epsilon, private.ends_at
    for words in private.batches(sentences()):
        loss_of(model, words).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"began": began, "epsilon": epsilon, "ends_at": ends_at, "ended": private.steps,
            "spent": private.spent().epsilon}  # fmt: skip


def another_ranks_state(kind: str) -> list[str]:
    """What is said to the state of this rank and of the other, loaded again after two steps."""
    plan = plan_of(noise_multiplier=1.0)
    model, optimizer, private = together(Transformer(), kind, plan, run_id="one")
    for words in private.batches(sentences(), steps=2):
        loss_of(model, words).backward()
        optimizer.step()
        optimizer.zero_grad()
    saved: list[Any] = [None, None]
    dist.all_gather_object(saved, private.state_dict())
    said = []
    earlier = {**saved[1], "steps": 1}
    for states in (saved, [saved[0]] * 2, [saved[1]] * 2, [saved[0], earlier]):
        try:
            private.load_state_dict(states[dist.get_rank()], replay=True)
            said.append("loaded")
        except DeniableError as refused:
            said.append(str(refused))
    return said


def resumed(kind: str) -> bool:
    """Whether a run that goes on from a saved state is the run that was not interrupted."""

    def run(model: nn.Module, optimizer: Any, private: Any, steps: int) -> list[Any]:
        for words in private.batches(sentences(), steps=steps):
            loss_of(model, words).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [whole(each).clone() for each in model.parameters()]

    plan = plan_of(noise_multiplier=1.0)
    model, optimizer, private = together(Transformer(), kind, plan, run_id="one")
    run(model, optimizer, private, 3)
    state, weights = private.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    expected = run(model, optimizer, private, 3)
    model, optimizer, private = together(Transformer(), kind, plan, run_id="one")
    model.load_state_dict(weights)
    private.load_state_dict(state, replay=True)
    found = run(model, optimizer, private, 3)
    return all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
