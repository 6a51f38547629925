from __future__ import annotations

import warnings
from xml.etree import ElementTree

import matplotlib
import pytest

from deniable.report import charts
from deniable.units import Spent

POINTS = [(10.0, 0.5), (20.0, 0.7), (30.0, 0.75)]


def test_a_chart_is_one_well_formed_element_of_its_own() -> None:
    chart = charts.history("accuracy", POINTS, label='what "it" <shows>', as_percent=True)
    root = ElementTree.fromstring(chart)
    assert root.tag == "svg"
    assert root.attrib["aria-label"] == 'what "it" <shows>'
    kept = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
    assert kept and all(each.startswith("accuracy-") for each in kept)
    assert not [each.tag for each in root.iter() if each.tag in {"metadata", "style"}]


def test_a_chart_depends_on_nothing_but_its_data() -> None:
    usual = charts.history("norm", POINTS, label="x", level=charts.Level(0.6, "bound"))
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.grid": False}):
        assert charts.history("norm", POINTS, label="x", level=charts.Level(0.6, "bound")) == usual
        assert matplotlib.rcParams["font.size"] == 30, "the caller's style is left alone"


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [0.0, 0.0], [1e300, 2e300], [-1.5, 2.0], [1e-30], range(5000)]
)
@pytest.mark.parametrize("as_percent", [False, True])
@pytest.mark.parametrize("from_zero", [False, True])
def test_any_values_can_be_drawn(values: list[float], as_percent: bool, from_zero: bool) -> None:
    points = [(float(step), float(value)) for step, value in enumerate(values)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = charts.history("x", points, label="x", as_percent=as_percent, from_zero=from_zero)
    assert "nan" not in chart


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        charts.history("x", [], label="x")


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 3.0, 50.0, 1e6])
def test_any_guarantee_can_be_drawn(epsilon: float) -> None:
    assert "guessing" in charts.attacker("attacker", Spent(epsilon, 1e-5), label="x")
