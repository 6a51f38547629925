"""The comparison is fair: every candidate computes the same, and the pages say what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import charts, growth, machine, pages, results
from benchmarks.candidates import CANDIDATES, OPACUS_MODES, Setting, Step, plain_loop
from benchmarks.correctness import TOLERANCE, error, few_rows, one_row_at_a_time
from benchmarks.measure import LEAST_TURNS, Turns, in_turns
from benchmarks.memory import _tensors
from benchmarks.operators import profiled
from benchmarks.phases import FORWARD, INPUTS, NOISE, NORMS, SUMS, frozen_loop, phases
from benchmarks.run import correctness, in_short, measured
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


def test_a_wrong_candidate_is_called_wrong_and_takes_no_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain training, passed off as private."""
    monkeypatch.setitem(CANDIDATES, "vmap", CANDIDATES["plain"])
    for mode in OPACUS_MODES:
        monkeypatch.delitem(CANDIDATES, f"opacus {mode}")
    errors, failures = correctness(Setting(TINY, 5))
    assert set(errors) == {"deniable"} and errors["deniable"] <= TOLERANCE
    assert failures["vmap"].startswith(pages.WRONG)


@pytest.mark.filterwarnings("ignore")
def test_opacus_is_right_in_every_mode_that_runs_in_one_process() -> None:
    pytest.importorskip("opacus")
    errors, failures = correctness(Setting(TINY, 5))
    assert {f"opacus {mode}" for mode in OPACUS_MODES} - set(errors) == {"opacus ghost_fsdp"}
    assert "distributed" in failures["opacus ghost_fsdp"]


def test_the_check_takes_a_handful_of_rows() -> None:
    assert few_rows(Setting(TINY, 256)).batch <= 8
    assert few_rows(Setting(TINY, 2)).batch == 2


def test_a_slow_candidate_gets_its_least_turns_each_between_plain_ones() -> None:
    seen: list[str] = []

    def step(name: str) -> Step:
        return Step(nn.Identity(), lambda: seen.append(name))

    turns = in_turns(step("plain"), step("slow"), "cpu", seconds=0.0)
    assert len(turns.seconds) == len(turns.ratios) == LEAST_TURNS
    assert len(turns.plain) == LEAST_TURNS + 1
    order = [name for k, name in enumerate(seen) if k == 0 or seen[k - 1] != name]
    assert order[-7:] == ["plain", "slow"] * LEAST_TURNS + ["plain"]


def test_a_ratio_is_to_the_plain_turns_beside_it() -> None:
    turns = Turns(seconds=[2.0, 6.0, 4.0], plain=[1.0, 1.0, 3.0, 5.0], ratios=[2.0, 3.0, 1.0])
    assert turns.summary()["ratio"]["median"] == 2.0
    assert turns.summary()["milliseconds"]["median"] == 4000.0


def test_the_peak_counts_model_data_and_what_a_step_holds() -> None:
    rows, width = 50, 400
    square = Workload("square", rows, lambda: nn.Linear(width, width, bias=False),
                      lambda n: (torch.ones(n, width), torch.ones(n, width)),
                      lambda outputs, labels: (outputs * labels).sum())  # fmt: skip
    found = _tensors("plain", Setting(square, rows), torch.get_num_threads())
    weights, data = 4 * width**2, 4 * rows * width
    # Weight, its gradient, inputs, labels, and a few tensors of an output's size.
    assert 2 * weights + 2 * data <= (found["steady"] or 0) <= 2 * weights + 8 * data
    per_row = _tensors("vmap", Setting(square, rows), torch.get_num_threads())
    assert (per_row["steady"] or 0) > rows * weights
    assert (per_row["first"] or 0) > rows * weights


def test_the_phases_make_up_the_step_and_leave_no_trace() -> None:
    found = phases(Setting(TINY, 5), seconds=0.0)
    plain, private = found["plain"], found["deniable"]
    assert NORMS not in plain and private[NORMS] > 0 and private[SUMS] > 0
    assert found["floor"] == pytest.approx(
        1 + (private[NOISE] + found["reading"]) / sum(plain.values())
    )
    again = phases(Setting(TINY, 5), seconds=0.0)
    assert set(again["deniable"]) == set(private)


def test_plain_without_weight_gradients_still_goes_all_the_way_back() -> None:
    loop = frozen_loop(Setting(WORKLOADS[0], 5))
    seen: list[Tensor] = []

    def watch(_: nn.Module, inputs: object, output: Tensor) -> None:
        output.register_hook(seen.append)

    next(iter(loop.model.children())).register_forward_hook(watch)
    loop.run()
    assert len(seen) == 1
    assert all(each.grad is None for each in loop.model.parameters())


def test_the_profile_counts_python_operators_and_host_waits() -> None:
    loop = plain_loop(Setting(TINY, 5))

    def waits() -> None:
        loop.run()
        loop.model(torch.zeros(1, 60)).sum().item()

    quiet, loud = (profiled(Step(loop.model, run), "cpu") for run in (loop.run, waits))
    assert quiet.waits == {} and loud.waits == {"aten::_local_scalar_dense": 1.0}
    assert 0 < quiet.python < 1000
    assert loud.summary()["operators"] > quiet.summary()["operators"] > 10


def test_a_row_holds_all_that_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in OPACUS_MODES:
        monkeypatch.delitem(CANDIDATES, f"opacus {mode}")
    memory = {"first": 2, "steady": 1, "resident": None}
    monkeypatch.setattr("benchmarks.run.peak", lambda *_: memory)
    found = measured(Setting(TINY, 5), 0.0, lambda _: None)
    assert set(found["candidates"]) == {"plain", "deniable", "vmap"}
    assert found["candidates"]["deniable"]["turns"] >= LEAST_TURNS
    assert "deniable" in in_short(found)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.save(tmp_path / "speed.json", {**machine.header("x", "cpu"), "rows": [found]})
    page = pages.speed_page()
    assert "| tiny |" in page and f"| {NORMS} | 0.00 |" in page and FORWARD in page


def test_a_growth_point_is_a_size_and_its_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [each["name"] for each in growth.points("", quick=False)]
    assert len(names) == len(set(names)) == 22 and tuple(growth.SWEEPS) == pages.GROWING
    assert [each["name"] for each in growth.points("depth", quick=True)] == ["depth 1", "depth 2"]
    monkeypatch.setattr(growth, "SHARES", {"deniable": 1.0})
    memory = {"first": 2, "steady": 1}
    monkeypatch.setattr(growth, "tensors", lambda *_: memory)
    found = growth.measured(Setting(TINY, 5), 0.0, None)  # type: ignore[arg-type]
    assert found["candidates"]["deniable"]["memory"] == memory and found["failures"] == {}


def test_the_power_is_that_of_the_last_doubling() -> None:
    assert pages.exponent([(1, 1.0), (2, 5.0), (4, 20.0)]) == pytest.approx(2.0)
    assert pages.exponent([(1, 1.0)]) is None


def row(name: str, deniable: float, opacus: float | None) -> dict[str, Any]:
    def candidate(ratio: float) -> dict[str, Any]:
        spread = {"median": ratio, "q1": 0.9 * ratio, "q3": 1.1 * ratio}
        return {
            "milliseconds": {key: 8 * value for key, value in spread.items()},
            "ratio": spread,
            "turns": 7,
            "first_milliseconds": 40 * ratio,
            "needs": "",
            "memory": {"first": int(6e6 * ratio), "steady": int(3e6 * ratio), "resident": None},
        }

    candidates = {"plain": candidate(1.0), "deniable": candidate(deniable)}
    modes = {}
    if opacus is not None:
        candidates["opacus ghost"] = candidate(opacus) | {"needs": "a shape"}
        modes = {"opacus ghost": {"milliseconds": 80.0, "needs": "a shape"},
                 "opacus hooks": {"milliseconds": 160.0, "needs": ""}}  # fmt: skip
    profile = {"python": 0.5, "operators": 30.0, "waits": {"aten::nonzero": 2.0}}
    return {
        "name": name, "batch": 1024, "date": "2026-01-31", "code": "0.1.0 abc", "load": 0.1,
        "candidates": candidates, "modes": modes,
        "failures": {"vmap": "RuntimeError: no | rule", "opacus ew": "wrong: off by 0.5"},
        "inside": {
            "explain": "linear: gram",
            "phases": {"plain": {FORWARD: 1.0, INPUTS: 3.0},
                       "deniable": {FORWARD: 1.0, INPUTS: 3.5, NORMS: 3.0, NOISE: 0.4},
                       "reading": 0.1, "floor": 1.125},
            "profile": {"plain": profile | {"waits": {}}, "deniable": profile},
        },
    }  # fmt: skip


def speed(*rows: dict[str, Any]) -> dict[str, Any]:
    about = {"cpu": "Abacus", "threads": 2, "torch": "2.13.0", "opacus": "1.6.0"}
    environment = {"MALLOC_ARENA_MAX": "1"}
    return {"device": "cpu", "machine": about, "environment": environment, "rows": list(rows)}


def test_the_readme_repeats_the_results_and_nothing_else() -> None:
    page = "words\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nmore words\n"
    written = pages.with_speed(page, speed(row("MLP", 1.234, 10.4), row("LSTM", 2.0, None)))
    assert "| MLP | 1,024 | 8.0 ms | 1.23× | — | 10× | 3.0 MB | 1.23× | — | 10× |" in written
    assert "| LSTM | 1,024 | 8.0 ms | 2.00× | — | — | 3.0 MB | 2.00× | — | — |" in written
    assert (
        "Measured on Abacus, 2 threads, with torch 2.13.0 and Opacus 1.6.0, 2026-01-31." in written
    )
    assert "old" not in written
    assert written.startswith("words\n") and written.endswith("more words\n")
    assert pages.with_speed(written, None) == page.replace("old", pages.ABSENT)


def test_of_the_committed_results_no_peer_is_ahead_on_any_row() -> None:
    """Nor does any step take many times plain's, in time or memory. Pitfall: users 8."""
    found = json.loads((Path(results.__file__).parent / "results" / "speed.json").read_text())
    assert [each["name"] for each in found["rows"]] == [each.name for each in WORKLOADS]
    for each in found["rows"]:
        peers = dict(each["candidates"])
        plain, mine = peers.pop("plain"), peers.pop("deniable")
        least = min(peer["ratio"]["median"] for peer in peers.values() if "ratio" in peer)
        assert mine["ratio"]["median"] < min(least, 2.5), each["name"]
        assert mine["memory"]["steady"] <= 1.3 * plain["memory"]["steady"], each["name"]


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        pages.with_speed("words", None)


def test_the_page_says_what_did_not_run_and_where_time_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert pages.ABSENT in pages.speed_page()
    results.save(tmp_path / "speed.json", speed(row("MLP", 1.2, 10.0)))
    page = pages.speed_page()
    assert "- vmap: RuntimeError: no \\| rule (MLP)" in page
    assert f"{NORMS} +3.00 ms (+75%), {INPUTS} +0.50 ms (+12%), {NOISE} +0.40 ms (+10%)" in page
    assert f"| {NORMS} | 0.00 | 3.00 | +3.00 ms (+75%) |" in page
    assert "1.98 times plain PyTorch" in page and "the floor is 1.12" in page
    assert "host waits: 2 instead of 0" in page
    assert (
        "| workload | ew | ghost | hooks |" in page and "| MLP | wrong | 80.0 ms | 160 ms |" in page
    )
    assert "- MLP: a shape (opacus ghost)" in page and "linear: gram" in page
    assert "| MLP | 48.0 ms (6.00×) | — | 400 ms (50×) | 1.20× |" in page
    assert "Environment of every candidate: MALLOC_ARENA_MAX 1." in page


def test_a_row_measured_again_takes_its_old_place_and_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results" / "speed.json"
    results.save(path, speed(row("MLP", 2.0, None), row("LSTM", 2.0, None)))
    found = results.begin(path, speed(), replace=False)
    results.put(found, row("MLP", 1.0, None))
    results.put(found, row("CNN", 1.0, None))
    results.save(path, found)
    assert [each["name"] for each in json.loads(path.read_text())["rows"]] == ["MLP", "LSTM", "CNN"]
    assert found["rows"][0]["candidates"]["deniable"]["ratio"]["median"] == 1.0
    assert [each.name for each in path.parent.iterdir()] == ["speed.json"]


@pytest.mark.parametrize("part", ["machine", "environment", "device"])
def test_rows_of_two_machines_or_environments_are_not_mixed(tmp_path: Path, part: str) -> None:
    path = tmp_path / "speed.json"
    results.save(path, speed(row("MLP", 2.0, None)))
    other = speed() | {part: {"another": "one"}}
    with pytest.raises(SystemExit, match=f"another {part}"):
        results.begin(path, other, replace=False)
    assert results.begin(path, other, replace=True)["rows"] == []


def test_a_resumed_run_leaves_out_what_this_very_code_has_measured() -> None:
    found = speed(row("MLP", 2.0, None), row("LSTM", 2.0, None) | {"code": "0.1.0 abc+"})
    assert results.holds(found, "MLP", "0.1.0 abc")
    assert not results.holds(found, "MLP", "0.1.0 def")
    assert not results.holds(found, "LSTM", "0.1.0 abc+"), "files that differ are no one code"


def test_the_environment_of_threads_and_allocator_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("SECRET", "1")
    found = machine.environment()
    assert found["MALLOC_ARENA_MAX"] == "1" and "SECRET" not in found
    assert machine.description("cpu")["threads"] == torch.get_num_threads()


def test_the_charts_are_the_same_each_time_and_show_who_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "DOCS", tmp_path)
    found = speed(row("MLP", 1.2, 10.0), row("LSTM", 1.1, None))
    once = charts.speed(found, "speed").read_bytes()
    assert once == charts.speed(found, "speed").read_bytes()
    assert b"does not run" in once
    points = [row("a", 1.2, None) | {"of": "batch", "size": 2**k} for k in range(3)]
    assert charts.growth({"rows": points, "candidates": ["plain", "deniable"]}, "growth").exists()
