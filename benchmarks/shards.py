"""Memory of each process when a transformer is trained whole, and in shards (FSDP2).

    python -m benchmarks.shards

Each setting runs in fresh processes, on gloo. What counts is resident memory beyond what a process
held after one step on a tiny model: between steps (parameters and the optimizer's state), and at
the peak of the third step (gradients, noise and what a block gathers on top of that). Every rank
has the same number of rows, so that activations are alike in all settings.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import typer
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import deniable
from benchmarks import machine, results
from benchmarks.memory import ENVIRONMENT, kilobytes

OUT = results.FOLDER / "shards.json"
WORDS, LENGTH, ROWS, EXAMPLES = 512, 16, 2, 64
STEPS = 3


class Transformer(nn.Module):
    """Embeddings, encoder layers, and the embeddings again as the output layer."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.words.weight)


def trained(width: int, layers: int, sharded: bool) -> dict[str, int]:
    """Resident kilobytes after the second step, and at the peak of the third."""
    torch.manual_seed(0)
    model = Transformer(width, layers)
    size = dist.get_world_size()
    if sharded:
        for layer in model.layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    plan = deniable.Plan(
        EXAMPLES, ROWS * size, steps=STEPS, noise_multiplier=1.0, delta=1e-3, sampling="fixed-size"
    )
    private = deniable.attach(model, optimizer, plan)
    found = {}
    data = torch.randint(WORDS, (EXAMPLES, LENGTH))
    for words in private.batches(data):
        if private.steps == STEPS - 1:
            found["kept"] = kilobytes("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
        loss = F.cross_entropy(model(words).flatten(0, 1), words.roll(-1, 1).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        gc.collect()
    return found | {"peak": kilobytes("VmHWM")}


def _member(rank: int, size: int, folder: str, queue: Any, setting: tuple[int, int, bool]) -> None:
    torch.set_num_threads(1)
    store = f"file://{Path(folder) / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    trained(16, 1, setting[2])  # libraries and kernels load with this
    gc.collect()
    before = kilobytes("VmRSS")
    found = trained(*setting)
    queue.put({name: 1024 * (each - before) for name, each in found.items()})
    dist.barrier()
    dist.destroy_process_group()


def measured(width: int, layers: int, size: int, sharded: bool) -> dict[str, Any]:
    """A row of the results: the most that any of the processes held."""
    os.environ.update(ENVIRONMENT)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        setting = (width, layers, sharded)
        processes = [
            context.Process(target=_member, args=(rank, size, folder, queue, setting))
            for rank in range(size)
        ]
        for each in processes:
            each.start()
        found = [queue.get(timeout=300) for _ in processes]
        for each in processes:
            each.join()
    parameters = sum(each.numel() for each in Transformer(width, layers).parameters())
    return {
        "name": f"{size} in shards" if sharded else "whole",
        "processes": size,
        "sharded": sharded,
        "width": width,
        "layers": layers,
        "parameters": parameters,
        "rows": ROWS,
        "kept": max(each["kept"] for each in found),
        "peak": max(each["peak"] for each in found),
        **machine.moment(),
    }


def main(
    width: Annotated[int, typer.Option(help="Of the transformer.")] = 512,
    layers: Annotated[int, typer.Option(help="Of the transformer.")] = 8,
    out: Annotated[Path, typer.Option(help="Results file.")] = OUT,
) -> None:
    """Measure, and write the results file."""
    found = results.begin(out, machine.header("benchmarks.shards", "cpu"), False)
    for size, sharded in ((1, False), (2, True), (4, True)):
        row = measured(width, layers, size, sharded)
        results.put(found, row)
        results.save(out, found)
        megabytes = {name: f"{row[name] / 1e6:.0f} MB" for name in ("kept", "peak")}
        Console(stderr=True).print(
            f"{row['name']}: {row['parameters'] / 1e6:.1f} million parameters, "
            f"{megabytes['kept']} between steps, {megabytes['peak']} at the peak"
        )


if __name__ == "__main__":
    typer.run(main)
