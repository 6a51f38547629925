"""Xia et al., the workers: how much faster they are together, and what selective upload saves."""

from __future__ import annotations

from pathlib import Path

from deniable.papers.charts import Line, Panel, draw
from deniable.papers.claims import Claim, Experiment, Verdict
from deniable.papers.points import Together
from deniable.papers.results import Results
from deniable.words import percent

# -- figure 7 -------------------------------------------------------------------------------------

SIZES = (32, 64, 128, 256, 512, 1024)


def _timed(size: int, workers: int) -> Together:
    return Together(
        "mnist", 1000, 60, size, steps=60, workers=workers, noise_multiplier=4.0
    )  # fmt: skip


def _speeds(results: Results) -> dict[int, float]:
    """How many times as fast two workers are as one, by batch size."""
    found = {}
    for name in results:
        size, _, workers = name.partition(", ")
        if workers == "2 workers":
            one, two = results[f"{size}, 1 worker"], results[name]
            found[int(size.removeprefix("batch "))] = one["round_seconds"] / two["round_seconds"]
    if len(found) < 2:
        raise KeyError("workers")
    return dict(sorted(found.items()))


def _faster(results: Results) -> Verdict:
    found = _speeds(results)
    said = ", ".join(f"{gain:.2f} at {size}" for size, gain in found.items())
    best = max(found.values())
    return Verdict(
        best >= 1.2,
        f"times as fast as one worker: {said}",
        "The paper compares four GPUs with a CPU and finds 23.5%. Here two workers of one thread "
        "are compared with one, each beside a coordinator, on two cores. This network computes for "
        "a few milliseconds a round, and a second worker costs the coordinator about as much: "
        "[rounds.md](../rounds.md) says when it pays.",
    )


def _best_at_128(results: Results) -> Verdict:
    found = _speeds(results)
    best = max(found, key=lambda size: found[size])
    return Verdict(
        best == 128,
        f"largest at {best} ({found[best]:.2f})",
        ""
        if best == 128
        else "Work grows with the batch, and what a round costs beside it does not: so does the "
        "gain. A maximum in between must come from something that the paper does not describe.",
    )


def _figure_7(results: Results, path: Path) -> None:
    try:
        found = _speeds(results)
    except KeyError:
        return
    panels = [
        Panel(
            "batch size", "speed, in times one worker's",
            [Line("two workers", list(found.items()))],
            results.data, logarithmic="x", percent=False, x_at=tuple(found), y_limits=(0.0, 2.1),
        ),
        Panel(
            "batch size", "milliseconds a round",
            [
                Line(
                    f"{workers} worker{'s' * (workers > 1)}",
                    [
                        (size, 1000 * results[_timed_name(size, workers)]["round_seconds"])
                        for size in found
                    ],
                    dashed=workers == 1,
                )
                for workers in (1, 2)
            ],
            results.data, logarithmic="x", percent=False, x_at=tuple(found),
        ),
    ]  # fmt: skip
    draw(path, *panels)


def _timed_name(size: int, workers: int) -> str:
    return f"batch {size}, {workers} worker{'s' * (workers > 1)}"


FIGURE_7 = Experiment(
    name="figure-7",
    title="Figure 7: how much faster workers are together",
    settings=(
        "The network of the other figures, on 60 public components; central mode, one coordinator "
        "that computes nothing, workers of one thread each on one machine. The median of 51 rounds "
        "after the first 9, from one step of the coordinator to the next."
    ),
    points={_timed_name(size, n): _timed(size, n) for size in SIZES for n in (1, 2)},
    quick={
        _timed_name(size, n): _timed(size, n).but(data="digits", hidden=100, components=0, steps=20)
        for size in (64, 256)
        for n in (1, 2)
    },
    claims=(
        Claim("faster", "Training is 20% to 30% faster", _faster),
        Claim("128", "The gain is by far the largest at batch size 128", _best_at_128),
    ),
    draw=_figure_7,
)

# -- selective upload -----------------------------------------------------------------------------

SHARES = (1.0, 0.3, 0.1, 0.03)


def _uploading(share: float, carry: bool = False) -> Together:
    return Together(
        "mnist", 1000, 60, 2000, steps=300, workers=2, mode="local", upload=share, carry=carry,
        lr=(10.0, 1.0), norm=0.3, epsilon=2.0,
    )  # fmt: skip


def _shares(shares: tuple[float, ...]) -> dict[str, Together]:
    return {f"upload={share:g}": _uploading(share) for share in shares} | {
        f"upload={share:g}, carried": _uploading(share, carry=True) for share in shares if share < 1
    }


def _few_bytes(results: Results) -> Verdict:
    whole, tenth = results["upload=1"], results["upload=0.1"]
    sent = tenth["bytes_up"] / whole["bytes_up"]
    return Verdict(
        sent <= 0.12,
        f"{percent(sent, 1)} of the bytes at 10% of the coordinates",
        "Values of 32 bits, and places in about 5 bits each.",
    )


def _little_lost(results: Results) -> Verdict:
    whole = results.accuracy("upload=1")
    found = {
        name: results.accuracy(name)
        for name in ("upload=0.1", "upload=0.1, carried")
        if name in results
    }
    if not found:
        raise KeyError("upload=0.1")
    best = max(found.values())
    said = ", ".join(
        f"{percent(each, 1)} {'carrying' if 'carried' in name else 'dropping'} the rest"
        for name, each in found.items()
    )
    return Verdict(
        whole - best <= 0.015,
        f"{percent(whole, 1)} with everything, {said}",
        "At epsilon 2, local mode: each of two workers noises its own gradient, and chooses among "
        "noisy values, so that the choice tells nothing more.",
    )


def _upload_figure(results: Results, path: Path) -> None:
    def line(label: str, ending: str, value: str, scale: float = 1.0) -> Line:
        found = [
            (float(name.partition("=")[2].removesuffix(", carried")), scale * results[name][value])
            for name in results
            if name == "upload=1" or name.endswith(", carried") == bool(ending)
        ]
        return Line(label, sorted(found))

    if "upload=1" not in results:
        return
    shares = tuple(sorted({point for point, _ in line("", "", "accuracy").points}))
    draw(
        path,
        Panel(
            "share of coordinates uploaded", "accuracy",
            [line("the rest dropped", "", "accuracy"), line("the rest carried", "x", "accuracy")],
            results.data, logarithmic="x", x_at=shares,
        ),
        Panel(
            "share of coordinates uploaded", "kilobytes up, a round",
            [line("both workers", "", "bytes_up", 1e-3)],
            results.data, logarithmic="xy", percent=False, x_at=shares,
        ),
    )  # fmt: skip


UPLOAD = Experiment(
    name="upload",
    title="Uploading selectively: bytes and accuracy",
    settings=(
        "Two workers in local mode, 60 public components, 300 rounds of 2,000 examples, clip norm "
        "0.3, epsilon 2 for each half of the data. A worker uploads the coordinates of its noisy "
        "gradient that are largest; the others are dropped, or carried over to the next round. The "
        "paper shows no figure of this."
    ),
    points=_shares(SHARES),
    quick={
        name: each.but(data="digits", hidden=100, components=0, batch_size=144, steps=60)
        for name, each in _shares((1.0, 0.1)).items()
    },
    claims=(
        Claim("bytes", "Selective upload saves transfers", _few_bytes, of="upload=1"),
        Claim(
            "accuracy",
            "The gradients that vary greatly are enough to update the model",
            _little_lost,
            of="upload=1",
        ),
    ),
    draw=_upload_figure,
)
