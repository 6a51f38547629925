"""Xia et al.: accuracy against noise, epsilon and delta, and what the stated pairs really cost."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from pathlib import Path

from deniable.events import GaussianEvent
from deniable.papers.charts import Line, Panel, draw
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.points import ROWS, Named, Training
from deniable.papers.results import Results
from deniable.papers.workers import FIGURE_7, UPLOAD
from deniable.plan import Plan
from deniable.words import percent, rounded_up

LOT, EPOCHS = 600, 60
# Of the article that the experiments follow (Abadi et al., 2016, section 5.2); never tuned here.
RATE = ((0.0, 0.1), (10.0, 0.052))
COMPONENTS = {0.5: 16.0, 2.0: 7.0, 8.0: 4.0}  # the noise of the components, by epsilon


def _point(sigma: float, epsilon: float, epochs: float, components: float = 0.0) -> Training:
    """Noise, clip norm and epsilon are given: training ends when epsilon is spent, or before."""
    noise = components or COMPONENTS[epsilon]
    return Training(
        "mnist", Named("mlp", hidden=1000), LOT, epochs=epochs, lr=RATE, noise_multiplier=sigma,
        epsilon=epsilon, bound=Named("Clip", norm=4.0),
        features=Named("pca", components=60, noise_multiplier=noise),
    )  # fmt: skip


def _small(point: Training, epochs: float = 20.0) -> Training:
    assert point.features is not None
    features = Named("pca", **(point.features.arguments | {"components": 30}))
    return point.but(
        data="digits", batch_size=144, epochs=epochs, model=Named("mlp", hidden=100),
        features=features,
    )  # fmt: skip


ABOUT = (
    "MNIST, 60 principal components, one layer of 1,000 ReLU units, clip norm 4, delta 1e-5. The "
    "paper says neither batch size nor learning rate nor length for this figure: here lots of 600 "
    "(Poisson samples) and a rate that falls from 0.1 to 0.052 over 10 epochs, which are those of "
    "Abadi et al., whose settings the paper's are otherwise. The components are released under "
    "noise and paid for, which the paper does not mention. One seed, nothing tuned. "
)

# -- figure 4 -------------------------------------------------------------------------------------

SIGMAS = (1.0, 2.0, 4.0, 6.0, 8.0)


def _swept(results: Results) -> dict[float, float]:
    named = results.numbered("sigma=")
    return {sigma: results.accuracy(name) for sigma, name in named.items()}


def _inverted(results: Results) -> Verdict:
    found = _swept(results)
    sigmas = list(found)
    best = max(found, key=lambda each: found[each])
    said = ", ".join(f"{percent(found[each], 1)} at {each:g}" for each in sigmas)
    return Verdict(
        best not in (sigmas[0], sigmas[-1]),
        said,
        "At little noise epsilon 2 is spent after a few epochs; at much of it, every step is "
        "noisier. That the curve falls again is so because training ends: with no limit on its "
        "length, more noise buys more steps than it costs.",
    )


def _pretrained(results: Results) -> Verdict:
    row, fixed = results["from pre-training"], results["sigma=4"]
    return Verdict(
        row["accuracy"] >= fixed["accuracy"] - 0.01,
        f"{percent(row['accuracy'], 1)} with C = {row['clip_norm']:.3g} from pre-training on "
        f"Fashion-MNIST, {percent(fixed['accuracy'], 1)} with C = 4, both at sigma 4",
        "Preserved: at most one point lost. C is the median norm of a model after an epoch on "
        "public images, so that it costs nothing.",
    )


def _equation_6(results: Results) -> Verdict:
    row, once = results["noise per example"], results["sigma=4"]
    return Verdict(
        row["accuracy"] >= 0.93,
        f"{percent(row['accuracy'], 1)} at a guaranteed epsilon of {rounded_up(row['epsilon'])}; "
        f"{percent(once['accuracy'], 1)} with the noise once a batch, at "
        f"{rounded_up(once['epsilon'])}",
        "Equation 6 as it is written puts noise of deviation sigma C on each example's gradient: "
        "on their sum that is sqrt(600) times as much. The accuracies of the paper are those of "
        "noise once a batch.",
    )


def _figure_4(results: Results, path: Path) -> None:
    try:
        line = Line("epsilon 2", list(_swept(results).items()))
    except KeyError:
        return
    draw(path, Panel("noise scale sigma", "accuracy", [line], results.data))


def _sigmas(sigmas: tuple[float, ...]) -> dict[str, Training]:
    return {f"sigma={sigma:g}": _point(sigma, 2.0, EPOCHS) for sigma in sigmas} | {
        "from pre-training": _point(4.0, 2.0, EPOCHS).but(
            bound=Named("FromPretraining", data="fashion-mnist", norm=4.0)
        ),
        "noise per example": _point(4.0, 2.0, EPOCHS / 6).but(
            sampling="fixed-size",
            noise_per="example",
            features=Named("pca", components=60, noise_multiplier=7.0, neighbouring="replace"),
        ),
    }


FIGURE_4 = Experiment(
    name="figure-4",
    title="Figure 4: accuracy against the noise scale, at epsilon 2",
    settings=ABOUT + "Training ends when epsilon 2 is spent, and "
    "after 60 epochs at the latest; with noise per example, after 10.",
    points=_sigmas(SIGMAS),
    quick={
        name: _small(each)
        for name, each in _sigmas((2.0, 4.0, 8.0)).items()
        if "pre-training" not in name
    },
    claims=(
        Claim(
            "inverted",
            "Accuracy first rises with the noise scale, then falls",
            _inverted,
            of="sigma=",
        ),
        Claim(
            "pre-training",
            "A threshold from the statistics of a pre-trained model preserves accuracy",
            _pretrained,
            of="from pre-training",
        ),
        Claim(
            "equation-6",
            "Noise of N(0, sigma^2 C^2) on every example's gradient (equation 6) leaves the model "
            "usable",
            _equation_6,
            of="noise per example",
        ),
    ),
    draw=_figure_4,
)

# -- figure 5 -------------------------------------------------------------------------------------

EPSILONS = (0.55, 0.6, 0.7, 0.8, 0.9)
LEAST, MOST = EPSILONS[0], EPSILONS[-1]
DELTAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@cache
def _room(rows: int, lot: int, sigma: float, components: float, epsilon: float, delta: float,
          steps: int) -> int:  # fmt: skip
    """How many steps epsilon has room for at delta, beside the components."""
    plan = Plan(rows, lot, delta=delta, noise_multiplier=sigma, steps=steps)
    return plan.steps_within(epsilon, 0, GaussianEvent(components))


def _surface(results: Results) -> dict[float, dict[float, float | None]]:
    """Accuracy when epsilon was spent at delta, by delta and epsilon; None: not one row before."""
    row, settings = results["sigma=4"], results.entries["sigma=4"]["settings"]
    rows, lot = ROWS[settings["data"]], settings["batch_size"]
    curve = [(0, None), *((each["step"], each["accuracy"]) for each in row["history"])]

    def at(epsilon: float, delta: float) -> float | None:
        components = settings["features"]["noise_multiplier"]
        room = _room(rows, lot, 4.0, components, epsilon, delta, row["steps"])
        found: float | None = [accuracy for step, accuracy in curve if step <= room][-1]
        return found

    return {delta: {epsilon: at(epsilon, delta) for epsilon in EPSILONS} for delta in DELTAS}


def _grows(results: Results) -> Verdict:
    surface = _surface(results)
    strict = surface[DELTAS[0]]
    said = ", ".join(
        f"{percent(found, 1)} at epsilon {epsilon:g}"
        for epsilon, found in strict.items()
        if found is not None
    )
    rising = [found for found in strict.values() if found is not None]
    return Verdict(
        all(later >= earlier - 0.005 for earlier, later in pairwise(rising)),
        f"at delta 1e-5: {said}",
        "Rising: no step down of more than half a point.",
    )


def _epsilon_more(results: Results) -> Verdict:
    surface = _surface(results)
    usual = surface[1e-5]
    by_epsilon = (usual[MOST] or 0.0) - (usual[LEAST] or 0.0)
    by_delta = (surface[1e-1][LEAST] or 0.0) - (usual[LEAST] or 0.0)
    return Verdict(
        by_epsilon > by_delta,
        f"from epsilon {LEAST:g} to {MOST:g} at delta 1e-5: {percent(by_epsilon, 1)} more; from "
        f"delta 1e-5 to 0.1 at epsilon {LEAST:g}: {percent(by_delta, 1)} more",
        "A delta of 0.1 lets every tenth example be published: it protects nobody.",
    )


def _figure_5(results: Results, path: Path) -> None:
    try:
        surface = _surface(results)
    except (KeyError, IndexError):
        return
    lines = [
        Line(
            f"delta {delta:.0e}".replace("e-0", "e-"),
            [(epsilon, found) for epsilon, found in of_delta.items() if found is not None],
        )
        for delta, of_delta in surface.items()
    ]
    draw(path, Panel("epsilon", "accuracy", lines, results.data, x_at=EPSILONS))


FIGURE_5 = Experiment(
    name="figure-5",
    title="Figure 5: accuracy against epsilon and delta, at noise scale 4",
    settings=ABOUT
    + (
        "One training of 60 epochs, that of figure 4; its accuracy is read where epsilon is spent. "
        "The components alone cost epsilon 0.5 at delta 1e-5, and all of it 0.9: between these two "
        "the figure lies, where the paper's goes from 0.1 to 10."
    ),
    points={"sigma=4": _point(4.0, 2.0, EPOCHS)},
    quick={"sigma=4": _small(_point(4.0, 10.0, EPOCHS, components=16.0), 40.0)},
    claims=(
        Claim("epsilon", "Accuracy increases with epsilon", _grows),
        Claim("more", "Epsilon matters more than delta", _epsilon_more),
    ),
    draw=_figure_5,
)

# -- figure 6 -------------------------------------------------------------------------------------

PAIRS = {(8.0, 0.5): None, (8.0, 2.0): 0.938, (4.0, 2.0): 0.942, (2.0, 8.0): 0.968}


def _pairs() -> dict[str, Training]:
    return {f"({sigma:g}, {epsilon:g})": _point(sigma, epsilon, EPOCHS) for sigma, epsilon in PAIRS}


def _reached(name: str, theirs: float, epsilon: float, results: Results) -> Verdict:
    row = results[name]
    agrees, left = row["accuracy"] >= theirs, row["epsilon"] < 0.9 * epsilon
    return Verdict(
        agrees,
        f"{percent(row['accuracy'], 1)} after {row['epochs']:.0f} epochs, at epsilon "
        f"{rounded_up(row['epsilon'])}",
        ""
        if agrees or not left
        else "The paper says neither how long it trained nor at which rate; here most of epsilon "
        "was left. With settings chosen for it, this network reaches more than the paper's 94.2% "
        "at epsilon 2: see [abadi.md](abadi.md).",
    )


def _cost(name: str, sigma: float, epsilon: float, results: Results) -> Verdict:
    settings = results.entries[name]["settings"]
    rows, lot = ROWS[settings["data"]], settings["batch_size"]
    steps = {
        accountant: Plan(
            rows, lot, delta=1e-5, noise_multiplier=sigma, steps=1_000_000, accountant=accountant
        ).steps_within(epsilon)
        for accountant in ("pld", "rdp")
    }
    epochs = {each: count * lot / rows for each, count in steps.items()}
    tight = results[name]["epochs"] >= 0.9 * epochs["pld"]
    return Verdict(
        tight,
        f"sigma {sigma:g} alone reaches epsilon {epsilon:g} after {epochs['pld']:.0f} epochs (PLD) "
        f"or {epochs['rdp']:.0f} (RDP); {results[name]['epochs']:.0f} were run, which with the "
        f"components cost {rounded_up(results[name]['epsilon'])}",
        "" if tight else "The pair leaves epsilon unspent in a training of any usual length.",
    )


def _baseline(results: Results) -> Verdict:
    found = results.accuracy("no privacy")
    return Verdict(
        abs(found - 0.968) <= 0.005,
        percent(found, 1),
        "After 30 epochs at the same rate. Trained for longer, this network reaches more: see "
        "[abadi.md](abadi.md). The paper gives the same 96.8% as the accuracy at (2, 8).",
    )


def _order(results: Results) -> Verdict:
    names = [f"({sigma:g}, {epsilon:g})" for sigma, epsilon in PAIRS]
    found = {name: results.accuracy(name) for name in names}
    return Verdict(
        found["(8, 2)"] <= found["(4, 2)"] + 0.002 <= found["(2, 8)"] + 0.004,
        ", ".join(f"{percent(each, 1)} at {name}" for name, each in found.items()),
    )


def _figure_6(results: Results, path: Path) -> None:
    lines = [
        Line(
            "no privacy" if name == "no privacy" else f"(sigma, epsilon) = {name}",
            results.curve(name),
            name == "no privacy",
        )
        for name in results
    ]
    draw(path, Panel("epoch", "accuracy", lines, results.data, y_limits=(0.75, 1.0)))


_NOTHING = _point(0.0, 2.0, EPOCHS / 2).but(
    epsilon=None,
    bound=Named("Clip", norm=1e6),
    features=Named("pca", components=60, noise_multiplier=0.0),
)

FIGURE_6 = Experiment(
    name="figure-6",
    title="Figure 6: accuracy at pairs of noise and epsilon",
    settings=(
        ABOUT + "Training ends when the pair's epsilon is spent, and after 60 epochs at the "
        "latest (30 without privacy). The paper's text has epsilon 0.5 go with sigma 8 (as Abadi "
        "et al. do), and then states the accuracy at (8, 2): both were run."
    ),
    points={"no privacy": _NOTHING} | _pairs(),
    quick={name: _small(each) for name, each in _pairs().items()},
    claims=(
        *(
            Claim(
                f"reached-{sigma:g}-{epsilon:g}",
                f"(sigma, epsilon) = ({sigma:g}, {epsilon:g}): {percent(theirs, 1)}",
                partial(_reached, f"({sigma:g}, {epsilon:g})", theirs, epsilon),
                of=f"({sigma:g}, {epsilon:g})",
            )
            for (sigma, epsilon), theirs in PAIRS.items()
            if theirs
        ),
        *(
            Claim(
                f"cost-{sigma:g}-{epsilon:g}",
                f"Training with sigma {sigma:g} costs epsilon {epsilon:g}",
                partial(_cost, f"({sigma:g}, {epsilon:g})", sigma, epsilon),
                of=f"({sigma:g}, {epsilon:g})",
            )
            for (sigma, epsilon), theirs in PAIRS.items()
            if theirs
        ),
        Claim("order", "Less noise and more epsilon are better", _order),
        Claim("baseline", "Without privacy the model reaches 96.8%", _baseline, of="no privacy"),
    ),
    draw=_figure_6,
)

XIA = Paper(
    name="xia",
    title="Xia et al.: Collaborative training",
    source=(
        "Jing Xia, Xinfa Dai, Weihua Huang, Zhong Ma, Li He: Gradient-Based Differential Privacy "
        "Optimizer for Deep Learning Model Using Collaborative Training Mode."
    ),
    about=(
        "Epsilon is what the ledger comes to, under add-or-remove and with privacy loss "
        "distributions. How workers train together, and which guarantee each mode gives, is in "
        "[collaborate.md](../collaborate.md); how long a round takes, in [rounds.md](../rounds.md)."
    ),
    experiments=(FIGURE_4, FIGURE_5, FIGURE_6, FIGURE_7, UPLOAD),
)
