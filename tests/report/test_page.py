from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from deniable.errors import SettingsError
from deniable.events import PoissonSampledEvent
from deniable.plan import Plan
from deniable.report import page as page_module
from deniable.report import render
from deniable.report.page import claim, page
from deniable.report.record import Record
from deniable.report.statement import Releases, Statement
from deniable.settings import Settings
from deniable.units import PrivacyCurve, Spent

VOID = {"meta", "link", "br"}
APART = {"p", "h1", "h2", "h3", "dt", "dd", "th", "td", "li", "svg", "summary", "figcaption"}
HOSTILE = (
    "</style></pre>\"'><script>alert(1)</script><img src=https://evil.test/x onerror=a()> $x_{$"
)
NO_LEDGER = Statement({}, (), 0, "A ledger was expected at ledger.sqlite.")


class Reader(HTMLParser):
    """Reads a page as a browser does, far enough to judge it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag in APART:
            self.words.append(" ")
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


def read(run: dict[str, Any], statement: Statement) -> Reader:
    return Reader(page(Record(run), statement, "mnist-eps3"))


def stopped(run: dict[str, Any]) -> dict[str, Any]:
    return run | {"status": "interrupted", "results": None, "history": run["history"][:6]}


def without_noise(run: dict[str, Any]) -> dict[str, Any]:
    return run | {
        "plan": run["plan"] | {"noise_multiplier": 0.0, "epsilon": None},
        "results": run["results"] | {"epsilon": None, "non_private": True},
        "history": [row | {"epsilon": None} for row in run["history"]],
    }


def test_the_fixture_is_a_run_that_this_version_could_have_written(run: dict[str, Any]) -> None:
    assert Plan.from_json(run["plan"]).steps == run["results"]["steps"]
    assert Settings.from_json(run["settings"]).data == "mnist"


def test_a_run_folder_becomes_a_page_with_its_headline(folder: Path) -> None:
    path = render(folder)
    assert path == folder / "report.html"
    text = Reader(path.read_text(encoding="utf-8")).text
    for fact in ("mnist-cnn on mnist", "95.9%", "3.000", "10⁻⁵", "1 in 100,000", "complete"):
        assert fact in text


def test_the_ledger_s_epsilons_are_computed_again(folder: Path) -> None:
    """Known answer: 3,510 steps of rate 256/60000 at noise 0.7281; PLD 3.000, RDP 3.596."""
    text = Reader(render(folder).read_text(encoding="utf-8")).text
    assert "RDP 3.596 3,510" in text
    assert "PLD 3.000 3,510" in text
    assert "The ledger" not in text


def test_the_same_run_gives_the_same_bytes(run: dict[str, Any], statement: Statement) -> None:
    assert page(Record(run), statement, "a") == page(Record(run), statement, "a")


def test_a_page_is_written_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = render(folder).read_bytes()
    monkeypatch.setattr(page_module, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(folder)
    assert (folder / "report.html").read_bytes() == before
    assert {each.name for each in folder.iterdir()} == {"run.json", "ledger.sqlite", "report.html"}


def test_a_folder_without_a_run_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="deniable train"):
        render(tmp_path)


def test_rendering_never_loads_torch(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from deniable.report import render; "
        f"render(Path({str(folder)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_page_loads_nothing(run: dict[str, Any], statement: Statement) -> None:
    text = page(Record(run), statement, "mnist-eps3")
    reader = Reader(text)
    assert not reader.tags.keys() & {"script", "iframe", "img", "object", "embed", "base", "form"}
    assert all(each.startswith(("#", "data:,")) for each in reader.values("href", "xlink:href"))
    assert reader.values("src", "srcset", "action", "poster", "background") == []
    assert "://" not in text
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert any("default-src 'none'" in each for each in reader.values("content"))


def test_every_reference_inside_the_page_has_one_target(
    run: dict[str, Any], statement: Statement
) -> None:
    reader = read(run, statement)
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    clips = re.findall(r"url\(#([^)]+)\)", " ".join(reader.values("clip-path", "style")))
    uses = [each[1:] for each in reader.values("href") if each.startswith("#")]
    assert {*clips, *uses, *reader.values("aria-labelledby")} <= set(ids)
    assert clips and uses


def test_every_chart_has_words_for_who_cannot_see_it(
    run: dict[str, Any], statement: Statement
) -> None:
    reader = read(run, statement)
    labels = [
        value for tag, name, value in reader.attributes if (tag, name) == ("svg", "aria-label")
    ]
    assert reader.tags["svg"] == len(labels) == 6
    assert "Test accuracy over steps. From 83.1% at step 234 to 95.9% at step 3,510." in labels


def test_no_chart_has_a_colour_of_its_own(run: dict[str, Any], statement: Statement) -> None:
    text = page(Record(run), statement, "mnist-eps3")
    charts = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(charts) == 6
    for chart in charts:
        assert re.findall(r"#[0-9a-fA-F]{6}\b|rgb\(|black|white", chart) == []
        used = set(re.findall(r"var\((--\w+)\)", chart))
        assert used and all(f"{name}:" in text for name in used)


def test_who_has_never_met_epsilon_is_told_what_it_means(
    run: dict[str, Any], statement: Statement
) -> None:
    """Pitfall: users 7. The bound on an attacker's true positives, in plain words."""
    text = read(run, statement).text
    assert (
        "A test that wrongly names 1 in every 100 people who were not in the data can find at "
        "most 20.1 in every 100 who were; blind guessing finds 1."
    ) in text
    assert "0.1 2.1 1 20.1 10 95.6" in text  # out of 100, at 0.1%, 1% and 10% false positives


def test_the_whole_curve_limits_an_attacker_further_unless_the_claim_is_weaker(
    run: dict[str, Any], statement: Statement
) -> None:
    tight = replace(statement, curve=PrivacyCurve((Spent(3.0, 1e-5), Spent(1.0, 0.02))))
    assert "can find at most 4.8 in every 100 who were" in read(run, tight).text
    run["results"]["epsilon"] = 3.5  # the record admits more than its ledger
    assert "can find at most 33.2 in every 100 who were" in read(run, tight).text


def test_the_claim_names_its_relation_unit_sampling_and_accountant(
    run: dict[str, Any], statement: Statement
) -> None:
    """Pitfall: privacy 14. The relation is part of what is printed."""
    text = read(run, statement).text
    for words in (
        "Relation add-or-remove: one holds one unit more than the other",
        "Unit one example",
        "3,510 sums with Gaussian noise of 0.7281 times the most that one example can move them",
        "Poisson sample: every example joins with probability 0.427%, independently",
        "the claim uses PLD",
        "P[M(D) ∈ S] ≤ eε · P[M(D′) ∈ S] + δ",
    ):
        assert words in text


def test_exact_measurements_stand_together_under_a_warning(
    run: dict[str, Any], statement: Statement
) -> None:
    text = read(run, statement).text
    before, mark, after = text.partition("Not private Exact measurements")
    assert mark
    for name in ("Mean gradient norm", "Share clipped", "Training loss", "fingerprint"):
        assert name not in before
        assert name in after


def test_a_run_without_noise_claims_nothing(run: dict[str, Any]) -> None:
    statement = Statement(
        {"rdp": math.inf, "pld": math.inf},
        (Releases(3510, PoissonSampledEvent, 256 / 60_000, 0.0),),
        1,
    )
    text = read(without_noise(run), statement).text
    assert "This model is not private" in text
    assert "Trained without privacy" in text
    assert "Epsilon spent ∞ no limit: not private" in text
    assert "The claim" not in text.replace("The claim does not cover them", "")
    assert "at most 100" not in text


def test_a_seeded_run_says_so_first(run: dict[str, Any], statement: Statement) -> None:
    run["seeded"], run["settings"]["seed"] = True, 0
    text = read(run, statement).text
    assert text.index("The noise came from a seed") < text.index("Test accuracy")
    assert "holds only against those who do not know the seed" in text
    assert "--seed 0" in text


def test_an_interrupted_run_shows_what_was_released_so_far(run: dict[str, Any]) -> None:
    reserved = Statement(
        {"rdp": 2.7, "pld": 2.1302},
        (Releases(1408, PoissonSampledEvent, 256 / 60_000, 0.7280761),),
        1,
    )
    text = read(stopped(run), reserved).text
    assert "Interrupted at step 1,404 of 3,510" in text
    assert "Epsilon spent 2.131" in text, "what was reserved counts"
    assert "93.9%" in text


@pytest.mark.parametrize("history", [[], None, "rows", [None, 3, {"step": None}]])
def test_a_run_without_a_history_has_a_page(
    run: dict[str, Any], statement: Statement, history: object
) -> None:
    run |= {"history": history, "results": None, "status": "running"}
    reader = read(run, statement)
    assert "Not finished at step 0 of 3,510" in reader.text
    assert "Nothing was recorded." in reader.text


@pytest.mark.parametrize("odd", [math.nan, math.inf, None, "much", True, 1e300, -1e300])
def test_odd_numbers_never_spoil_a_page(
    run: dict[str, Any], statement: Statement, odd: object
) -> None:
    keys = ("test_accuracy", "train_loss", "mean_norm", "clip_fraction", "rows", "seconds")
    for row in run["history"][3:]:
        row |= dict.fromkeys(keys, odd)
    run["results"] |= dict.fromkeys(("test_accuracy", "test_loss", "seconds"), odd)
    reader = read(run, statement)
    assert "3.000" in reader.text
    assert not re.search(r"\bnan\b|\bNone\b", page(Record(run), statement, "a"))


def test_an_all_but_empty_record_has_a_page_that_claims_nothing() -> None:
    text = read({}, NO_LEDGER).text
    assert "No guarantee is known" in text
    assert "Nothing can be said" in text


def test_hostile_words_stay_words(run: dict[str, Any], statement: Statement) -> None:
    honest = read(run, statement).tags
    run["settings"] |= {"model": HOSTILE, "data_dir": HOSTILE}
    run["environment"] |= {"platform": HOSTILE}
    run["data"]["name"] = run["model"]["name"] = run["bound"]["name"] = HOSTILE
    run["plan"]["accountant"] = run["plan"]["neighbouring"] = run["status"] = HOSTILE
    hostile = Reader(page(Record(run), statement, HOSTILE))
    added = hostile.tags - honest
    assert not added.keys() - {"p", "h2", "div", "span"}, (
        "only the notice that the run is not complete"
    )
    assert not [name for name in {name for _, name, _ in hostile.attributes} if name[:2] == "on"]
    assert "alert(1)" in hostile.text


def test_hostile_keys_stay_words(run: dict[str, Any], statement: Statement) -> None:
    honest = read(run, statement).tags
    run["settings"] = {f"{HOSTILE}{n}": {HOSTILE: HOSTILE} for n in range(len(run["settings"]))}
    assert not (read(run, statement).tags - honest).keys() - {"span"}


def test_the_larger_of_ledger_and_record_is_claimed(
    run: dict[str, Any], statement: Statement
) -> None:
    run["results"]["epsilon"] = 2.0
    spent = claim(Record(run), statement)
    assert spent is not None and spent.epsilon == statement.epsilons["pld"]
    run["results"]["epsilon"] = 9.0
    spent = claim(Record(run), statement)
    assert spent is not None and spent.epsilon == 9.0


def test_a_non_private_record_is_never_made_private_by_its_ledger(
    run: dict[str, Any], statement: Statement
) -> None:
    spent = claim(Record(without_noise(run)), statement)
    assert spent is not None and not spent.is_private


def test_an_absent_ledger_is_said_and_never_made(folder: Path) -> None:
    (folder / "ledger.sqlite").unlink()
    text = Reader(render(folder).read_text(encoding="utf-8")).text
    assert "The ledger does not confirm this" in text
    assert "3.000" in text, "the record still says"
    assert str(folder) not in text
    assert not (folder / "ledger.sqlite").exists()


def test_a_folder_name_that_is_not_unicode_has_a_page(folder: Path) -> None:
    odd = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    odd["settings"]["model"] = "\ud800"
    (folder / "run.json").write_text(json.dumps(odd), encoding="utf-8")
    assert "95.9%" in render(folder).read_text(encoding="utf-8")
