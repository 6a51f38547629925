"""A model of the time of a round: fitted on some settings, checked on others, asked about many.

    python -m benchmarks.collaborate_rounds --measure
    python -m benchmarks.collaborate_rounds

The coordinator asks, every worker computes on its rows and uploads, the coordinator merges and
steps. So for `n` workers, a batch of `B`, `P` parameters and the share `u` of them that is sent,

    T = t0 + a R P + p P + w n + y (down + up) + s P [u < 1] + c [crowded] + (down + up) / W + k L

where `R` is the expected largest number of rows that any of `n` workers draws (Poisson, `B / n`
each); `down` and `up` are the bytes of all workers; `W` is the bandwidth and `L` the latency one
way of the coordinator's link, through which everything goes. `a` is a worker's time for a row and
parameter, `p` what a parameter costs beside it (clipped sums, noise, the step), `w` what a worker
costs the coordinator, `y` what a byte costs where the network itself is free, `s` the choice of
coordinates, and `c` what it costs that more processes compute than there are cores. Coefficients
are least squares of relative errors, none below 0; `k` is fitted on the settings with a slow
network alone.

More workers than cores cannot compute at the same time here: such settings have few rows, and each
worker sleeps for a known time a row instead.
"""

from __future__ import annotations

import heapq
import os
import selectors
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from scipy import optimize, stats
from torch import nn

import deniable
from benchmarks import machine, results
from benchmarks.lossy import LossyNetwork
from benchmarks.processes import Training
from deniable.collaborate import Central, Local, Place
from deniable.papers.charts import Line, Panel, draw

OUT = results.FOLDER / "collaborate_rounds.json"
FIGURE = Path(__file__).parent.parent / "docs" / "rounds.png"
EXAMPLES, FEATURES, CLASSES = 4_000, 60, 10
FIRST = 6
CORES, MANY_CORES = len(os.sched_getaffinity(0)), 1 << 20
PREDICTED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# name: workers, batch, hidden, upload, seconds of sleep a row, bandwidth in bytes/s, latency in s
Setting = tuple[int, int, int, float, float, float | None, float]
FITTED: dict[str, Setting] = {
    "1 worker, batch 64": (1, 64, 1000, 1.0, 0.0, None, 0.0),
    "1 worker, batch 512": (1, 512, 1000, 1.0, 0.0, None, 0.0),
    "2 workers, batch 128": (2, 128, 1000, 1.0, 0.0, None, 0.0),
    "2 workers, batch 1024": (2, 1024, 1000, 1.0, 0.0, None, 0.0),
    "2 workers, 4,000 units": (2, 64, 4000, 1.0, 0.0, None, 0.0),
    "2 workers, 250 units": (2, 64, 250, 1.0, 0.0, None, 0.0),
    "4 workers asleep": (4, 16, 1000, 1.0, 2e-3, None, 0.0),
    "8 workers asleep": (8, 16, 1000, 1.0, 2e-3, None, 0.0),
    "8 workers asleep, 4,000 units": (8, 16, 4000, 1.0, 2e-3, None, 0.0),
    "2 workers, a tenth": (2, 64, 4000, 0.1, 0.0, None, 0.0),
    "2 workers, 20 MB/s and 5 ms": (2, 64, 1000, 1.0, 0.0, 20e6, 5e-3),
    "2 workers, 20 MB/s and 40 ms": (2, 64, 250, 1.0, 0.0, 20e6, 40e-3),
}
HELD_OUT: dict[str, Setting] = {
    "1 worker, batch 256": (1, 256, 1000, 1.0, 0.0, None, 0.0),
    "2 workers, batch 512": (2, 512, 1000, 1.0, 0.0, None, 0.0),
    "2 workers, 2,000 units": (2, 256, 2000, 1.0, 0.0, None, 0.0),
    "6 workers asleep, 2,000 units": (6, 24, 2000, 1.0, 2e-3, None, 0.0),
    "4 workers asleep, a tenth": (4, 16, 2000, 0.1, 2e-3, None, 0.0),
    "2 workers, 10 MB/s and 20 ms": (2, 128, 500, 1.0, 0.0, 10e6, 20e-3),
    "4 workers asleep, 20 MB/s and 10 ms": (4, 16, 500, 1.0, 2e-3, 20e6, 10e-3),
}


class SlowNetwork(LossyNetwork):
    """Two namespaces joined by a wire of a bandwidth and a latency, the same both ways.

    Args:
        name: of this network.
        bandwidth: bytes a second.
        latency: seconds, one way.
    """

    def __init__(self, name: str, bandwidth: float, latency: float) -> None:
        super().__init__(name, 0.0, 0)
        self.bandwidth, self.latency = bandwidth, latency

    def _carry(self) -> None:
        free, due = [0.0, 0.0], list[tuple[float, int, int, bytes]]()
        with selectors.DefaultSelector() as ready:
            for side in (0, 1):
                ready.register(self._ends[side], selectors.EVENT_READ, side)
            while not self._over.is_set():
                wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.2
                for key, _ in ready.select(timeout=wait):
                    packet, side = os.read(key.fd, 65536), key.data
                    free[side] = max(free[side], time.monotonic()) + len(packet) / self.bandwidth
                    at = free[side] + self.latency
                    heapq.heappush(due, (at, self.carried, 1 - side, packet))
                    self.carried += 1
                while due and due[0][0] <= time.monotonic():
                    _, _, to, packet = heapq.heappop(due)
                    os.write(self._ends[to], packet)


def script(place: Place, batch: int, hidden: int, upload: float, sleep: float, rounds: int) -> Any:
    """What every process runs; the coordinator returns seconds and bytes of each round."""
    torch.manual_seed(place.rank)
    data = torch.randn(EXAMPLES, FEATURES), torch.arange(EXAMPLES) % CLASSES
    model = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(
        EXAMPLES, batch, steps=rounds + FIRST, noise_multiplier=1.0, delta=1e-5, accountant="rdp"
    )
    mode = Local(upload) if upload < 1 else Central()
    private = deniable.collaborate(model, optimizer, plan, mode=mode, place=place)
    if private.is_coordinator:
        ends, up, down = [], [], []
        for done in private.rounds():
            ends.append(time.perf_counter())
            up.append(done.bytes_up)
            down.append(done.bytes_down)
        took = [after - before for before, after in pairwise(ends)][FIRST - 1 :]
        return statistics.median(took), statistics.fmean(up[FIRST:]), statistics.fmean(down[FIRST:])
    for inputs, labels in private.batches(data):
        F.cross_entropy(model(inputs), labels).backward()
        time.sleep(sleep * len(labels))
        optimizer.step()
        optimizer.zero_grad()
    return None


def measured(name: str, setting: Setting, rounds: int) -> dict[str, Any]:
    """A row of the results."""
    workers, batch, hidden, upload, sleep, bandwidth, latency = setting
    network = None if bandwidth is None else SlowNetwork("slow", bandwidth, latency)
    training = Training(workers, script, batch, hidden, upload, sleep, rounds, network=network)
    training.start()
    try:
        seconds, up, down = training.ended()[0]
    finally:
        training.end()
    return {
        "name": name, "workers": workers, "batch_size": batch, "upload": upload, "sleep": sleep,
        "cores": CORES, "parameters": FEATURES * hidden + hidden + hidden * CLASSES + CLASSES,
        "bandwidth": bandwidth, "latency": latency, "rounds": rounds,
        "seconds": seconds, "bytes_up": up, "bytes_down": down, "fitted": name in FITTED,
        **machine.moment(),
    }  # fmt: skip


def most_rows(batch: float, workers: int) -> float:
    """The expected largest of `workers` Poisson numbers of mean `batch / workers`."""
    mean = batch / workers
    upto = np.arange(0, int(mean + 12 * np.sqrt(mean) + 20))
    return float((1 - stats.poisson.cdf(upto, mean) ** workers).sum())


TERMS = ("t0", "a", "p", "w", "y", "s", "c")


def _terms(row: dict[str, Any]) -> list[float]:
    """What the coefficients multiply, and then what is known without them."""
    n, p = row["workers"], row["parameters"]
    rows = most_rows(row["batch_size"], n)
    moved = row["bytes_up"] + row["bytes_down"]
    crowded = not row["sleep"] and row.get("cores", CORES) < n + 1
    return [1.0, rows * p, p, n, moved, p * (row["upload"] < 1), float(crowded)]


def _known(row: dict[str, Any]) -> float:
    """Sleeping, and the wire: both directions can be full at once, but not in one round."""
    slept = row["sleep"] * most_rows(row["batch_size"], row["workers"])
    moved = row["bytes_up"] + row["bytes_down"]
    return slept + (moved / row["bandwidth"] if row["bandwidth"] else 0.0)


def fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The coefficients, from the fitted rows."""
    near = [row for row in rows if row["fitted"] and not row["bandwidth"]]
    seconds = np.array([row["seconds"] for row in near])
    table = np.array([_terms(row) for row in near]) / seconds[:, None]
    scale = table.max(0)
    scale[scale == 0] = 1.0
    goal = np.array([1 - _known(row) / row["seconds"] for row in near])
    found = optimize.nnls(table / scale, goal)[0] / scale
    coefficients = dict(zip(TERMS, map(float, found), strict=True))
    far = [row for row in rows if row["fitted"] and row["bandwidth"]]
    over = np.array([row["seconds"] - seconds_of(coefficients | {"k": 0.0}, row) for row in far])
    latencies = np.array([row["latency"] for row in far])
    weights = 1 / np.array([row["seconds"] for row in far]) ** 2
    k = float((weights * latencies * over).sum() / (weights * latencies**2).sum())
    return coefficients | {"k": max(0.0, k)}


def seconds_of(coefficients: dict[str, float], row: dict[str, Any]) -> float:
    """What the model says of a setting."""
    values = [coefficients[name] for name in TERMS]
    own = sum(value * term for value, term in zip(values, _terms(row), strict=True))
    return own + _known(row) + coefficients["k"] * row["latency"]


def predictions(coefficients: dict[str, float]) -> list[dict[str, Any]]:
    """Rounds of many workers, and which part of a round is the largest."""
    found = []
    for label, hidden, bandwidth, latency, upload in (
        ("no network, cores for all", 1000, None, 0.0, 1.0),
        ("1 GB/s, 0.1 ms", 1000, 1e9, 1e-4, 1.0),
        ("100 MB/s, 1 ms", 1000, 1e8, 1e-3, 1.0),
        ("10 MB/s, 20 ms", 1000, 1e7, 2e-2, 1.0),
        ("10 MB/s, 20 ms, a tenth uploaded", 1000, 1e7, 2e-2, 0.1),
    ):
        p = FEATURES * hidden + hidden + hidden * CLASSES + CLASSES
        for workers in PREDICTED:
            row = {
                "workers": workers, "cores": MANY_CORES, "batch_size": 8192,
                "parameters": p, "sleep": 0.0,
                "upload": upload, "bandwidth": bandwidth, "latency": latency,
                "bytes_up": workers * 4.0 * p * (1.0 if upload == 1 else 1.15 * upload),
                "bytes_down": workers * 4.0 * p,
            }  # fmt: skip
            values = [coefficients[name] for name in TERMS]
            own = [value * term for value, term in zip(values, _terms(row), strict=True)]
            wire = _known(row)
            parts = {
                "computing rows": own[1],
                "each parameter": own[2] + own[5],
                "each worker": own[3],
                "bytes through the coordinator": own[4] + wire,
                "latency": coefficients["k"] * latency,
            }
            found.append(
                {
                    "network": label, "workers": workers, "seconds": seconds_of(coefficients, row),
                    "largest": max(parts, key=lambda name: parts[name]),
                    "parts": parts,
                }
            )  # fmt: skip
    alone = {each["network"]: each["seconds"] for each in found if each["workers"] == 1}
    return [each | {"speedup": alone[each["network"]] / each["seconds"]} for each in found]


def figure(found: list[dict[str, Any]], path: Path) -> None:
    """How much faster many workers are, by network."""
    networks = dict.fromkeys(each["network"] for each in found)
    lines = [
        Line(
            network,
            [(each["workers"], each["speedup"]) for each in found if each["network"] == network],
        )
        for network in networks
    ]
    panel = Panel(
        "workers", "speed, in times one worker's", lines,
        "Predicted: 71,010 parameters, batch 8,192", logarithmic="xy", percent=False,
        x_at=PREDICTED,
    )  # fmt: skip
    draw(path, panel)


def main(
    measure: Annotated[bool, typer.Option(help="Run the settings; else only fit.")] = False,
    only: Annotated[str, typer.Option(help="fitted, held-out or near.")] = "",
    rounds: Annotated[int, typer.Option(help="Of each setting.")] = 25,
    out: Annotated[Path, typer.Option(help="Results file.")] = OUT,
) -> None:
    """Measure, fit, check on held-out settings, and predict."""
    say = Console(stderr=True).print
    found = results.begin(out, machine.header("benchmarks.collaborate_rounds", "cpu"), False)
    if measure:
        chosen = {"fitted": FITTED, "held-out": HELD_OUT}.get(only, FITTED | HELD_OUT)
        for name, setting in chosen.items():
            row = measured(name, setting, rounds)
            results.put(found, row)
            results.save(out, found)
            say(f"{name}: {1e3 * row['seconds']:.1f} ms, {row['bytes_up'] / 1e3:.0f} kB up")
    found["coefficients"] = fit(found["rows"])
    for row in found["rows"]:
        row["predicted"] = seconds_of(found["coefficients"], row)
    errors = [
        abs(row["predicted"] / row["seconds"] - 1) for row in found["rows"] if not row["fitted"]
    ]
    if errors:
        found["held_out"] = {"median": statistics.median(errors), "largest": max(errors)}
    found["predictions"] = predictions(found["coefficients"])
    results.save(out, found)
    if out == OUT:
        figure(found["predictions"], FIGURE)
    for row in found["rows"]:
        kind = "fitted" if row["fitted"] else "held out"
        say(
            f"{row['name']} ({kind}): {1e3 * row['seconds']:.1f} ms, model "
            f"{1e3 * row['predicted']:.1f} ms"
        )
    say(found["coefficients"], found.get("held_out"))
    for each in found["predictions"]:
        say(
            f"{each['network']}, {each['workers']} workers: {1e3 * each['seconds']:.1f} ms, "
            f"{each['speedup']:.2f} times one; largest part: {each['largest']}"
        )


if __name__ == "__main__":
    typer.run(main)
