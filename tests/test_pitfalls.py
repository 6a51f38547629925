"""docs/pitfalls.md and the docstrings of the tests tell the same story."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "pitfalls.md"
KNOWN = [f"privacy {n}" for n in range(1, 15)] + [f"users {n}" for n in range(1, 13)]


def test_the_page_lists_every_pitfall_once_and_in_order() -> None:
    entries = re.findall(r"^\*\*(\w+ \d+)\.\*\*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert entries == KNOWN


def test_the_page_names_exactly_the_tests_that_name_a_pitfall(generate: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == generate.pitfalls_page(page), "`make docs` writes it again"


def test_no_test_names_a_pitfall_that_is_not_on_the_page(generate: ModuleType) -> None:
    assert set(generate.claimed_pitfalls()) <= set(KNOWN)


def test_a_claim_is_read_from_the_docstring_and_from_nowhere_else(
    generate: ModuleType, tmp_path: Path
) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_sample.py").write_text(
        "# Pitfall: users 1\n"
        'def test_both():\n    """A claim. Pitfall: privacy 3, users 12."""\n'
        'def test_none():\n    """It says privacy 4 but claims no test of it."""\n'
        'def helper():\n    """Pitfall: privacy 5."""\n',
        encoding="utf-8",
    )
    claim = ["tests/test_sample.py::test_both"]
    assert generate.claimed_pitfalls(tests) == {"privacy 3": claim, "users 12": claim}
