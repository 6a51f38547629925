from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deniable.errors import SettingsError
from deniable.papers import (
    PAPERS,
    Chosen,
    Claim,
    Experiment,
    Named,
    Paper,
    Progress,
    Recurrent,
    Results,
    Verdict,
    choose,
    reproduce,
)

POINTS = {
    name: Recurrent(Named(name, **settings), 0.1, 50, 6)
    for name, settings in (("none", {}), ("norm", {"norm": 1.0}))
}


def drawn(results: Results, path: Path) -> None:
    path.write_text(" ".join(results), encoding="utf-8")


def paper(points: dict[str, Recurrent] = POINTS) -> Paper:
    def check(results: Results) -> Verdict:
        return Verdict(results["norm"]["error"] < 100, f"error {results['norm']['error']:.3f}")

    claim = Claim("learns", "It learns", check)
    one = Experiment("one", "The first", "Settings.", points, (claim,), drawn, points)
    return Paper("tried", "A paper", "Somebody.", "About it.", (one,))


def chosen(points: dict[str, Recurrent] = POINTS) -> list[Chosen]:
    made = paper(points)
    return [Chosen(made, made.experiments[0])]


def silent(_: Progress) -> None:
    pass


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cures of the points that were really trained."""
    from deniable.papers import exploding

    found: list[str] = []
    original = exploding.train

    def noted(point: Recurrent, *rest: Any) -> Any:
        found.append(point.cure.name)
        return original(point, *rest)

    monkeypatch.setattr(exploding, "train", noted)
    return found


def test_results_a_figure_and_a_page_are_written(tmp_path: Path) -> None:
    assert reproduce(chosen(), tmp_path, silent)
    page = (tmp_path / "tried.md").read_text(encoding="utf-8")
    assert "| It learns | error 0." in page
    assert "**agrees**" in page
    assert "`deniable reproduce tried/one`" in page
    assert "tried-one.png" in page
    assert (tmp_path / "tried-one.png").read_text(encoding="utf-8") == "none norm"
    assert "2 of 2 trainings" in page


def test_pages_and_results_name_no_folder_and_no_person(tmp_path: Path) -> None:
    reproduce(chosen(), tmp_path, silent)
    for path in (tmp_path / "tried.md", tmp_path / "tried-one.json"):
        text = path.read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert str(Path.home()) not in text


def test_what_is_finished_is_not_run_again(tmp_path: Path, runs: list[str]) -> None:
    reproduce(chosen(), tmp_path, silent)
    reproduce(chosen(), tmp_path, silent)
    assert runs == ["none", "norm"]


def test_a_point_whose_settings_changed_is_run_again_and_never_shown(
    tmp_path: Path, runs: list[str]
) -> None:
    reproduce(chosen(), tmp_path, silent)
    changed = POINTS | {"norm": Recurrent(Named("norm", norm=2.0), 0.1, 50, 6)}
    assert list(chosen(changed)[0].results(tmp_path)) == ["none"]
    reproduce(chosen(changed), tmp_path, silent)
    assert runs == ["none", "norm", "norm"]


def test_after_an_interruption_the_same_call_goes_on_with_what_is_left(
    tmp_path: Path, runs: list[str]
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.point == "norm":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(chosen(), tmp_path, interrupt)
    assert reproduce(chosen(), tmp_path, silent)
    assert runs == ["none", "norm", "norm"]


def test_progress_grows_to_everything_with_the_time_left(tmp_path: Path) -> None:
    told: list[Progress] = []
    reproduce(chosen(), tmp_path, told.append)
    shares = [each.share for each in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert told[-1].seconds_left == pytest.approx(0.0, abs=1e-6)


def test_a_file_that_is_no_result_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "tried-one.json").write_text("[]", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"tried-one\.json must hold the results"):
        reproduce(chosen(), tmp_path, silent)


def test_the_same_point_of_another_figure_is_taken_from_there(
    tmp_path: Path, runs: list[str]
) -> None:
    first = paper().experiments[0]
    second = Experiment("two", "The second", "", POINTS, (), drawn, POINTS)
    both = Paper("tried", "A paper", "Somebody.", "About it.", (first, second))
    reproduce([Chosen(both, first), Chosen(both, second)], tmp_path, silent)
    assert runs == ["none", "norm"]
    assert set(Results.of(both, second, tmp_path)) == {"none", "norm"}


def test_a_name_stands_for_one_experiment_a_paper_or_all() -> None:
    assert [each.name for each in choose("abadi/table")] == ["abadi/table"]
    everything = [each.name for each in choose("all")]
    assert len(everything) == len(set(everything))
    assert {each.partition("/")[0] for each in everything} == {each.name for each in PAPERS}
    with pytest.raises(SettingsError, match="Choose one of abadi"):
        choose("abady")
    with pytest.raises(SettingsError, match="abadi/table"):
        choose("abadi/tables")
