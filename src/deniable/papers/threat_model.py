"""The slides' threat model: what models with and without privacy give away when attacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deniable.audit.pictures import (
    Case,
    Curves,
    Picture,
    Strip,
    case_strips,
    draw_curves,
    draw_sheet,
    pixels,
)
from deniable.audit.roc import ATTACKS, NO_GUARANTEE
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.points import Attacked, Named, Training
from deniable.papers.results import Results, Row
from deniable.words import percent, rounded_up

PLAIN, PRIVATE = "without-privacy", "with-privacy"
EPSILON = 2.0
BEST = "lira"  # named beforehand: the best of five would be chosen by its luck too

_NETWORK = Named("mlp", hidden=256)


def _plain(data: str, epochs: float, rows: int | None = None, **changes: Any) -> Training:
    return Training(
        data, _NETWORK, 100, epochs, 0.3, noise_multiplier=0.0, train_rows=rows
    ).but(**changes)  # fmt: skip


def _private(data: str, epochs: float, rows: int | None = None, **changes: Any) -> Training:
    return Training(
        data, _NETWORK, 1000, epochs, 4.0, epsilon=EPSILON, bound=Named("Clip", norm=0.1),
        train_rows=rows,
    ).but(**changes)  # fmt: skip


_QUICK_PLAIN: Mapping[str, Any] = {"batch_size": 32}
_QUICK_PRIVATE: Mapping[str, Any] = {"batch_size": 144, "lr": 1.0}

# -- membership inference -------------------------------------------------------------------------


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
    draw_curves(path, panels, least=1 / others)


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
        "comes from the ledger of the training; the curves are what five attacks found, and "
        "another attack may find more, up to the limit.\n\n"
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
        PLAIN: Attacked(_SHADOWS, _plain("mnist", 50, 12_000)),
        PRIVATE: Attacked(_SHADOWS, _private("mnist", 80, 12_000)),
    },
    quick={
        PLAIN: Attacked(Named("membership", shadows=4), _plain("digits", 30, 1437, **_QUICK_PLAIN)),
        PRIVATE: Attacked(
            Named("membership", shadows=4), _private("digits", 20, 1437, **_QUICK_PRIVATE)
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
            "With differential privacy, what is found is at most (exp(epsilon), delta) as likely "
            "with an image in the data as without it: no attack passes the limit",
            _holds,
            of=PRIVATE,
        ),
    ),
    draw=_draw_membership,
)

# -- model inversion ------------------------------------------------------------------------------


def _recovers_classes(results: Results) -> Verdict:
    plain, private = results[PLAIN], results[PRIVATE]
    classes = len(plain["correlation"])
    return Verdict(
        plain["recognised"] >= 0.8 * classes,
        f"of {classes} digits {plain['recognised']} are closest to the mean of their own class "
        f"without privacy (mean correlation {_mean(plain['correlation'])}), "
        f"{private['recognised']} with privacy ({_mean(private['correlation'])})",
        "With privacy just as well: what a digit looks like is no secret of anybody's, and "
        "differential privacy does not hide it.",
    )


def _recovers_people(results: Results) -> Verdict:
    row = results[PLAIN]
    first = _first(row)
    return Verdict(
        first >= 0.5 * len(row["ranks"]),
        f"for {first} of {len(row['ranks'])} pictures, of {row['among']} of its kind the very one "
        f"is closest to what was recovered (places {_places(row)})",
        "By chance alone, about one in a hundred would be." if row["among"] == 100 else "",
    )


def _protects_people(results: Results) -> Verdict:
    row = results[PRIVATE]
    first = _first(row)
    return Verdict(
        first <= 0.1 * len(row["ranks"]),
        f"{first} of {len(row['ranks'])} (places {_places(row)}), at epsilon "
        f"{rounded_up(row['epsilon'])}",
        f"The model gives {percent(row['accuracy_on_singles'], 0)} of the pictures their own "
        f"class, and {percent(row['accuracy'])} of unseen digits theirs.",
    )


def _first(row: Row) -> int:
    return sum(place == 1 for place in row["ranks"])


def _places(row: Row) -> str:
    return ", ".join(str(place) for place in sorted(row["ranks"]))


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}"


def _draw_inversion(results: Results, path: Path) -> None:
    some = next(results[name] for name in results)
    shape, classes = some["shape"], len(some["means"])
    truth = {"digits": some["means"], "single": some["singles"]}
    parts = {"digits": slice(0, classes), "single": slice(classes, None)}
    said = {
        "digits": ("mean of the class", "Classes of many pictures each"),
        "single": ("the one picture", "Classes of a single picture each"),
    }
    strips = []
    for part, chosen in parts.items():
        label, title = said[part]
        images = [_image(each, shape) for each in truth[part]]
        strips.append(Strip(label, [Picture(each) for each in images], title=title))
        for name in (PLAIN, PRIVATE):
            if name in results:
                images = [_image(each, shape) for each in results[name]["recovered"][chosen]]
                strips.append(Strip(name.replace("-", " "), [Picture(each) for each in images]))
        named = zip(strips[-1].pictures, some["names"][chosen], strict=True)
        strips[-1] = Strip(strips[-1].label, [Picture(each.pixels, kind) for each, kind in named])
    draw_sheet(path, strips, scale=0.85)


def _image(encoded: str, shape: Sequence[int]) -> Any:
    return pixels(np.frombuffer(bytes.fromhex(encoded), np.uint8).reshape(shape) / 255)


_SINGLES = Named("inversion", singles="fashion-mnist", alike=99)
_QUICK_SINGLES = Named("inversion", singles="negatives", alike=99)
INVERSION = Experiment(
    name="inversion",
    title="Model inversion: what does the model take a class to look like?",
    settings=(
        "**What the attack is.** Begin with an empty picture and change it, little by little, so "
        "that the model becomes ever surer that it shows a certain class. What comes out is what "
        "the model takes the class to look like. Fredrikson, Jha & Ristenpart (2015) did this to "
        "a face recogniser: there, a class is a person, and what came out was that person's "
        "face.\n\n"
        "**What it means here, and what not.** The class *three* was written by thousands of "
        "people. What comes out for it is what threes have in common; it is nobody's three, and a "
        "model that did not know it would be of no use. So the upper half of the sheet shows "
        "recognisable digits with privacy as well as without, and that is no failure of either. "
        "To show what happened to the faces, ten more classes were added, each of which is one "
        "single picture of a piece of clothing. They stand for ten people who are in the data with "
        "one picture each. The lower half shows whether these come out. As a number: among 100 "
        "pictures of the same kind, which place does the very picture take by its likeness to "
        "what came out? The first place means that the attack found *this* boot and not just "
        "some boot; about the fiftieth, that it found nothing.\n\n"
        "**How it was made.** 10,000 images of MNIST's training set and ten of Fashion-MNIST, one "
        "hidden layer of 256 ReLU units, trained with and without privacy as for membership "
        "inference. The attack is algorithm 1 of the paper: 300 steps of gradient descent on "
        "-log p from a black picture, drawn towards its neighbouring pixels after each step (their "
        "processing is denoising and sharpening), with 5% of it fading. Recovered pictures are "
        "stretched to full contrast. Likeness is the correlation over pixels. The class means "
        "that digits are compared with are those of the test set."
    ),
    points={
        PLAIN: Attacked(_SINGLES, _plain("mnist", 80, 10_000)),
        PRIVATE: Attacked(_SINGLES, _private("mnist", 80, 10_000)),
    },
    quick={
        PLAIN: Attacked(_QUICK_SINGLES, _plain("digits", 60, **_QUICK_PLAIN)),
        PRIVATE: Attacked(_QUICK_SINGLES, _private("digits", 20, **_QUICK_PRIVATE)),
    },
    claims=(
        Claim(
            "classes",
            "Model inversion recovers recognisable pictures of classes (Fredrikson et al.)",
            _recovers_classes,
        ),
        Claim(
            "people",
            "Where a class is one person, it recovers that person: here, a class that is one "
            "picture, without privacy",
            _recovers_people,
            of=PLAIN,
        ),
        Claim(
            "protected",
            "With differential privacy, a single picture is not recovered",
            _protects_people,
            of=PRIVATE,
        ),
    ),
    draw=_draw_inversion,
)

# -- rare examples --------------------------------------------------------------------------------


def _memorised(name: str, results: Results) -> Verdict:
    row = results[name]
    plain, private = (row["probability"][each] for each in ("plain", "private"))

    def moved(found: Mapping[str, float]) -> float:
        return found["trained on them"] - found["not trained on them"]

    def said(found: Mapping[str, float]) -> str:
        return (
            f"{percent(found['trained on them'])} when trained on them, "
            f"{percent(found['not trained on them'])} when not"
        )

    return Verdict(
        moved(plain) > 0.5 and abs(moved(private)) < 0.1,
        f"how likely each model finds the labels of the {len(row['rare'])} rarest: without "
        f"privacy {said(plain)}; at epsilon {rounded_up(row['epsilon'])} {said(private)}",
        f"Both classify {percent(row['agreement'])} of all training images alike, and "
        f"{percent(row['accuracy']['plain'])} and {percent(row['accuracy']['private'])} of the "
        "test images rightly.",
    )


def _draw_rare(name: str, results: Results, path: Path) -> None:
    row = results[name]
    names = ("private", "plain")

    def cases(which: str) -> list[Case]:
        return [
            Case(
                _image(each["image"], row["shape"]),
                row["names"][each["label"]],
                (row["names"][each["plain"][0]], each["plain"][1]),
                (row["names"][each["private"][0]], each["private"][1]),
                each["doubt"],
            )
            for each in row[which]
        ]

    epsilon = rounded_up(row["epsilon"], 2)
    strips = case_strips(
        cases("rare"), 6,
        f"The training images on which a plain model and a private one (epsilon {epsilon}) differ "
        "most", names,
    )  # fmt: skip
    strips += case_strips(cases("typical"), 6, "For comparison: where they differ least", names)
    draw_sheet(path, strips, scale=1.4)


def _rare(name: str, data: str, title: str, epochs: float, kind: str) -> Experiment:
    draw: Callable[[Results, Path], None] = partial(_draw_rare, data)
    return Experiment(
        name=name,
        title=title,
        settings=(
            "**What is shown.** Two models are trained on all 60,000 training images, one without "
            "privacy and one with. The sheet shows the images where the loss of the private model "
            f"is largest beside that of the other: {kind}. Below each stand its label in the data, "
            "what either model takes it for and how sure it is; in brackets, how likely the label "
            "is to the private model.\n\n"
            "**What it means.** The plain model gives these images their labels because it has "
            "learned them by heart: trained without them, it does not. The private model finds "
            "their labels unlikely either way; it has learned what images have in common. For "
            "somebody behind such an image this is protection: a model that knows it by heart "
            "gives away that it was there. It has a price too. Among these images are mistakes in "
            "the labels, but also people who write as few others do, and the private model serves "
            "them worse.\n\n"
            f"**How it was made.** The network and settings of membership inference, {epochs:g} "
            "epochs without privacy and 20 with it. To tell what was learned by heart, both models "
            "are trained once more without the images of the sheet."
        ),
        points={
            data: Attacked(
                Named("rare", count=24),
                _private(data, 20, batch_size=2000),
                _plain(data, epochs),
            )
        },
        quick={
            data: Attacked(
                Named("rare", count=24),
                _private("digits", 20, **_QUICK_PRIVATE),
                _plain("digits", 60, **_QUICK_PLAIN),
            )
        },
        claims=(
            Claim(
                "memorised",
                "Private models learn from outliers without memorising them (TensorFlow Privacy's "
                "announcement); others memorise",
                partial(_memorised, data),
            ),
        ),
        draw=draw,
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
        _rare(
            "rare-mnist", "mnist", "Rare examples: digits that only one model has learned", 20,
            "digits that are hardly legible, or labelled as what they do not look like",
        ),
        _rare(
            "rare-fashion", "fashion-mnist", "Rare examples: the same for clothes", 60,
            "clothes that look like another class, or like none",
        ),
    ),
)  # fmt: skip
