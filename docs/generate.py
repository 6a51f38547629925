"""Write again what the pages repeat of the code.

That is all of `cli.md`, `api.md` and `speed.md`, the lists of tests in `pitfalls.md`, what commands
answer in `ledger.md` and the README, and in the README and `collaborate.md` what the benchmarks
found.

`make docs` runs it; a test compares its answer with the pages, so they cannot drift from the code.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.testing

import deniable
from benchmarks.collaborate_pages import with_collaboration
from benchmarks.pages import speed_page, with_speed
from benchmarks.results import named
from deniable.cli import app

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
TESTS = DOCS.parent / "tests"

# The pieces that can be used alone, in the order of a gradient's way through them.
MODULES = (
    "deniable.plan",
    "deniable.sampling",
    "deniable.batches",
    "deniable.rows",
    "deniable.session",
    "deniable.open_batch",
    "deniable.saved_state",
    "deniable.grouping",
    "deniable.isolation",
    "deniable.batchnorm",
    "deniable.eligibility",
    "deniable.scaling",
    "deniable.ranks",
    "deniable.shards",
    "deniable.gradients",
    "deniable.bounds",
    "deniable.canaries",
    "deniable.noise",
    "deniable.optimizers",
    "deniable.randomness",
    "deniable.events",
    "deniable.units",
    "deniable.numeric",
    "deniable.ledger",
    "deniable.claim",
    "deniable.pca",
    "deniable.accounting",
    "deniable.data",
    "deniable.models",
    "deniable.training",
    "deniable.audit",
    "deniable.collaborate",
    "deniable.modes",
    "deniable.settings",
    "deniable.checkpoint",
    "deniable.runfolder",
    "deniable.canvas",
    "deniable.papers",
    "deniable.report",
    "deniable.words",
    "deniable.lengths",
    "deniable.errors",
)

CLI_INTRO = """\
# The command line

Written by `make docs` from the commands themselves. Options that are not given take the value in
brackets. A mistake in them is a message on standard error and exit status 2.
"""

API_INTRO = """\
# The public names

Written by `make docs` from the docstrings. What most programs need is at the top level, under
`deniable`; the modules after it hold the pieces for use alone. Each name is documented once,
where it is first met.
"""

ENTRY = re.compile(r"^\*\*(privacy|users) (\d+)\.\*\*")


def pages() -> dict[Path, str]:
    """Every generated page by its path."""
    return {
        DOCS / "cli.md": cli_page(),
        DOCS / "api.md": api_page(),
        DOCS / "pitfalls.md": pitfalls_page((DOCS / "pitfalls.md").read_text(encoding="utf-8")),
        DOCS / "speed.md": speed_page(),
        DOCS / "collaborate.md": with_collaboration(
            (DOCS / "collaborate.md").read_text(encoding="utf-8")
        ),
        DOCS / "ledger.md": readme_page((DOCS / "ledger.md").read_text(encoding="utf-8")),
        README: with_speed(readme_page(README.read_text(encoding="utf-8")), named("speed")),
    }


def cli_page() -> str:
    """The help text of the program and of each of its commands."""
    parts = [CLI_INTRO]
    for name in ["", *commands()]:
        help_text = answer(f"{name} --help")
        parts.append(f"## `{f'deniable {name}'.strip()}`\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def commands() -> list[str]:
    """What can be typed after `deniable`, the commands of a group after the group."""
    names = [str(each.name) for each in app.registered_commands]
    for group in app.registered_groups:
        within = group.typer_instance.registered_commands if group.typer_instance else []
        names += [str(group.name), *(f"{group.name} {each.name}" for each in within)]
    return names


def readme_page(page: str) -> str:
    """The page with the answer to every `$ deniable ...` written again; its words stay."""
    return re.sub(
        r"^```console\n\$ deniable (.+)\n[^`]*```",
        lambda found: f"```console\n$ deniable {found[1]}\n{answer(found[1])}\n```",
        page,
        flags=re.MULTILINE,
    )


def answer(arguments: str) -> str:
    """What a command prints, in a plain terminal of 80 columns."""
    done = typer.testing.CliRunner().invoke(
        app, shlex.split(arguments), prog_name="deniable", env={"COLUMNS": "80", "TERM": "dumb"}
    )
    if done.exit_code != 0:
        raise RuntimeError(f"deniable {arguments} failed: {done.output}")
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def api_page() -> str:
    """Every public name with its signature and docstring."""
    parts = [API_INTRO]
    seen: set[int] = set()
    for module in (deniable, *(importlib.import_module(name) for name in MODULES)):
        fresh = [(name, value) for name, value in public_names(module) if id(value) not in seen]
        if not fresh:
            continue
        parts.append(f"## `{module.__name__}`\n")
        if module is not deniable:
            parts.append(markdown(inspect.getdoc(module) or ""))
        for name, value in fresh:
            seen.add(id(value))
            parts.append(entry(f"{module.__name__}.{name}", value))
    return "\n".join(parts)


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What the module offers: its `__all__`, or else the classes and functions it defines."""
    if exported := getattr(module, "__all__", None):
        names = list(exported)
    else:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isroutine(value))
            and getattr(value, "__module__", None) == module.__name__
        ]
    for name in names:
        value = getattr(module, name)
        if inspect.ismodule(value) and callable(value):
            value = getattr(value, name)  # a package that is a function too
        if inspect.isclass(value) or inspect.isroutine(value):
            yield name, value


def entry(path: str, value: Any) -> str:
    """One name: heading, signature, docstring, and a line for each public member."""
    kind = "class" if inspect.isclass(value) else "def"
    lines = [f"### `{path}`", "", "```python", f"{kind} {value.__name__}{signature(value)}", "```"]
    lines += ["", markdown(inspect.getdoc(value) or "")]
    if inspect.isclass(value):
        members = [
            f"- `{name}`: {summary(member)}"
            for name, member in vars(value).items()
            if not name.startswith("_")
            and (inspect.isroutine(member) or isinstance(member, property))
            and inspect.getdoc(member)
        ]
        lines += [*members, ""] if members else []
    return "\n".join(lines)


def summary(member: Any) -> str:
    """The first sentence of a member's docstring."""
    return " ".join((inspect.getdoc(member) or "").split("\n\n")[0].split())


class _Verbatim:
    """A piece of a signature that prints as it was written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(value: Any) -> str:
    """The call signature as the source spells it; nothing for a class that is not called."""
    if inspect.isclass(value) and issubclass(value, (BaseException, enum.Enum)):
        return ""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""

    def plain(part: Any) -> Any:
        if isinstance(part, enum.Enum):
            return _Verbatim(f"{type(part).__name__}.{part.name}")
        return _Verbatim("...") if " at 0x" in repr(part) else part

    def unquoted(annotation: Any) -> Any:
        return _Verbatim(annotation) if isinstance(annotation, str) else annotation

    parameters = [
        each.replace(annotation=unquoted(each.annotation), default=plain(each.default))
        for each in found.parameters.values()
    ]
    text = str(
        found.replace(parameters=parameters, return_annotation=unquoted(found.return_annotation))
    )
    return text.removesuffix(" -> None") if inspect.isclass(value) else text


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown: sections become lists, examples become fences."""
    lines: list[str] = []
    in_section = False
    for paragraph in docstring.split("\n\n"):
        first, *rest = paragraph.split("\n")
        if first.startswith((">>>", "```")):
            fence = [] if first.startswith("```") else ["```"]
            lines += [*(["```pycon"] if fence else []), *paragraph.split("\n"), *fence, ""]
        elif re.fullmatch(r"[A-Z][a-z]+:", first) and rest:
            lines += [f"{first[:-1]}:", ""]
            lines += [_entry(line[4:]) for line in rest]
            lines.append("")
            in_section = True
        else:
            lines += [line.strip() if in_section else line for line in (first, *rest)]
            lines.append("")
            in_section = False
    return "\n".join(lines).rstrip() + "\n"


def _entry(text: str) -> str:
    return text if text.startswith((" ", "- ")) else f"- {text}"


def claimed_pitfalls(root: Path = TESTS) -> dict[str, list[str]]:
    """Test names by the pitfall that their docstrings name, such as `privacy 3`."""
    claims: dict[str, list[str]] = {}
    for path in sorted(root.rglob("test_*.py")):
        where = path.relative_to(root.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
                continue
            _, _, tail = (ast.get_docstring(node) or "").partition("Pitfall")
            for pitfall in dict.fromkeys(re.findall(r"(?:privacy|users) \d+", tail)):
                claims.setdefault(pitfall, []).append(f"{where}::{node.name}")
    return claims


def pitfalls_page(page: str) -> str:
    """The page with the list of tests under each pitfall written again; its words stay."""
    claims = claimed_pitfalls()
    lines: list[str] = []
    pitfall: str | None = None

    def close() -> None:
        if pitfall is not None:
            tests = [f"- `{test}`" for test in claims.get(pitfall, [])]
            lines.extend(["", *(tests or ["- not yet built"]), ""])

    for line in page.splitlines():
        if found := ENTRY.match(line):
            close()
            pitfall = f"{found[1]} {found[2]}"
        elif line.startswith("#"):
            close()
            pitfall = None
        elif pitfall and (not line or line.startswith("- ")):
            continue
        lines.append(line)
    close()
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the pages and say which of them changed."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: written")


if __name__ == "__main__":
    main()
