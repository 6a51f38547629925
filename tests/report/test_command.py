from __future__ import annotations

import shlex
from typing import Any

from deniable.report.command import command


def test_the_command_repeats_every_setting_that_was_made(run: dict[str, Any]) -> None:
    words = shlex.split(" ".join(command(run["settings"])))
    assert words[:2] == ["deniable", "train"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    expected = {f"--{k.replace('_', '-')}": v for k, v in run["settings"].items()}
    assert given == {k: str(v) for k, v in expected.items() if v not in (None, False)}


def test_a_setting_cannot_leave_its_quotes() -> None:
    words = shlex.split(" ".join(command({"data_dir": "a b; rm -rf ~", "x'y": '"$(z)"'})))
    assert words == ["deniable", "train", "--data-dir", "a b; rm -rf ~", "--x'y", '"$(z)"']
