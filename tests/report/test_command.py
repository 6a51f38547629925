from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

import pytest

from deniable.report.command import command
from deniable.settings import BOUNDS, OF_BOUNDS, Settings


def test_the_command_repeats_every_setting_that_was_made(run: dict[str, Any]) -> None:
    words = shlex.split(" ".join(command(run["settings"])))
    assert words[:2] == ["deniable", "train"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    of_others = {k for k, bounds in OF_BOUNDS.items() if run["settings"]["bound"] not in bounds}
    made = {k: v for k, v in run["settings"].items() if k not in of_others}
    expected = {f"--{k.replace('_', '-')}": v for k, v in made.items()}
    assert given == {k: str(v) for k, v in expected.items() if v not in (None, False)}


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_command_of_every_bound_is_taken_again(bound: str) -> None:
    """What it prints beside the bound must say something of it."""
    settings = asdict(Settings.choose("digits", bound=bound))
    words = shlex.split(" ".join(command(settings)))
    again = {name[2:].replace("-", "_"): value for name, value in zip(words[2::2], words[3::2],
                                                                     strict=True)}  # fmt: skip
    known = {name: settings[name] for name in again}
    assert asdict(Settings.choose(**known)) == settings


def test_a_setting_cannot_leave_its_quotes() -> None:
    words = shlex.split(" ".join(command({"data_dir": "a b; rm -rf ~", "x'y": '"$(z)"'})))
    assert words == ["deniable", "train", "--data-dir", "a b; rm -rf ~", "--x'y", '"$(z)"']
