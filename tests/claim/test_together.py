"""What a claim says when many workers made the releases."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deniable.accounting import spent
from deniable.claim import Claim, verify
from deniable.events import GaussianEvent, PoissonSampledEvent, SelfComposedEvent
from deniable.ledger import Ledger

PLAN = {"delta": 1e-5, "accountant": "rdp", "examples": 5_000, "noise_multiplier": 1.5}


def claimed(mode: dict[str, Any], noise: float = 1.5, **about: Any) -> tuple[Claim, Ledger]:
    book = Ledger(None)
    description = {"plan": PLAN, "noise": {"secure": False, "seeded": False},
                   "collaboration": {"mode": mode, "workers": 4, **about}}  # fmt: skip
    run = book.run("a", planned=30, description=description)
    for _ in range(30):
        run.release(PoissonSampledEvent(0.02, GaussianEvent(noise)))
    run.settle()
    return Claim.of(book.contents(), "a"), book


def said(claim: Claim) -> str:
    return " ".join(claim.assumptions)


def test_the_central_mode_says_that_the_coordinator_is_trusted_and_that_absence_tells_nothing() -> (
    None
):
    claim, book = claimed({"name": "central"})
    assert "coordinator, and the links to it, are trusted" in said(claim)
    assert "did not depend on what is in the data" in said(claim)
    assert verify(claim.to_json(), book) == ()


def test_the_local_mode_says_that_parts_are_disjoint() -> None:
    claim, _ = claimed({"name": "local", "upload": 1.0, "carry": False},
                       part={"worker": 2, "units": 1_250})  # fmt: skip
    assert "that of worker 2, of 1,250 units" in said(claim)
    assert "disjoint" in said(claim) and "coordinator too" in said(claim)


@pytest.mark.parametrize("survives", [0, 1, 3])
def test_shares_state_epsilon_for_every_coalition(survives: int) -> None:
    share = 1.5 / math.sqrt(4 - survives)
    claim, book = claimed({"name": "shares", "survives": survives}, noise=2 * share)
    lines = [each for each in claim.assumptions if each.startswith("Against")]
    assert len(lines) == 3
    for told, line in enumerate(lines, 1):
        left = PoissonSampledEvent(0.02, GaussianEvent(share * math.sqrt(4 - told)))
        cost = spent(SelfComposedEvent(left, 30), 1e-5, "rdp").epsilon
        printed = float(line.partition("epsilon is ")[2].split()[0])
        assert cost <= printed <= cost * 1.002
        assert f"the other {4 - told}" in line
    assert verify(claim.to_json(), book) == ()


def test_a_workers_own_ledger_of_shares_says_whom_it_is_about() -> None:
    claim, _ = claimed({"name": "shares", "survives": 0}, part={"worker": 0, "units": 9})
    assert "holds against the coordinator" in said(claim)
    assert "Against one worker" not in said(claim)


def test_a_run_of_one_process_says_nothing_of_workers() -> None:
    book = Ledger(None)
    book.release("mean", GaussianEvent(5.0))
    assert "worker" not in said(Claim.of(book.contents()))
