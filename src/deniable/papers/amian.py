"""Amian: the hyperbolic tangent in place of the norm, with the guarantee that it really gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev

from deniable.papers.charts import Line, Panel, draw
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.points import Named, Point, Recurrent, Training
from deniable.papers.results import Results
from deniable.words import percent, rounded_up

NOISE = 1.1
RANGES = (1.0, 2.0, 4.0)
EXPANSIONS = (1.0, 2.0, 4.0, 8.0)

MNIST = Training(
    "mnist", Named("cnn"), 256, epochs=5, lr=0.15, noise_multiplier=NOISE, cost=15.0
)  # fmt: skip
CIFAR = MNIST.but(data="cifar10", held_out=5000, cost=25.0)
DIGITS = MNIST.but(
    data="digits",
    model=Named("cnn", kernels=(3, 2), strides=(1, 1), channels=(8, 16)),
    batch_size=96,
    epochs=6.0,
    cost=5.0,
)

DPSGD = "dp-sgd"


def _filtered(base: Training, output: float, active: float) -> Training:
    """The paper's algorithm 1: noise of deviation 1.1 on the sum, whatever the filter's range."""
    return base.but(
        noise_multiplier=None,
        noise_deviation=NOISE,
        bound=Named("Tanh", output_range=output, active_range=active),
        cost=1.5 * base.cost,
    )


def _ranges(base: Training) -> dict[str, Training]:
    return {DPSGD: base} | {f"c={c:g}": _filtered(base, c, 1.0) for c in RANGES}


def _expansions(base: Training) -> dict[str, Training]:
    return {DPSGD: base} | {f"k={k:g}": _filtered(base, 1.0, k) for k in EXPANSIONS}


# -- checks ---------------------------------------------------------------------------------------


def _of(letter: str, results: Results) -> list[str]:
    return list(results.numbered(f"{letter}=", least=2).values())


def _better(letter: str, results: Results) -> Verdict:
    base = results.accuracy(DPSGD)
    found = {name: results.accuracy(name) for name in _of(letter, results)}
    said = ", ".join(f"{percent(value)} with {name}" for name, value in found.items())
    row, worse = results[next(iter(found))], [name for name in found if found[name] <= base]
    why = []
    if row.get("nominal_epsilon"):
        why.append("At equal noise, not at equal privacy: see the line on privacy.")
    if worse:
        why.append(
            f"With {' and '.join(worse)} it is not: filtered gradients are far longer than clipped "
            "ones, and at the same learning rate so is each step."
        )
    return Verdict(not worse, f"{said}; DP-SGD {percent(base)}", " ".join(why))


def _privacy(letter: str, results: Results) -> Verdict:
    rows = {name: results[name] for name in _of(letter, results)}
    nominal = next(iter(rows.values()))["nominal_epsilon"]
    said = ", ".join(f"{rounded_up(row['epsilon'])} with {name}" for name, row in rows.items())
    return Verdict(
        False,
        f"guaranteed epsilon {said}; {rounded_up(nominal)} is nominal, not a guarantee",
        "One example can move the filtered sum by c sqrt(n), with n the number of parameters, and "
        "the noise is scaled to 1. The paper says so itself, and relies on gradients being small.",
    )


def _no_effect(results: Results) -> Verdict:
    found = {name: results.accuracy(name) for name in _of("c", results)}
    spread = max(found.values()) - min(found.values())
    return Verdict(
        spread <= 0.03,
        f"{percent(spread)} between the best and the worst range",
        "No effect: within three percentage points. A larger range is also a larger step.",
    )


def _stabilises(results: Results) -> Verdict:
    names = _of("k", results)
    first, last = (pstdev(results.late(name, "step")) for name in (names[0], names[-1]))
    return Verdict(
        last < first,
        f"accuracy over the second half deviates by {percent(first, 2)} with {names[0]}, by "
        f"{percent(last, 2)} with {names[-1]}",
        ""
        if last < first
        else "With a large k accuracy still rises at the end, and that is what deviates. No curve "
        "is unstable here.",
    )


def _lowers(results: Results) -> Verdict:
    names = _of("k", results)
    found = [fmean(results.late(name, "step")[-3:]) for name in names]
    return Verdict(
        found[-1] < found[0],
        f"{percent(found[0])} with {names[0]}, {percent(found[-1])} with {names[-1]}",
        "The mean of the last three rows. A larger k is a smaller step: the slope is c / k.",
    )


# -- figures --------------------------------------------------------------------------------------


def _curves(results: Results, path: Path) -> None:
    names = list(results)
    lines = [
        Line("DP-SGD" if name == DPSGD else name, results.curve(name, "step"), name == DPSGD)
        for name in names
    ]
    draw(path, Panel("training step", "accuracy", lines, results.data))


def _figure(
    number: int,
    title: str,
    data: str,
    points: Mapping[str, Point],
    quick: Mapping[str, Point],
    claims: tuple[Claim, ...],
    settings: str,
) -> Experiment:
    return Experiment(
        name=f"figure-{number}",
        title=f"Figure {number}: {title}, {data}",
        settings=settings,
        points=points,
        quick=quick,
        claims=claims,
        draw=_curves,
    )


SETTINGS = (
    "Delta 1e-5, noise of deviation 1.1 on the sum, batches of 256 in expectation (Poisson "
    "samples: the paper counts them as that, too), every example by itself. The paper states "
    "neither network nor learning rate nor epochs: here the network of TensorFlow Privacy's "
    "tutorial, 0.15, which is that tutorial's, and 5 epochs, for all curves. "
)
OUTPUTS = "Nor does it say which output ranges it tried: here 1, 2 and 4. DP-SGD clips to norm 1."
ACTIVE = "Nor does it say which coefficients it tried: here 1, 2, 4 and 8."
HELD_OUT = " Accuracy is that on the last 5,000 training images, which were held out."


def _about_ranges(better: str) -> tuple[Claim, ...]:
    return (
        Claim("better", better, partial(_better, "c")),
        Claim("no-effect", "The output range has no significant effect on accuracy", _no_effect),
        Claim("privacy", "It costs the privacy that DP-SGD costs", partial(_privacy, "c")),
    )


def _about_expansions() -> tuple[Claim, ...]:
    return (
        Claim("stable", "Larger coefficients lead to more stable results", _stabilises),
        Claim("lower", "Larger coefficients lower the accuracy", _lowers),
        Claim("privacy", "It costs the privacy that DP-SGD costs", partial(_privacy, "k")),
    )


BETTER = "The filter is better than DP-SGD at the same noise"

# -- at an equal guarantee -------------------------------------------------------------------------


def _chained(base: Training, ranges: Sequence[float]) -> dict[str, Training]:
    """The filter with slope 1 at the origin, then a clip: the sensitivity is that of the clip."""
    return {DPSGD: base} | {
        f"c=k={each:g}": base.but(
            bound=Named(
                "Chain",
                bounds=(
                    ("Tanh", {"output_range": each, "active_range": each}),
                    ("Clip", {"norm": 1.0}),
                ),
            ),
            cost=1.5 * base.cost,
        )
        for each in ranges
    }


def _filter_helps(results: Results) -> Verdict:
    base = results[DPSGD]
    found = {name: results.accuracy(name) for name in results if name != DPSGD}
    best = max(found, key=lambda name: found[name])
    gain = found[best] - base["accuracy"]
    return Verdict(
        gain > 0.01,
        f"{percent(found[best])} at best ({best}), {percent(base['accuracy'])} without the filter, "
        f"both at a guaranteed epsilon of {rounded_up(base['epsilon'])}",
        "One seed, so that a difference of less than one percentage point counts as none.",
    )


# -- recurrent networks ---------------------------------------------------------------------------

CURES: dict[str, Named] = {
    "plain": Named("none"),
    "norm": Named("norm", norm=0.3),
    "tanh": Named("tanh", output_range=0.1, active_range=0.3),
}
LENGTH, STEPS, RATE = 40, 12_000, 0.1


def _cured(length: int, steps: int) -> dict[str, Point]:
    return {name: Recurrent(cure, RATE, steps, length) for name, cure in CURES.items()}


CHANCE = 1 / 6


def _said(results: Results, name: str) -> str:
    error = results[name]["error"]
    return "not a number" if error is None else f"{error:.3f}"


def _explodes(results: Results) -> Verdict:
    norms = [row["largest_norm"] for row in results["plain"]["history"]]
    worst = None if None in norms else max(norms)
    error = results["plain"]["error"]
    return Verdict(
        error is None or error > 0.9 * CHANCE,
        f"error {_said(results, 'plain')}, where always answering 1 gives {CHANCE:.3f}; the "
        f"largest gradient had norm {'infinity' if worst is None else f'{worst:.2g}'}",
        "It happens within the first few hundred steps. From then on the answer is a constant, and "
        "what is left of the gradient is small."
        if worst is None
        else "",
    )


def _solves(name: str, results: Results) -> Verdict:
    error = results[name]["error"]
    return Verdict(error is not None and error < CHANCE / 2, f"error {_said(results, name)}")


def _recurrent(results: Results, path: Path) -> None:
    labels = {"plain": "plain SGD", "norm": "norm clipping", "tanh": "tanh filter"}

    def lines(y: str) -> list[Line]:
        found = []
        for name in results:
            rows = [(row["step"], row[y]) for row in results[name]["history"]]
            finite = [(step, value) for step, value in rows if value is not None]
            if finite:
                found.append(Line(labels[name], finite, name == "plain"))
        return found

    draw(
        path,
        Panel("training step", "squared error", lines("error"), "Error, up to the last finite one",
              logarithmic="y", percent=False),
        Panel("training step", "largest gradient norm", lines("largest_norm"),
              "Gradient norm before the cure, where finite", logarithmic="y", percent=False),
    )  # fmt: skip


AMIAN = Paper(
    name="amian",
    title="Amian: Improving the algorithm of deep learning with differential privacy",
    source="Mehdi Amian, INRS-EMT, University of Quebec.",
    about=(
        "The paper replaces the clip of DP-SGD by tanh of every coordinate, and counts privacy as "
        "if one example moved the sum by 1 at most. It can move it by c sqrt(n). Both epsilons "
        "stand here, and the paper's is called nominal. Its equation 4 is tanh(x / 2), under the "
        "name of tanh; here the filter is tanh."
    ),
    experiments=(
        _figure(2, "output ranges", "MNIST", _ranges(MNIST), _ranges(DIGITS),
                _about_ranges(BETTER), SETTINGS + OUTPUTS),
        _figure(3, "output ranges", "CIFAR-10", _ranges(CIFAR), {},
                _about_ranges(BETTER), SETTINGS + OUTPUTS + HELD_OUT),
        _figure(4, "expansion of the active range", "MNIST", _expansions(MNIST),
                _expansions(DIGITS), _about_expansions(), SETTINGS + ACTIVE),
        _figure(5, "expansion of the active range", "CIFAR-10", _expansions(CIFAR), {},
                _about_expansions(), SETTINGS + ACTIVE + HELD_OUT),
        Experiment(
            name="equal-guarantee",
            title="Tanh, then clip, at the guarantee of the clip",
            settings=(
                "Not in the paper. The filter c tanh(g / k) with c = k trims large coordinates "
                "and leaves small ones alone; a clip to norm 1 follows, so that one example moves "
                "the sum by 1 at most, as in DP-SGD with the same noise. MNIST, settings as in "
                "figure 2."
            ),
            points=_chained(MNIST, (1.0, 0.1, 0.01)),
            quick=_chained(DIGITS, (1.0, 0.01)),
            claims=(
                Claim("better", "The filter improves on the clip", _filter_helps),
            ),
            draw=_curves,
        ),
        Experiment(
            name="recurrent",
            title="Exploding gradients of a recurrent network, without privacy",
            settings=(
                f"The adding problem over {LENGTH} steps (Hochreiter & Schmidhuber, 1997) and a "
                "recurrent network of 64 ReLU units that starts as the identity (Le, Jaitly & "
                f"Hinton, 2015), SGD at learning rate {RATE}, batches of 64, one seed. Norm "
                "clipping to 0.3 and the filter 0.1 tanh(g / 0.3) act on the mean gradient. No "
                "noise, no privacy. The paper proposes this and shows no figure. Cures were "
                "chosen among a handful by the error that is shown."
            ),
            points=_cured(LENGTH, STEPS),
            quick=_cured(20, 300),
            claims=(
                Claim("explodes", "Without a cure gradients explode", _explodes),
                Claim("tanh", "The filter cures it and learning goes on", partial(_solves, "tanh")),
                Claim("norm", "(Not in the paper) so does norm clipping", partial(_solves, "norm")),
            ),
            draw=_recurrent,
        ),
    ),
)  # fmt: skip
