"""What every test stands on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# No test asserts on time, and a failure seen once is seen again.
hypothesis.settings.register_profile("deniable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("deniable")


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """The script that `make docs` runs."""
    path = Path(__file__).parent.parent / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
