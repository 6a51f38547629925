from __future__ import annotations

import pytest

from deniable.accounting import ACCOUNTANTS, STATED, spent
from deniable.errors import AccountingError
from deniable.events import GaussianEvent
from deniable.units import Spent


def test_accountants_are_registered_under_their_own_names() -> None:
    names = ["basic", "strong", "amplified", "moments", "rdp", "pld"]
    assert [(name, each.name) for name, each in ACCOUNTANTS.items()] == [(n, n) for n in names]
    assert set(STATED) < set(names)


def test_spent_carries_epsilon_and_delta() -> None:
    found = spent(GaussianEvent(1.0), 1e-5)
    assert found == Spent(ACCOUNTANTS["pld"].epsilon(GaussianEvent(1.0), 1e-5), 1e-5)


def test_an_accountant_that_does_not_exist_is_refused_with_the_ones_that_do() -> None:
    with pytest.raises(AccountingError, match=r"one of basic, strong, .*pld, got 'zcdp'"):
        spent(GaussianEvent(1.0), 1e-5, "zcdp")
