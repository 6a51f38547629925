from __future__ import annotations

import math
from typing import Any

import pytest

from deniable.report.record import Record


def test_results_speak_before_the_history(run: dict[str, Any]) -> None:
    run["results"]["test_accuracy"] = 0.5
    assert Record(run).latest("test_accuracy") == 0.5
    assert Record(run | {"results": None}).latest("test_accuracy") == 0.9586


def test_gaps_in_the_history_are_left_out(run: dict[str, Any]) -> None:
    run["history"][1]["test_accuracy"] = None
    run["history"][2]["test_accuracy"] = math.nan
    assert len(Record(run).series("test_accuracy")) == 13


@pytest.mark.parametrize(
    "change",
    [
        {"results": {"non_private": True}},
        {"plan": {"noise_multiplier": 0}},
        {"results": {"epsilon": math.inf}},
        {"history": [{"step": 1, "epsilon": math.inf}]},
    ],
)
def test_one_sign_of_a_run_without_noise_is_enough(change: dict[str, Any]) -> None:
    assert Record(change).non_private
    assert Record(change).epsilon == math.inf


def test_a_private_run_is_told_from_one_that_is_not(run: dict[str, Any]) -> None:
    assert not Record(run).non_private
    assert Record(run).epsilon == run["results"]["epsilon"]


@pytest.mark.parametrize("epsilon", [-1.0, None, math.nan, "3"])
def test_an_epsilon_that_cannot_be_is_no_epsilon(epsilon: object) -> None:
    assert Record({"results": {"epsilon": epsilon}}).epsilon is None


@pytest.mark.parametrize("delta", [-0.1, 1.5, None, math.nan])
def test_a_delta_that_cannot_be_is_no_delta(delta: object) -> None:
    assert Record({"results": {"delta": delta}}).delta is None
