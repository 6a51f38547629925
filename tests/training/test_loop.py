"""The loop: what it records, what it shows, how it is asked to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from deniable.accounting import spent
from deniable.claim import read_claim, verify
from deniable.ledger import Ledger
from deniable.runfolder import RunFolder
from deniable.settings import Settings
from deniable.training import Moment, begin, evaluate, fit, loop
from deniable.units import Spent

Make = Callable[..., Settings]


def stated_steps(path: Path) -> int:
    with Ledger(RunFolder(path).ledger, create=False) as ledger:
        (run,) = ledger.runs()
    return run.steps


def test_a_run_ends_with_a_model_a_ledger_and_results(tmp_path: Path, settings: Make) -> None:
    run = begin(settings(), tmp_path)
    assert fit(run)
    record = RunFolder(tmp_path).read()
    assert record["status"] == "complete"
    assert record["results"]["steps"] == 9 == stated_steps(tmp_path)
    assert record["results"]["epsilon"] == pytest.approx(run.private.plan.epsilon)
    assert [row["step"] for row in record["history"]] == [3, 6, 9]
    assert record["seeded"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "claim.json",
        "ledger.sqlite",
        "model.safetensors",
        "run.json",
    ]


def test_a_complete_run_leaves_a_claim_that_its_ledger_bears_out(
    tmp_path: Path, settings: Make
) -> None:
    run = begin(settings(), tmp_path)
    assert fit(run)
    values = read_claim(RunFolder(tmp_path).claim)
    assert values["run"] == run.record["run_id"]
    assert values["epsilon"] == run.record["results"]["epsilon"]
    assert any("came from a seed" in each for each in values["assumptions"])
    assert values == run.private.claim().to_json()
    with Ledger(RunFolder(tmp_path).ledger, create=False) as ledger:
        assert verify(values, ledger) == ()


def test_what_the_record_takes_from_the_data_without_noise_is_marked_not_private(
    tmp_path: Path, settings: Make
) -> None:
    run = begin(settings(), tmp_path)
    fit(run)
    record = RunFolder(tmp_path).read()
    for name in ("train_loss", "mean_norm", "clip_fraction", "rows"):
        assert name in record["not_private"]
        assert name in record["history"][-1]
        assert name not in record["results"]


def test_a_run_without_noise_is_recorded_as_not_private(tmp_path: Path, settings: Make) -> None:
    run = begin(settings(noise_multiplier=0.0), tmp_path)
    moments: list[Moment] = []
    fit(run, moments.append)
    results = RunFolder(tmp_path).read()["results"]
    assert results["non_private"] is True
    assert results["epsilon"] is None
    assert all(moment.epsilon == float("inf") for moment in moments)


def test_at_every_step_the_ledger_states_no_less_than_was_released(
    tmp_path: Path, settings: Make
) -> None:
    """Pitfall: privacy 10."""
    run = begin(settings(), tmp_path)

    def look(moment: Moment) -> None:
        assert stated_steps(tmp_path) >= moment.step

    assert fit(run, look)


def test_pieces_of_a_batch_make_one_step(tmp_path: Path, settings: Make) -> None:
    """Pitfall: privacy 5."""
    moments: list[Moment] = []
    assert fit(begin(settings(rows=2), tmp_path), moments.append)
    assert [moment.step for moment in moments] == list(range(1, 10))


def test_empty_batches_are_ordinary_steps(tmp_path: Path, settings: Make) -> None:
    """Expecting one row, some of the draws are empty. Pitfall: users 6."""
    run = begin(settings(batch_size=1, epochs=1.0), tmp_path)
    drawn: list[float] = []
    assert fit(run, lambda _: drawn.append(run.private.statistics["units"]))
    assert len(drawn) == 36
    assert 0 in drawn


def test_ctrl_c_finishes_the_step_saves_and_settles(tmp_path: Path, settings: Make) -> None:
    """Pitfall: privacy 10."""
    run = begin(settings(), tmp_path)

    def ask(moment: Moment) -> None:
        if moment.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert not fit(run, ask)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.private.steps == 4 == stated_steps(tmp_path)
    folder = RunFolder(tmp_path)
    assert folder.read()["status"] == "interrupted"
    assert folder.checkpoint.exists()
    assert not folder.model.exists()


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path, settings: Make) -> None:
    run = begin(settings(), tmp_path)

    def ask_twice(_: Moment) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(run, ask_twice)
    assert RunFolder(tmp_path).read()["status"] == "running"


def test_training_leaves_the_generators_of_torch_alone(tmp_path: Path, settings: Make) -> None:
    """Pitfall: privacy 13."""
    before = torch.get_rng_state()
    fit(begin(settings(model="dropout"), tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_exact_over_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9))
    inputs, targets = torch.randn(10, 3), torch.randint(4, (10,))
    whole = evaluate(model, inputs, targets)
    monkeypatch.setattr(loop, "TEST_ROWS", 3)
    pieces = evaluate(model, inputs, targets)
    assert pieces == pytest.approx(whole)
    scores = model[0](inputs).detach()
    assert whole[0] == int((scores.argmax(1) == targets).sum()) / 10
    assert whole[1] == pytest.approx(float(nn.functional.cross_entropy(scores, targets)))


def test_accuracy_of_sequences_counts_positions() -> None:
    scores = nn.functional.one_hot(torch.tensor([[0, 1, 2], [2, 1, 0]]), 3).float()
    accuracy, _ = evaluate(nn.Identity(), scores, torch.tensor([[0, 1, 1], [2, 2, 2]]))
    assert accuracy == 0.5


@pytest.mark.parametrize(("steps", "per_epoch"), [(1, 1), (300, 1), (3510, 234), (5, 234), (41, 2)])
def test_the_history_has_few_rows_at_whole_epochs(steps: int, per_epoch: int) -> None:
    every = loop.row_every(steps, per_epoch)
    assert every % per_epoch == 0
    assert steps / every <= loop.HISTORY_ROWS


def test_the_live_epsilon_costs_less_than_a_hundredth_of_the_time_and_never_understates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    readings: list[int] = []

    class Slow:
        steps = 0

        def spent_at_most(self, ahead: int = 0) -> Spent:
            readings.append(self.steps)
            clock[0] += 0.3
            return Spent(float(self.steps + ahead), 1e-5)

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    private = Slow()
    live = loop.LiveEpsilon(private)  # type: ignore[arg-type]
    for _ in range(10_000):
        clock[0] += 0.1
        private.steps += 1
        assert private.steps <= live.recent() <= private.steps + 1_001
    assert len(readings) * 0.3 <= 0.01 * clock[0]
    assert len(readings) > 10


def test_the_history_of_a_complete_run_states_what_each_row_had_cost(
    tmp_path: Path, settings: Make
) -> None:
    """Rows are read ahead while training goes on, and said anew at its end."""
    run = begin(settings(), tmp_path)
    assert fit(run)
    plan = run.private.plan
    rows = run.record["history"]
    assert len(rows) > 1
    for row in rows:
        exact = spent(plan.part(0, row["step"]), plan.delta, plan.accountant).epsilon
        assert exact <= row["epsilon"] <= 1.05 * exact
    assert rows[-1]["epsilon"] == plan.epsilon
