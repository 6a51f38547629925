"""Rare examples: what a model without privacy knows by heart, and a private one does not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from deniable.audit.pictures import (
    Case,
    case_strips,
    draw_sheet,
)
from deniable.papers.attacked_models import (
    QUICK_PLAIN,
    QUICK_PRIVATE,
    plain,
    private,
)
from deniable.papers.claims import Claim, Experiment, Verdict
from deniable.papers.encoded import image
from deniable.papers.points import Attacked, Named
from deniable.papers.results import Results
from deniable.words import percent, rounded_up


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
                image(each["image"], row["shape"]),
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


def rare_examples(name: str, data: str, title: str, epochs: float, kind: str) -> Experiment:
    """The experiment on one data set, whose `kind` of rare examples has words of its own."""
    return Experiment(
        name=name,
        title=title,
        settings=(
            "**What is shown.** Two models are trained on all 60,000 training images, a plain one "
            "without privacy and a private one. The sheet shows the images where the loss of the "
            f"private model is largest beside that of the plain one: {kind}. Below each stand its "
            "label in the data, what either model takes it for and how sure it is, and how likely "
            "the label is to the private model.\n\n"
            "**What it means.** The plain model knows the labels of these images largely by heart: "
            "trained without them, it finds the same labels far less likely. The private model "
            "finds them unlikely either way; it has learned what images have in common. For "
            "somebody behind such an image this is protection: a model that knows it by heart "
            "gives away that it was there. It has a price too. Among these images are mistakes in "
            "the labels, but also people who write as few others do, and the private model serves "
            "them worse.\n\n"
            f"**How it was made.** The network and settings of membership inference, {epochs:g} "
            "epochs without privacy and 20 with it, in batches of 2,000. To tell what was learned "
            "by heart, both models are trained once more without the images of the sheet."
        ),
        points={
            data: Attacked(
                Named("rare", count=24),
                private(data, 20, batch_size=2000),
                plain(data, epochs),
            )
        },
        quick={
            data: Attacked(
                Named("rare", count=24),
                private("digits", 20, **QUICK_PRIVATE),
                plain("digits", 60, **QUICK_PLAIN),
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
        draw=partial(_draw_rare, data),
    )
