"""The slides' threat model: what models with and without privacy give away when attacked."""

from __future__ import annotations

from pathlib import Path

from deniable.audit.pictures import (
    Curves,
    draw_curves,
)
from deniable.audit.roc import ATTACKS, NO_GUARANTEE
from deniable.papers.attacked_models import (
    PLAIN,
    PRIVATE,
    QUICK_PLAIN,
    QUICK_PRIVATE,
    plain,
    private,
)
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.inversion import INVERSION
from deniable.papers.points import Attacked, Named
from deniable.papers.rare import rare_examples
from deniable.papers.results import Results, Row
from deniable.words import percent, rounded_up

BEST = "lira"  # named beforehand: the best of five would be chosen by its luck too


def _accuracy(row: Row) -> str:
    return (
        f"It classifies {percent(row['accuracy'])} of images that it has not seen rightly, and "
        f"{percent(row['accuracy_on_members'])} of those that it was trained on."
    )


def _leaks(results: Results) -> Verdict:
    row = results[PLAIN]
    at = row["attacks"][BEST]["at"]["0.001"]
    share, low, high = at["true"]
    wrongly, _, at_most = at["false"]
    return Verdict(
        low > at_most,
        f"{ATTACKS[BEST]} finds {percent(share)} ({percent(low)} to {percent(high)}) of the "
        f"members where it accuses {percent(wrongly, 2)} of the others wrongly",
        _accuracy(row),
    )


def _holds(results: Results) -> Verdict:
    row = results[PRIVATE]
    passed = [
        f"{ATTACKS[name]} at {percent(float(rate))}"
        for name, found in row["attacks"].items()
        for rate, at in found["at"].items()
        if at["true"][1] > max(row["allowed"][rate], _allowed(row, at["false"][2]))
    ]
    share, low, high = row["attacks"][BEST]["at"]["0.001"]["true"]
    said = (
        f"{ATTACKS[BEST]} finds {percent(share, 2)} ({percent(low, 2)} to {percent(high, 2)}) of "
        f"the members at 0.1%, where epsilon {rounded_up(row['epsilon'])} allows no attack more "
        f"than {percent(row['allowed']['0.001'], 2)}"
    )
    if passed:
        said += f"; passed by {', '.join(passed)}"
    return Verdict(not passed, said, _accuracy(row))


def _allowed(row: Row, false_positive_rate: float) -> float:
    """What the stored curve allows at a rate, from above."""
    return next((true for false, true in row["allowed_curve"] if false >= false_positive_rate), 1.0)


def _draw_membership(results: Results, path: Path) -> None:
    panels = []
    for name in (PLAIN, PRIVATE):
        if name not in results:
            continue
        row = results[name]
        title = "without privacy" if name == PLAIN else f"epsilon {rounded_up(row['epsilon'], 2)}"
        panels.append(Curves(f"{title}: {NO_GUARANTEE}", row["curves"], row["allowed_curve"]))
    others = min(results[name]["non_members"] for name in results)
    draw_curves(path, panels, others)


_SHADOWS = Named("membership", shadows=16)
MEMBERSHIP = Experiment(
    name="membership",
    title="Membership inference: was this image in the training data?",
    settings=(
        "**What the attack is.** Somebody has the model and an image, perhaps of a person's "
        "handwriting, and asks: was it trained on this? Where the data are the patients of a "
        "clinic, the answer alone gives something away. What betrays members is that a model is "
        "surer of what it was trained on. The simplest attack accuses images of small loss; better "
        "ones ask whether the model is surer *of this image* than it would be had it never seen "
        "it. For that they train models of their own (calibrated loss, LiRA), or learn it from "
        "other images (quantile regression).\n\n"
        "**How to read the figure.** To the right: of 100 images that were not in the data, how "
        "many are accused wrongly. Upwards: of 100 that were, how many are accused rightly. Blind "
        "guessing is the dashed line. The left end is what counts: there, hardly anybody is "
        "accused wrongly, and who is accused was almost certainly there. In the right panel no "
        "attack, of these or of any, can be in the shaded region, except by chance. That limit "
        "is computed from what the training released; the curves are what five attacks found, and "
        "another attack may find more, up to the limit. The axes begin where ten are accused "
        "wrongly: before that, one image more or less would move a curve.\n\n"
        "**How it was made.** 12,000 images of MNIST's training set; a fair coin decides for each "
        "whether the model is trained on it. One hidden layer of 256 ReLU units. Without privacy: "
        "50 epochs of SGD, batches of 100, at rate 0.3, until next to every member is classified "
        "rightly. With privacy: the same network at epsilon 2, delta 1e-5; 80 epochs, Poisson "
        "batches of 1,000, clip norm 0.1, rate 4. The number of members is not public here, so the "
        "private plan is for more rows than there can be, and rows of weight zero fill the place. "
        "16 shadow models, each trained the same way on half of the candidates; the 10,000 test "
        "images teach the quantile regression. Intervals hold with 95%, over images, for the one "
        "model that was attacked; the verdicts take LiRA, online, which was named before."
    ),
    points={
        PLAIN: Attacked(_SHADOWS, plain("mnist", 50, 12_000)),
        PRIVATE: Attacked(_SHADOWS, private("mnist", 80, 12_000)),
    },
    quick={
        PLAIN: Attacked(Named("membership", shadows=4), plain("digits", 30, 1437, **QUICK_PLAIN)),
        PRIVATE: Attacked(
            Named("membership", shadows=4), private("digits", 20, 1437, **QUICK_PRIVATE)
        ),
    },
    claims=(
        Claim(
            "leaks",
            '"Since our ML system is good, it automatically protects privacy of training data": a '
            "fallacy. Without privacy, members can be told at 0.1% false accusations",
            _leaks,
            of=PLAIN,
        ),
        Claim(
            "holds",
            "With differential privacy, whatever is found is at most exp(epsilon) times as likely "
            "with an image in the data as without it, but for delta: no attack passes the limit",
            _holds,
            of=PRIVATE,
        ),
    ),
    draw=_draw_membership,
)

THREAT_MODEL = Paper(
    name="threat_model",
    title="The slides' threat model: what do models reveal about training data?",
    source=(
        "Abadi et al., slides, 2016, with the attacks that they name: Fredrikson, Jha & "
        "Ristenpart, 2015 (model inversion), and Shokri et al., 2017 (membership inference); the "
        "rare examples are those of TensorFlow Privacy's announcement (Radebaugh & Erlingsson, "
        "2019)."
    ),
    about=(
        "Three attacks on small networks for images, trained with and without privacy. **An attack "
        "is no guarantee:** what it finds is there, and what it does not find may be found by a "
        "better one. Only the limit that epsilon sets holds for all of them. The data are public "
        "and the seeds are known; with data of your own, pages like this one would themselves give "
        "away what they show. `deniable attack` does the same to a run of yours."
    ),
    experiments=(
        MEMBERSHIP,
        INVERSION,
        rare_examples(
            "rare-mnist", "mnist", "Rare examples: digits that only one model has learned", 20,
            "digits that are hardly legible, or labelled as what they do not look like",
        ),
        rare_examples(
            "rare-fashion", "fashion-mnist", "Rare examples: the same for clothes", 60,
            "clothes that look like another class, or like none",
        ),
    ),
)  # fmt: skip
