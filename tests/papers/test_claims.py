from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deniable.papers import PAPERS, Claim, Experiment, Paper, Results, Verdict

EXPERIMENTS = [(paper, experiment) for paper in PAPERS for experiment in paper.experiments]
IDS = [f"{paper.name}/{experiment.name}" for paper, experiment in EXPERIMENTS]


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
def test_a_claim_that_was_not_run_says_so(
    paper: Paper, experiment: Experiment, tmp_path: Path
) -> None:
    found = experiment.verdicts(Results.of(paper, experiment, tmp_path))
    assert {each.word for each in found.values()} == {"not run"}
    assert len(found) == len(experiment.claims) > 0


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
def test_points_are_values_that_json_holds(paper: Paper, experiment: Experiment) -> None:
    for points in (experiment.points, experiment.quick):
        for point in points.values():
            assert json.loads(json.dumps(point.to_json()))
            assert point.work > 0


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
def test_quick_points_need_no_data_that_is_not_in_the_package(
    paper: Paper, experiment: Experiment
) -> None:
    for point in experiment.quick.values():
        assert point.to_json().get("data", "digits") in ("digits", "sentences")


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
def test_results_that_are_kept_are_of_the_settings_that_stand(
    paper: Paper, experiment: Experiment
) -> None:
    folder = Path(__file__).parents[2] / "docs" / "papers"
    results = Results.of(paper, experiment, folder)
    assert set(results.of_points(experiment.points)) == set(results)


def test_every_paper_has_a_quick_run() -> None:
    for paper in PAPERS:
        assert any(experiment.quick for experiment in paper.experiments)


def test_claims_are_listed_without_loading_torch() -> None:
    code = "import sys, deniable.papers, deniable.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_claim_has_no_verdict_before_all_that_it_rests_on_was_run(tmp_path: Path) -> None:
    claim = Claim("rises", "It rises", lambda _: Verdict(True, "it does"), of="k=")
    some = Results(tmp_path / "some.json", {"k=1": {}}, missing=("k=2", "c=1"))
    assert claim.verdict(some).word == "not run"
    enough = Results(tmp_path / "some.json", {"k=1": {}, "k=2": {}}, missing=("c=1",))
    assert claim.verdict(enough).word == "agrees"


def test_points_are_found_by_their_number_where_there_are_enough(tmp_path: Path) -> None:
    results = Results(tmp_path / "some.json", {"k=8": {}, "c=k=1": {}, "k=0.5": {}})
    assert results.numbered("k=", least=2) == {0.5: "k=0.5", 8.0: "k=8"}
    with pytest.raises(KeyError):
        results.numbered("k=")


@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS, ids=IDS)
def test_the_pages_say_why_something_differs(paper: Paper, experiment: Experiment) -> None:
    pages = Path(__file__).parents[2] / "docs" / "papers"
    found = experiment.verdicts(Results.of(paper, experiment, pages))
    assert {name for name, each in found.items() if each.agrees is None} == set(), "not run"
    assert {name for name, each in found.items() if not (each.agrees or each.why)} == set()
