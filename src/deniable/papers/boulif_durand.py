"""Boulif & Durand: DP-SGD, DP-Adam and DP-Adagrad on MNIST and Fashion-MNIST, figures 3 to 10."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import pstdev

from deniable.papers.charts import Line, Panel, draw
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.points import Named, Point, Training
from deniable.papers.results import Results
from deniable.words import percent, rounded_up

CLIPS = (1.0, 2.0, 4.0, 8.0)
NOISES = (0.5, 0.7, 1.0, 1.5, 2.0)
RATES = {"sgd": 0.1, "adam": 0.001, "adagrad": 0.1}
FASHION_RATES = {"sgd": 0.2, "adam": 0.005, "adagrad": 0.2}

MNIST = Training(
    "mnist", Named("cnn"), 256, epochs=15, lr=0.1, noise_multiplier=0.5,
    bound=Named("Clip", norm=4.0), cost=10.0,
)  # fmt: skip
FASHION = MNIST.but(data="fashion-mnist", epochs=12.0, lr=0.2)
DIGITS = MNIST.but(
    data="digits",
    model=Named("cnn", kernels=(3, 2), strides=(1, 1), channels=(8, 16)),
    batch_size=96,
    epochs=4.0,
    cost=5.0,
)


def _clips(base: Training) -> dict[str, Point]:
    return {f"clip {norm:g}": base.but(bound=Named("Clip", norm=norm)) for norm in CLIPS}


def _noises(base: Training, values: tuple[float, ...] = NOISES) -> dict[str, Point]:
    return {f"noise {noise:g}": base.but(noise_multiplier=noise) for noise in values}


def _optimizers(base: Training, rates: Mapping[str, float]) -> dict[str, Point]:
    return {name: base.but(optimizer=name, lr=rate) for name, rate in rates.items()}


# -- checks ---------------------------------------------------------------------------------------


def _each(results: Results) -> str:
    return ", ".join(f"{percent(results.accuracy(name))} with {name}" for name in results)


LARGER_STEPS = (
    "At a fixed learning rate a larger clip is a larger step, as long as gradients are longer than "
    "it, and at this noise that is what helps. The batch size, which the report leaves open, "
    "decides how much noise a step has."
)


def _small_clips(results: Results) -> Verdict:
    found = {norm: results.accuracy(name) for norm, name in results.numbered("clip ").items()}
    small = [found[norm] for norm in (1.0, 2.0, 4.0)]
    agrees = min(small) > found[8.0] and all(abs(each - 0.9) <= 0.05 for each in small)
    why = "About 0.9: between 0.85 and 0.95."
    return Verdict(agrees, _each(results), why if agrees else f"{why} {LARGER_STEPS}")


def _best_clip(results: Results) -> Verdict:
    found = {norm: results.accuracy(name) for norm, name in results.numbered("clip ").items()}
    best = max(found, key=lambda norm: found[norm])
    said = f"best with {best:g} ({percent(found[best])})"
    return Verdict(best == 4.0, said, LARGER_STEPS if best > 4.0 else "")


def _unstable(results: Results) -> Verdict:
    names = list(results.numbered("noise ").values())
    first, last = (pstdev(results.late(name)) for name in (names[0], names[-1]))
    why = (
        f"More noise ends lower here, {percent(results.accuracy(names[-1]))} with {names[-1]}, and "
        "as steadily: a mean over a batch of 256 has little of the noise left. A smaller batch, "
        "which the report leaves open, has more of it."
    )
    return Verdict(
        last > first,
        f"accuracy over the second half deviates by {percent(first, 2)} with {names[0]}, by "
        f"{percent(last, 2)} with {names[-1]}",
        "" if last > first else why,
    )


def _costs_accuracy(results: Results) -> Verdict:
    names = list(results.numbered("noise ").values())
    ends = [
        f"{percent(results.accuracy(name))} at epsilon {rounded_up(results[name]['epsilon'])}"
        for name in (names[0], names[-1])
    ]
    return Verdict(results.accuracy(names[0]) > results.accuracy(names[-1]), " and ".join(ends))


def _middle_best(results: Results) -> Verdict:
    names = list(results.numbered("noise ").values())
    best = max(names, key=results.accuracy)
    return Verdict(
        best not in (names[0], names[-1]),
        f"best with {best}: {percent(results.accuracy(best))} at epsilon "
        f"{rounded_up(results[best]['epsilon'])}",
        "The authors suspect that their training was not finished.",
    )


def _grows(results: Results) -> Verdict:
    rising = all(
        all(later > earlier for (_, earlier), (_, later) in pairwise(rows))
        for name in results.numbered("noise ").values()
        for rows in [results.curve(name, "epoch", "epsilon")]
    )
    return Verdict(
        rising,
        "epsilon grows with every epoch" if rising else "epsilon does not always grow",
        "It grows steadily, and ever more slowly: close to the root of the number of steps.",
    )


def _adaptive_better(margin: float, results: Results) -> Verdict:
    sgd = results.accuracy("sgd")
    others = [results.accuracy(name) for name in ("adam", "adagrad")]
    agrees = min(others) > sgd + margin
    why = (
        "At the report's rates all three have come equally far at the end. How many steps an epoch "
        "has, and so how far SGD comes, depends on the batch size, which the report leaves open."
    )
    return Verdict(agrees, _each(results), "" if agrees else why)


# -- figures --------------------------------------------------------------------------------------


def _curves(results: Results, path: Path) -> None:
    lines = [Line(name, results.curve(name)) for name in results]
    draw(path, Panel("epoch", "accuracy", lines, results.data))


def _against_epsilon(results: Results, path: Path) -> None:
    rows = sorted((results[name]["epsilon"], results.accuracy(name)) for name in results)
    line = Line("", rows)
    draw(path, Panel("epsilon", "accuracy", [line], results.data, logarithmic="x"))


def _epsilons(results: Results, path: Path) -> None:
    lines = [Line(name, results.curve(name, "epoch", "epsilon")) for name in results]
    draw(path, Panel("epoch", "epsilon", lines, results.data, logarithmic="y", percent=False))


OPEN = (
    " The report leaves the batch size open: here 256, drawn as Poisson samples. Its network is "
    "taken for that of TensorFlow Privacy's tutorial, whose figure it resembles. Delta 1e-5. "
    "Accuracy is that on the test set, which the report calls its validation set; nothing was "
    "chosen by it here."
)
VALUES = " It does not print which noise multipliers it tried: here 0.5, 0.7, 1, 1.5 and 2."


def _figure(
    number: int,
    title: str,
    settings: str,
    points: Mapping[str, Point],
    quick: Mapping[str, Point],
    drawn: Callable[[Results, Path], None],
    *claims: Claim,
) -> Experiment:
    return Experiment(
        name=f"figure-{number}",
        title=f"Figure {number}: {title}",
        settings=settings + OPEN,
        points=points,
        quick=quick,
        claims=claims,
        draw=drawn,
    )


STABLE = "With much noise, training is not stable at its end"
SWEEP = MNIST.but(lr=0.08)
QUICK_SWEEP = _noises(DIGITS.but(lr=0.08), (0.5, 1.0, 2.0))
MNIST_NOISE = "15 epochs, learning rate 0.08, clip 4, as in the report." + VALUES
FASHION_NOISE = "12 epochs, learning rate 0.2, clip 4, as in the report." + VALUES

BOULIF_DURAND = Paper(
    name="boulif_durand",
    title="Boulif & Durand: Anonymization, privacy: deep learning with differential privacy",
    source="Kaoutar Boulif and Charlotte Durand, April 2021.",
    about=(
        "A student report on DP-SGD with TensorFlow Privacy. Its figures are curves without "
        "tables, so that its claims are trends. Epsilon here comes from privacy loss "
        "distributions, which is a little less than the moments that the report uses."
    ),
    experiments=(
        _figure(
            3, "the clip norm", "Learning rate 0.1, noise multiplier 0.5, 15 epochs.",
            _clips(MNIST), _clips(DIGITS), _curves,
            Claim("small", "About 0.9 with clip 1, 2 and 4, less with 8", _small_clips),
            Claim("best", "Clip 4 is the best", _best_clip),
        ),
        _figure(
            4, "the noise multiplier", MNIST_NOISE, _noises(SWEEP), QUICK_SWEEP, _curves,
            Claim("unstable", STABLE, _unstable),
        ),
        _figure(
            5, "accuracy against epsilon", MNIST_NOISE, _noises(SWEEP), QUICK_SWEEP,
            _against_epsilon,
            Claim("trade", "A low epsilon means a lower accuracy", _costs_accuracy),
        ),
        _figure(
            6, "epsilon against epochs", MNIST_NOISE, _noises(SWEEP), QUICK_SWEEP, _epsilons,
            Claim("grows", "Epsilon increases constantly with the epochs", _grows),
        ),
        _figure(
            7, "optimizers", "Clip 4, noise multiplier 0.5, learning rates 0.1, 0.001 for Adam; "
            "15 epochs.",
            _optimizers(MNIST, RATES), _optimizers(DIGITS, RATES), _curves,
            Claim("better", "Adagrad and Adam are better than SGD", partial(_adaptive_better, 0.0)),
        ),
        _figure(
            8, "the noise multiplier", FASHION_NOISE, _noises(FASHION), {}, _curves,
            Claim("unstable", STABLE, _unstable),
        ),
        _figure(
            9, "accuracy against epsilon", FASHION_NOISE, _noises(FASHION), {}, _against_epsilon,
            Claim("middle", "Accuracy is best at a middle epsilon", _middle_best),
        ),
        _figure(
            10, "optimizers", "Clip 4, noise multiplier 0.5, learning rates 0.2, 0.005 for Adam; "
            "12 epochs.",
            _optimizers(FASHION, FASHION_RATES), {}, _curves,
            Claim("better", "SGD is clearly behind Adam and Adagrad",
                  partial(_adaptive_better, 0.01)),
        ),
    ),
)  # fmt: skip
