"""The comparison is fair: every candidate computes the same, and the pages say what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import charts, pages
from benchmarks.candidates import CANDIDATES, Setting, error, one_row_at_a_time
from benchmarks.measure import in_turns, ratios
from benchmarks.memory import _tensors
from benchmarks.phases import NOISE, NORMS, phases
from benchmarks.run import beside_earlier
from benchmarks.workloads import WORKLOADS, Workload, class_loss, vectors

TINY = Workload("tiny", 5, lambda: nn.Sequential(nn.Linear(60, 3), nn.Tanh(), nn.Linear(3, 10)),
                vectors, class_loss)  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of attention on a CPU
@pytest.mark.parametrize("name", ["deniable", "vmap"])
@pytest.mark.parametrize("workload", [TINY, WORKLOADS[3]], ids=lambda each: each.name)
def test_without_noise_a_candidate_is_one_row_at_a_time(name: str, workload: Workload) -> None:
    setting = Setting(workload, 3)
    expected = one_row_at_a_time(setting)
    assert error(name, setting, expected) < 1e-3
    # The bound binds, so plain training is told apart.
    assert error("plain", setting, expected) > 0.5


@pytest.mark.parametrize("name", ["deniable", "vmap"])
def test_without_noise_and_bound_a_candidate_trains_as_plain_does(name: str) -> None:
    setting = replace(Setting(TINY, 5), noise=0.0, clip=1e6, lr=0.5)
    plain, private = CANDIDATES["plain"](setting), CANDIDATES[name](setting)
    for _ in range(3):
        plain.run()
        private.run()
    for one, other in zip(plain.model.parameters(), private.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_every_candidate_gets_the_same_number_of_turns() -> None:
    steps = {name: CANDIDATES[name](Setting(TINY, 5)) for name in ("plain", "deniable")}
    times = in_turns(steps, "cpu", seconds=0.0)
    assert len(times["plain"]) == len(times["deniable"]) >= 5
    assert ratios(times["plain"], times["plain"]) == {"median": 1.0, "q1": 1.0, "q3": 1.0}


def test_the_peak_counts_model_data_and_what_a_step_holds() -> None:
    rows, width = 50, 400
    square = Workload("square", rows, lambda: nn.Linear(width, width, bias=False),
                      lambda n: (torch.ones(n, width), torch.ones(n, width)),
                      lambda outputs, labels: (outputs * labels).sum())  # fmt: skip
    found = _tensors("plain", Setting(square, rows), torch.get_num_threads())
    weights, data = 4 * width**2, 4 * rows * width
    # Weight, its gradient, inputs, labels, and a few tensors of an output's size.
    assert 2 * weights + 2 * data <= (found["peak"] or 0) <= 2 * weights + 8 * data
    per_row = _tensors("vmap", Setting(square, rows), torch.get_num_threads())
    assert (per_row["peak"] or 0) > rows * weights


def test_the_profile_finds_every_phase_and_leaves_no_trace() -> None:
    found = phases(Setting(TINY, 5), seconds=0.0)
    assert NORMS not in found["plain"] and found["deniable"][NORMS] > 0
    assert found["floor"] == pytest.approx(
        1 + found["deniable"][NOISE] / sum(found["plain"].values())
    )
    again = phases(Setting(TINY, 5), seconds=0.0)
    assert set(again["deniable"]) == set(found["deniable"])


def row(workload: str, deniable: float, opacus: float | None) -> dict[str, Any]:
    def candidate(ratio: float) -> dict[str, Any]:
        spread = {"median": ratio, "q1": 0.9 * ratio, "q3": 1.1 * ratio}
        return {
            "milliseconds": {key: 8 * value for key, value in spread.items()},
            "ratio": spread,
            "memory": {"peak": int(3e6 * ratio), "first": 1, "resident": None},
        }

    candidates = {"plain": candidate(1.0), "deniable": candidate(deniable)}
    if opacus is not None:
        candidates["opacus ghost"] = candidate(opacus)
    return {
        "workload": workload, "batch": 1024, "date": "2026-01-31", "candidates": candidates,
        "failures": {"vmap": "RuntimeError: no | rule"}, "explain": "linear: gram",
        "opacus_milliseconds": {"opacus ghost": 80.0, "opacus hooks": 160.0},
        "phases": {"plain": {NORMS: 0.0, "backward": 4.0}, "deniable": {NORMS: 3.0}, "floor": 1.1},
    }  # fmt: skip


def speed(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu": "Abacus", "threads": 2, "torch": "2.13.0", "opacus": "1.6.0"}
    return {"machine": machine, "rows": list(rows)}


def test_the_readme_repeats_the_results_and_nothing_else() -> None:
    page = f"words\n{pages.BEGIN}\nold\n{pages.END}\nmore words\n"
    written = pages.with_speed(page, speed(row("MLP", 1.234, 10.4), row("LSTM", 2.0, None)))
    assert "| MLP | 1,024 | 8.0 ms | 1.23× | — | 10× | 3.0 MB | 1.23× | — | 10× |" in written
    assert "| LSTM | 1,024 | 8.0 ms | 2.00× | — | — | 3.0 MB | 2.00× | — | — |" in written
    assert (
        "Measured on Abacus, 2 threads, with torch 2.13.0 and Opacus 1.6.0, 2026-01-31." in written
    )
    assert "old" not in written
    assert written.startswith("words\n") and written.endswith("more words\n")
    assert pages.with_speed(written, None) == page.replace("old", pages.ABSENT)


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        pages.with_speed("words", None)


def test_the_page_says_what_did_not_run_and_where_time_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    assert pages.ABSENT in pages.speed_page()
    found = json.dumps(speed(row("MLP", 1.2, 10.0)))
    (tmp_path / "speed.json").write_text(found, encoding="utf-8")
    page = pages.speed_page()
    assert "- MLP, vmap: RuntimeError: no \\| rule" in page
    assert "+3.00 ms (+75%)" in page and "hooks 160 ms" in page and "linear: gram" in page


def test_a_row_measured_again_takes_its_old_place(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    out.write_text(json.dumps(speed(row("MLP", 2.0, None), row("LSTM", 2.0, None))), "utf-8")
    merged = beside_earlier(speed(row("MLP", 1.0, None)), out)
    assert [each["workload"] for each in merged["rows"]] == ["MLP", "LSTM"]
    assert merged["rows"][0]["candidates"]["deniable"]["ratio"]["median"] == 1.0
    elsewhere = speed(row("MLP", 1.0, None)) | {"machine": {"cpu": "another"}}
    assert len(beside_earlier(elsewhere, out)["rows"]) == 1


def test_the_chart_is_the_same_each_time_and_shows_who_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "DOCS", tmp_path)
    found = speed(row("MLP", 1.2, 10.0), row("LSTM", 1.1, None))
    once = charts.speed(found, "speed").read_bytes()
    assert once == charts.speed(found, "speed").read_bytes()
    assert b"does not run" in once
