"""A language model on a small text: what it takes, where it goes on, and what the page says."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from deniable.papers import Named, Results, Training, choose, language, ordinary
from deniable.papers.points import Language
from deniable.papers.tf_privacy import LANGUAGE, POINT, TF_PRIVACY

SMALL = Training(
    "sentences", Named("char-lstm", width=8), 200, epochs=1.0, lr=0.01, noise_multiplier=1.0,
    optimizer="adam",
)  # fmt: skip
TINY = Language(SMALL, SMALL.but(epochs=2.0, bound=Named("none")), ((0, 2), (1, 2), (8, 2)), 100)


def test_canaries_count_among_the_examples_of_the_plan(tmp_path: Path) -> None:
    text = language.read(TINY, None)
    assert len(text.train.inputs) == 1000 + 2 + 16
    result = language.train_private(TINY, tmp_path, text, lambda *_: None)
    assert result is not None
    assert result["sampling_rate"] == pytest.approx(200 / 1018)


def test_what_was_trained_once_is_not_trained_again(tmp_path: Path) -> None:
    text = language.read(TINY, None)
    first = language.train_ordinary(TINY, tmp_path, text, lambda *_: None)
    assert language.train_ordinary(TINY, tmp_path, text, lambda *_: None) == first


def test_ordinary_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    data = language.read(TINY, None).data
    whole = ordinary.train(data, TINY.ordinary, tmp_path / "whole", lambda *_: None)
    told: list[float] = []

    def stop(share: float, _: str) -> None:
        told.append(share)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    point = TINY.ordinary.but(batch_size=20)  # enough steps to be told of before the end
    whole = ordinary.train(data, point, tmp_path / "whole", lambda *_: None)
    assert ordinary.train(data, point, tmp_path / "parts", stop) is None
    parts = ordinary.train(data, point, tmp_path / "parts", lambda *_: None)
    assert whole is not None and parts is not None
    assert parts["history"] == whole["history"]


def test_the_page_lists_what_was_found(tmp_path: Path) -> None:
    result = language.train(TINY, tmp_path / "run", lambda *_: None)
    assert result is not None
    results = Results.of(TF_PRIVACY, LANGUAGE, tmp_path)
    results.add(POINT, TINY, json.loads(json.dumps(result, allow_nan=False)), "command")
    verdicts = {claim.name: claim.check(results) for claim in LANGUAGE.claims}
    assert all(each.agrees is not None for each in verdicts.values())
    assert not verdicts["memorised"].agrees
    LANGUAGE.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert LANGUAGE.detail is not None
    page = LANGUAGE.detail(results)
    assert page.count("` | ") >= 20
    assert "with privacy:" in page


def test_the_quick_run_is_of_a_text_in_the_package() -> None:
    (chosen,) = choose("tf_privacy/language", quick=True)
    assert {point.to_json()["data"] for point in chosen.points.values()} == {"sentences"}


def made_up(repetitions: list[int], bits: list[float]) -> list[dict[str, Any]]:
    return [
        {"repetitions": count, "bits": each, "rank": None, "interpolated": each,
         "extrapolated": each, "loss": 1.0}
        for count, each in zip(repetitions, bits, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(("bits", "agrees"), [(1.4, True), (9.0, False)])
def test_a_single_canary_that_shows_is_a_difference(
    bits: float, agrees: bool, tmp_path: Path
) -> None:
    results = Results(tmp_path / "x.json", {POINT: {"result": {
        "most_exposed": 29.9,
        "private": {"exposures": made_up([0, 0, 1, 1], [1.0, 2.0, bits, bits])},
    }}})  # fmt: skip
    claim = next(each for each in LANGUAGE.claims if each.name == "deniable")
    assert claim.check(results).agrees is agrees
