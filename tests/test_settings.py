"""What a run is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import typer

from deniable import data
from deniable.cli import app
from deniable.errors import SettingsError
from deniable.settings import DEFAULTS, WIDE, Settings


def test_every_data_set_has_defaults_and_none_has_them_in_vain() -> None:
    assert set(DEFAULTS) == set(data.NAMES)
    for name in DEFAULTS:
        assert Settings.choose(name).epsilon == 3.0


def test_what_is_given_wins_and_none_counts_as_not_given() -> None:
    settings = Settings.choose("digits", lr=0.5, clip=None, seed=0, secure=False)
    assert (settings.lr, settings.seed) == (0.5, 0)
    assert settings.clip == Settings.choose("digits").clip


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({}, "noise_multiplier"),
        ({"epsilon": 1.0}, "noise_multiplier"),
        ({"epsilon": 1.0, "epochs": 2.0}, "noise_multiplier"),
        ({"noise_multiplier": 1.0}, "epsilon"),
        ({"noise_multiplier": 0.0}, "epsilon"),
        ({"noise_multiplier": 1.0, "epochs": 2.0}, "epsilon"),
        ({"noise_multiplier": 1.0, "epsilon": 2.0}, "epochs"),
    ],
)
def test_exactly_one_of_epsilon_noise_and_epochs_is_left_to_the_plan(
    given: dict[str, float], left_out: str
) -> None:
    settings = Settings.choose("mnist", **given)
    unset = [
        name
        for name in ("epsilon", "noise_multiplier", "epochs")
        if getattr(settings, name) is None
    ]
    assert unset == [left_out]


def test_where_epsilon_noise_and_epochs_are_given_the_batch_size_is_left_to_the_plan() -> None:
    given = {"noise_multiplier": 1.0, "epsilon": 2.0, "epochs": 3.0}
    assert Settings.choose("mnist", **given).batch_size is None
    assert Settings.choose("mnist", batch_size=64, **given).batch_size == 64


def test_an_unknown_data_set_is_refused_with_the_names_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"'imagenet'.*digits, mnist"):
        Settings.choose("imagenet")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("momentum", 1.0),
        ("momentum", math.nan),
        ("clip", 0.0),
        ("clip", math.nan),
        ("clip", 1e-11),
        ("bound", "soft"),
        ("rows", 0),
        ("checkpoint_seconds", -1.0),
        ("checkpoint_seconds", math.nan),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name if name != "lr" else "learning rate"):
        Settings.choose("digits", **{name: value})


@pytest.mark.parametrize(
    ("bound", "name", "value"),
    [
        ("adaptive", "quantile", 0.0),
        ("adaptive", "quantile", math.nan),
        ("tanh", "output_range", math.inf),
        ("tanh-clip", "active_range", 0.0),
    ],
)
def test_values_of_a_bound_out_of_range_are_refused(bound: str, name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name} must"):
        Settings.choose("digits", bound=bound, **{name: value})


@pytest.mark.parametrize(
    ("bound", "name"), [("clip", "quantile"), ("tanh", "clip"), ("adaptive", "output_range")]
)
def test_a_setting_of_another_bound_is_refused_by_name(bound: str, name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} says nothing of the bound {bound}"):
        Settings.choose("digits", bound=bound, **{name: 0.5})


def test_settings_come_back_from_json_as_they_were() -> None:
    settings = Settings.choose("cifar10", seed=3, rows=64, secure=True)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("change", [{"warmup": 3}, {"lr": None}])
def test_settings_of_another_version_are_refused(change: dict[str, Any]) -> None:
    values = {**Settings.choose("digits").to_json(), **change}
    values = {name: value for name, value in values.items() if name != "lr" or value is not None}
    with pytest.raises(SettingsError, match="version"):
        Settings.from_json(values)


def test_without_privacy_there_is_no_noise_and_no_bound_to_speak_of() -> None:
    settings = Settings.choose("ptb", privacy=False, lr=0.002)
    assert settings.noise_multiplier == 0.0
    assert settings.epsilon is None
    assert settings.clip == WIDE
    assert settings.lr == 0.002


@pytest.mark.parametrize(
    "given", [{"epsilon": 3.0}, {"noise_multiplier": 1.0}, {"clip": 0.1}, {"bound": "adaptive"}]
)
def test_without_privacy_nothing_private_can_be_asked_for(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"nothing for {next(iter(given))} to say"):
        Settings.choose("digits", privacy=False, **given)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"upload": 0.0}, "upload must lie above 0 and up to 1"),
        ({"upload": 1.5}, "upload must lie above 0 and up to 1"),
        ({"carry": True}, "carry keeps what was not uploaded"),
    ],
)
def test_what_a_worker_sends_is_checked_before_anything_is_made(
    given: dict[str, Any], error: str
) -> None:
    with pytest.raises(SettingsError, match=error):
        Settings.choose("mnist", workers=2, mode="local", **given)


def test_every_setting_is_an_option_of_the_command() -> None:
    options = {each.name for each in typer.main.get_command(app).commands["train"].params}
    assert Settings.names() <= options


def test_a_saved_value_of_a_wrong_type_is_refused() -> None:
    saved = Settings.choose("digits").to_json() | {"lr": "fast"}
    with pytest.raises(SettingsError, match="a value of a wrong type"):
        Settings.from_json(saved)
