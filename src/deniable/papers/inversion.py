"""Model inversion: classes of many pictures, and classes of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deniable.audit.pictures import (
    Picture,
    Strip,
    draw_sheet,
)
from deniable.papers.attacked_models import (
    PLAIN,
    PRIVATE,
    QUICK_PLAIN,
    QUICK_PRIVATE,
    plain,
    private,
)
from deniable.papers.claims import Claim, Experiment, Verdict
from deniable.papers.encoded import image
from deniable.papers.points import Attacked, Named
from deniable.papers.results import Results, Row
from deniable.words import percent, rounded_up


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
        images = [image(each, shape) for each in truth[part]]
        strips.append(Strip(label, [Picture(each) for each in images], title=title))
        for name in (PLAIN, PRIVATE):
            if name in results:
                images = [image(each, shape) for each in results[name]["recovered"][chosen]]
                strips.append(Strip(name.replace("-", " "), [Picture(each) for each in images]))
        named = zip(strips[-1].pictures, some["names"][chosen], strict=True)
        strips[-1] = Strip(strips[-1].label, [Picture(each.pixels, kind) for each, kind in named])
    draw_sheet(path, strips, scale=0.85)


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
        "inference, but both for 80 epochs. The attack is algorithm 1 of the paper: up to 300 "
        "steps of gradient descent on -log p from an empty picture. After each, every pixel is "
        "drawn towards its neighbours (their processing is denoising and sharpening) and fades by "
        "5%. Recovered pictures are stretched to full contrast. Likeness is the correlation over "
        "pixels. The class means that digits are compared with are those of the test set."
    ),
    points={
        PLAIN: Attacked(_SINGLES, plain("mnist", 80, 10_000)),
        PRIVATE: Attacked(_SINGLES, private("mnist", 80, 10_000)),
    },
    quick={
        PLAIN: Attacked(_QUICK_SINGLES, plain("digits", 60, **QUICK_PLAIN)),
        PRIVATE: Attacked(_QUICK_SINGLES, private("digits", 20, **QUICK_PRIVATE)),
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
