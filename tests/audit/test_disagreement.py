from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deniable.audit.disagreement import cases, disagreement, opinion
from deniable.audit.pictures import Curves, Picture, Strip, case_strips, draw_curves, draw_sheet
from deniable.audit.roc import Roc
from deniable.units import PrivacyCurve, Spent


class Lookup(nn.Module):
    """Scores that were written down, found by the first pixel."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores[images[:, 0, 0, 0].long()]


def world() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Ten examples of which the private model has learned two less, the plain one every one."""
    targets = torch.arange(10) % 3
    sure = 4.0 * nn.functional.one_hot(targets, 3).float()
    private = sure.clone()
    private[4] = torch.tensor([0.0, -3.0, 3.0])
    private[7] = torch.tensor([6.0, -6.0, 0.0])
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 2).contiguous()
    return Lookup(private), Lookup(sure), images, targets


def test_the_examples_that_one_model_has_not_learned_come_first() -> None:
    private, plain, images, targets = world()
    found = disagreement(private, plain, images, targets)
    assert found.most(2) == [7, 4]
    assert found.agreement == 0.8
    assert set(found.least(8)) == set(range(10)) - {4, 7}
    assert found.private.predicted[7] == 0
    assert found.plain.predicted.tolist() == targets.tolist()


def test_a_model_does_not_disagree_with_itself() -> None:
    _, plain, images, targets = world()
    found = disagreement(plain, plain, images, targets)
    assert found.agreement == 1.0
    assert (found.differences == 0).all()


def test_opinions_are_those_of_softmax_and_the_mode_stays() -> None:
    private, _, images, targets = world()
    found = opinion(private, images, targets)
    expected = private(images).double().softmax(1)
    assert np.allclose(found.probabilities, expected[torch.arange(10), targets].detach())
    assert np.allclose(found.sure, expected.max(1)[0].detach())
    assert np.allclose(found.losses, -np.log(found.probabilities))
    assert private.training


def test_a_sheet_says_label_and_both_opinions_of_each_example(tmp_path: Path) -> None:
    private, plain, images, targets = world()
    found = disagreement(private, plain, images, targets)
    strips = case_strips(
        cases(found, images / 10, targets, [7, 0], ("coat", "shirt", "bag")),
        across=1,
        title="Rare",
        names=("private", "plain"),
    )
    captions = [each.pictures[0].caption for each in strips]
    assert captions == [
        "labelled shirt\nplain: shirt (96%)\nprivate: coat (over 99%)\nshirt itself: under 1%",
        "labelled coat\nplain: coat (96%)\nprivate: coat (96%)",
    ]
    draw_sheet(tmp_path / "rare.png", strips)
    assert (tmp_path / "rare.png").read_bytes().startswith(b"\x89PNG")


def test_sheets_and_curves_are_written_whole(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 3))
    draw_sheet(tmp_path / "sheet.svg", [Strip("two rows\nof words", [Picture(colour, "red")])])
    assert "two rows" in (tmp_path / "sheet.svg").read_text(encoding="utf-8")
    generator = np.random.default_rng(0)
    found = {"lira": Roc(generator.normal(1, 1, 50), generator.normal(0, 1, 50))}
    guarantee = PrivacyCurve((Spent(1.0, 1e-5),))
    curves = [Curves.of("a", found, None), Curves.of("b", found, guarantee)]
    assert curves[0].allowed is None
    assert curves[1].allowed is not None
    for false, true in curves[1].allowed:
        assert true >= false
    draw_curves(tmp_path / "curves.svg", curves, non_members=1_000)
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert "LiRA, online" in text
    assert "the most that epsilon allows" in text
    assert sorted(each.name for each in tmp_path.iterdir()) == ["curves.svg", "sheet.svg"]
