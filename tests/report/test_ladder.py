from __future__ import annotations

from pathlib import Path

import pytest

from deniable.accounting import ACCOUNTANTS
from deniable.accounting.slides import EVENT
from deniable.errors import SettingsError
from deniable.events import Event, GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.report.ladder import _apart, draw_ladder


def slides_after(steps: int) -> Event:
    return SelfComposedEvent(EVENT.event, steps)


def test_every_accountant_is_drawn_and_named_with_its_last_epsilon(tmp_path: Path) -> None:
    path = tmp_path / "ladder.svg"
    draw_ladder(slides_after, 100, 1e-5, path)
    drawn = path.read_text(encoding="utf-8")
    for name in ACCOUNTANTS:
        assert f">{name}  " in drawn
    assert "slides" not in drawn
    draw_ladder(slides_after, 100, 1e-5, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == drawn


def test_what_the_slides_print_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "ladder.svg"
    draw_ladder(slides_after, 10, 1e-5, path, with_slides=True)
    drawn = path.read_text(encoding="utf-8")
    for printed in ("12,000", "360", "10", "1.25"):
        assert f"slides: {printed}<" in drawn
    assert "0.1, 0.1, 0.001, 1e-05" in drawn


def test_labels_keep_their_order_and_their_distance() -> None:
    places = _apart({"a": 1.0, "b": 1.01, "c": 100.0, "d": 0.0}, gap=0.5)
    assert sorted(places, key=places.__getitem__) == ["d", "a", "b", "c"]
    assert places["b"] / places["a"] == pytest.approx(2.718**0.5, rel=1e-3)
    assert places["c"] == pytest.approx(100)


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_the_same_figure_is_the_same_file(tmp_path: Path, form: str) -> None:
    drawn = [tmp_path / f"{name}.{form}" for name in "ab"]
    for each in drawn:
        draw_ladder(slides_after, 10, 1e-5, each)
    first, second = (each.read_bytes() for each in drawn)
    assert first == second
    assert b"Date" not in first


@pytest.mark.parametrize(
    "name", ["figure.jpg", "figure.pgf", "figure", "no-such-folder/figure.svg"]
)
def test_a_file_that_cannot_be_drawn_to_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=r"ends in \.svg, \.png or \.pdf, in a folder"):
        draw_ladder(slides_after, 10, 1e-5, tmp_path / name)


def test_what_costs_infinitely_much_is_not_drawn(tmp_path: Path) -> None:
    bare = PoissonSampledEvent(0.1, GaussianEvent(0.0))
    with pytest.raises(SettingsError, match="nothing to draw"):
        draw_ladder(lambda steps: SelfComposedEvent(bare, steps), 10, 1e-5, tmp_path / "a.svg")


def test_steps_that_cost_together_are_drawn_as_stairs_that_never_understate(tmp_path: Path) -> None:
    """Each stair is as high as its end, so only whole periods are asked for."""
    asked = []

    def after(steps: int) -> Event:
        asked.append(steps)
        return SelfComposedEvent(GaussianEvent(5.0), -(-steps // 10))

    draw_ladder(after, 34, 1e-5, tmp_path / "stairs.svg", period=10)
    assert asked == [1, 10, 20, 30, 34]
