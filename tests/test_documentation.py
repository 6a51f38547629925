"""The documentation says what the code says, and all of it."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import deniable
from deniable.cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = [
    *("train", "plan", "explain", "search", "spend", "claim", "audit", "report"),
    *("compare", "generate", "reproduce"),
    *("attack", "attack membership", "attack inversion", "attack rare"),
    *("ledger", "ledger show", "ledger budget", "ledger close"),
]


@pytest.mark.parametrize(
    "page", ["docs/cli.md", "docs/api.md", "docs/speed.md", "docs/ledger.md", "README.md"]
)
def test_a_generated_page_has_not_drifted_from_the_code(generate: ModuleType, page: str) -> None:
    path = ROOT / page
    assert path.read_text(encoding="utf-8") == generate.pages()[path], "`make docs` writes it again"


def test_every_command_is_registered_and_documented(generate: ModuleType) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert generate.commands() == COMMANDS
    for name in COMMANDS:
        assert f"## `deniable {name}`" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_says_what_it_does(name: str) -> None:
    from typer.main import get_command

    command = get_command(app)
    for part in name.split():
        command = command.commands[part]  # type: ignore[attr-defined]
    assert command.help
    silent = [each.name for each in command.params if not getattr(each, "help", None)]
    assert silent == []


@pytest.mark.parametrize("name", [name for name in deniable.__all__ if not name.startswith("_")])
def test_every_public_name_has_a_docstring_and_an_entry(name: str) -> None:
    value = getattr(deniable, name)
    assert (value.__doc__ or "").strip()
    assert f"### `deniable.{name}`" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_reference_covers_every_module(generate: ModuleType) -> None:
    modules = {f"deniable.{module.name}" for module in pkgutil.iter_modules(deniable.__path__)}
    assert set(generate.MODULES) == modules - {"deniable.cli", "deniable.__main__"}


def test_every_entry_of_the_reference_says_something(generate: ModuleType) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for entry in page.split("\n### ")[1:]:
        heading, _, body = entry.partition("\n")
        words = re.sub(r"```python.*?```", "", body, flags=re.DOTALL).strip()
        assert words, f"{heading} has no docstring"


def test_the_readme_names_the_commands_that_set_everything_up() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test", *(f"deniable {name}" for name in COMMANDS[:9])):
        assert command in readme


def test_every_link_between_the_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http://", "https://")) and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert declared is not None
    for target in declared[1].split():
        assert re.search(rf"^{target}:.*## \w", makefile, flags=re.MULTILINE), target


def test_the_tested_set_lies_in_the_declared_ranges() -> None:
    """Pitfall: users 10. What is installed is what was tested, and a range allows it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    extras = project["optional-dependencies"]
    for each in [*project["dependencies"], *extras["dev"], *extras["bench"]]:
        requirement = Requirement(each)
        assert requirement.specifier, f"{each} must be a range"
        assert requirement.specifier.contains(pins[requirement.name])


TORCH_FREE = [
    *("units", "events", "sampling", "ledger", "claim", "accounting", "plan"),
    *("report", "runfolder", "settings", "randomness", "data", "cli"),
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_claim_is_checkable_without_torch(module: str) -> None:
    asked = f"import sys, deniable.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["report", "--help"]])
def test_help_never_loads_torch(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from deniable.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, stdout=subprocess.DEVNULL
    )
    assert done.returncode == 0


def test_the_layers_of_the_page_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [checked] = [
        each["layers"]
        for each in project["tool"]["importlinter"]["contracts"]
        if each["type"] == "layers"
    ]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = page.partition("## Layers")[2].partition("```text")[2].partition("```")[0]
    lines = [line.split("   ")[0].strip() for line in drawn.splitlines() if line[:1].strip()]
    assert lines == checked
