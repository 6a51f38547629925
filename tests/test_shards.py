"""Replicas and shards: the release is that of one process, and each coordinate's noise is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import deniable
from crew import crew
from oracles.gradients import clipped_sum, relative_error
from sharded import (
    ROWS,
    Transformer,
    another_ranks_state,
    gone_on,
    loss_of,
    noise_alone,
    plan_of,
    recorded,
    refusals,
    released_sums,
    resumed,
    sentences,
    trained,
)

DRAWN = (7, 0, 1, ROWS, 2)
NORM = 0.4
SIZES = [("fsdp", 2), ("fsdp", 3), ("fsdp", 1), ("replica", 2), ("replica", 3), ("ddp", 2)]


@pytest.fixture(scope="module")
def expected() -> list[dict[str, torch.Tensor]]:
    model = Transformer()
    return [clipped_sum(model, (sentences()[:n],), loss_of, NORM) for n in DRAWN]


def _check(ranks: list[list[tuple[int, Any]]], expected: list[dict[str, torch.Tensor]]) -> None:
    for rank in ranks:
        for (_, found), right in zip(rank, expected, strict=True):
            sums = {name: torch.from_numpy(each) for name, each in found.items()}
            if any(bool(each.any()) for each in right.values()):
                assert relative_error(sums, right) < 1e-6
            else:
                assert not any(bool(each.any()) for each in sums.values())


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_ranks_together_release_the_oracles_sum(kind: str, size: int, expected: Any) -> None:
    ranks = crew(size, released_sums, kind, DRAWN, NORM)
    _check(ranks, expected)
    for position, drawn in enumerate(DRAWN):
        shares = [rank[position][0] for rank in ranks]
        assert sum(shares) == drawn and max(shares) - min(shares) <= 1


def test_a_batch_in_pieces_is_the_same_batch(expected: Any) -> None:
    _check(crew(2, released_sums, "fsdp", DRAWN, NORM, 3), expected)


def test_the_oracle_would_notice_a_rank_that_is_left_out(expected: Any) -> None:
    alone = released_sums_of_one_rank()
    with pytest.raises(AssertionError):
        _check([alone], expected)


def released_sums_of_one_rank() -> list[tuple[int, dict[str, Any]]]:
    model = Transformer()
    halves = [clipped_sum(model, (sentences()[:n:2],), loss_of, NORM) for n in DRAWN]
    return [(0, {name: each.numpy() for name, each in half.items()}) for half in halves]


@pytest.mark.parametrize("bound", [deniable.PerLayerClip(0.4), deniable.AdaptiveClip(0.4)])
def test_a_training_in_shards_is_that_of_one_process(bound: deniable.Bound) -> None:
    [one] = crew(1, trained, "replica", bound, None, 0.0)
    for rank in crew(2, trained, "fsdp", bound, 4, 0.0):
        assert rank["bound"] == pytest.approx(one["bound"], rel=1e-6)
        for name, each in one["weights"].items():
            np.testing.assert_allclose(rank["weights"][name], each, rtol=1e-5, atol=1e-7)


def test_replicas_stay_the_same_to_the_last_bit() -> None:
    bound = deniable.AdaptiveClip(0.4)
    first, second = crew(2, trained, "replica", bound, None, 1.0)
    assert first["bound"] == second["bound"] and first["epsilon"] == second["epsilon"]
    for name, each in first["weights"].items():
        np.testing.assert_array_equal(each, second["weights"][name])


@pytest.mark.parametrize(("kind", "size"), [("fsdp", 2), ("replica", 2), ("hybrid", 4)])
def test_each_coordinate_has_the_plans_noise_once(kind: str, size: int) -> None:
    """Chi-square, and normality of what ranks hold, at a false-failure rate of 1e-6 each."""
    ranks = crew(size, noise_alone, kind)
    releases = ranks[0]
    for other in ranks[1:]:  # everybody steps by the same noise
        for mine, theirs in zip(releases, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    deviation = 3.0 * 0.5 / plan_of().batch_size
    values = np.concatenate(releases) / deviation
    low, high = stats.chi2.interval(1 - 1e-6, len(values))
    assert low < float((values**2).sum()) < high
    for wrong in (0.5, 2.0):  # half the noise's variance, or twice: one rank too few or too many
        assert not low < float((values**2).sum()) * wrong < high
    half = len(releases[0]) // 2
    for a, b in [(releases[0], releases[1]), (releases[0][:half], releases[0][half : 2 * half])]:
        assert stats.pearsonr(a, b).pvalue > 1e-6  # no stream is drawn twice


REFUSED = {
    "plan": "AttachError: All ranks must have the same plan",
    "seed": "AttachError: All ranks must have the same seed",
    "data": "AttachError: All ranks must have the same data set",
    "own loader": "AttachError: Loaders on several ranks may read one example on two",
    "part": "PlanError: The plan is for 24 examples, got a data set of 12",
    "budget": "BudgetError",
    "around": "CaptureError: A gradient reached parameter 'norm.weight'",
}


def test_what_ranks_may_not_do_is_refused_on_all_of_them(tmp_path: Path) -> None:
    for rank in crew(2, refusals, list(REFUSED), str(tmp_path)):
        for found, said in zip(rank, REFUSED.values(), strict=True):
            assert found.startswith(said)


def test_rank_0_keeps_the_ledger(tmp_path: Path) -> None:
    (steps, epsilon, claim), (_, other, refused) = crew(2, recorded, str(tmp_path))
    assert steps == 5 and epsilon == other and claim == str(epsilon)
    assert "Rank 0 keeps the ledger" in refused
    with deniable.Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert [each.run_id for each in ledger.runs()] == ["one"]


@pytest.mark.parametrize("kind", ["fsdp", "replica"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(kind: str) -> None:
    assert crew(2, resumed, kind) == [True, True]


@pytest.mark.parametrize("kind", ["fsdp", "replica"])
def test_ranks_that_go_on_after_a_crash_are_at_the_same_step(kind: str, tmp_path: Path) -> None:
    """The ledger that says so is rank 0's alone, and counts a step that was not released."""
    first, other = crew(2, gone_on, kind, str(tmp_path))
    assert first == other
    assert first["began"] == 4 and first["ended"] == first["ends_at"] == 8
    assert 0 < first["epsilon"] < first["spent"]


ELSEWHERE = "Another rank refused: its message says why."


def test_a_shard_takes_up_its_own_state_and_no_other() -> None:
    """The same noise in two shards: their difference would have none.

    Nor states of different steps, for which a crash between two ranks' writes is enough.
    """
    first, other = crew(2, another_ranks_state, "fsdp")
    assert [first[0], other[0]] == ["loaded", "loaded"]
    assert "that of rank 0 of 2, and this is rank 1 of 2" in other[1]
    assert "that of rank 1 of 2, and this is rank 0 of 2" in first[2]
    assert first[1] == other[2] == ELSEWHERE
    assert all("All ranks must have the same saved state" in each[3] for each in (first, other))


def test_replicas_take_up_the_state_of_rank_0() -> None:
    """Which alone draws noise, so that no other's state knows how much is used."""
    first, other = crew(2, another_ranks_state, "replica")
    assert first[:2] == other[:2] == ["loaded", "loaded"]
    assert "of replicas rank 0 alone draws noise" in first[2] and other[2] == ELSEWHERE
    assert all("All ranks must have the same saved state" in each[3] for each in (first, other))
