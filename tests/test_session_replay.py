"""Saved states loaded where they should not be: a release is counted, or repeated bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deniable
from deniable import saved_state
from deniable.errors import BudgetError, CheckpointError, LedgerError, StepError
from deniable.events import GaussianEvent, singles, to_json
from deniable.ledger import Ledger, RunLedger
from deniable.plan import Plan

PLAN = Plan(40, 40, steps=12, noise_multiplier=1.0, delta=1e-3)
DATA = torch.zeros(40, 300)


class Process:
    """What one process has: its model, which it never moves, and its session of one run."""

    def __init__(self, ledger: Ledger | Path | None = None, seed: int | None = None) -> None:
        self.model = nn.Linear(300, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.private = deniable.attach(
            self.model, self.optimizer, PLAN, ledger=ledger, run_id="run", seed=seed
        )
        self.private.at_once = 1

    def releases(self, steps: int, times: float = 1.0) -> list[Tensor]:
        """What is released of gradients that all point one way, `times` as far: sums with noise."""
        found = []
        for rows in self.private.batches(DATA, steps=steps):
            (self.model(rows + times).sum(1)).mean().backward()
            self.optimizer.step()
            assert self.model.weight.grad is not None
            found.append(self.model.weight.grad[0] * 40)
            self.optimizer.zero_grad()
        return found


def same_noise(one: Tensor, other: Tensor) -> bool:
    """Whether two releases differ in nothing but their sums, which are constant vectors.

    Deviations of independent noise would differ by some 1.4 in each of 300 coordinates.
    """
    return bool((one - one.mean() - (other - other.mean())).abs().max() < 1e-3)


def stated(path: Path) -> int:
    """How many steps a run's ledger counts."""
    with Ledger(path, create=False) as book:
        return sum(times for _, times in singles(book.event()))


def gone_on(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    """A state of step 2; step 3 of that stream, and steps 4 to 6 of the one that went on."""
    first = Process(path)
    first.releases(2)
    state = first.private.state_dict()
    first.releases(1)
    second = Process(path)
    second.private.go_on()
    return state, second.releases(3)


def test_a_state_from_before_fresh_noise_is_not_replayed_over_it(tmp_path: Path) -> None:
    """Its steps would be new releases, counted as those of the fresh noise. Pitfall: privacy 10."""
    path = tmp_path / "ledger"
    state, _ = gone_on(path)
    third = Process(path)
    for replay in (False, True):
        with pytest.raises(CheckpointError, match=r"from 3 on .* has 2 steps.*go_on\(state\)"):
            third.private.load_state_dict(state, replay=replay)
    third.private.go_on(state)
    third.releases(1)
    assert third.private.steps == stated(path) == 7


def test_what_the_replay_over_fresh_noise_would_have_released_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: three releases more than the ledger counts."""
    path = tmp_path / "ledger"
    state, counted = gone_on(path)
    monkeypatch.setattr(RunLedger, "departs", lambda *_: None)
    third = Process(path)
    third.private.load_state_dict(state, replay=True)
    repeated, *uncounted = third.releases(4)
    assert stated(path) == 6
    assert not any(same_noise(one, other) for one in uncounted for other in [*counted, repeated])


def test_a_state_from_after_fresh_noise_is_replayed_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    gone_on(path)
    second = Process(path)
    second.private.go_on()
    second.releases(1)
    state = second.private.state_dict()
    expected = second.releases(2)
    for _ in range(2):
        third = Process(path)
        third.private.load_state_dict(state, replay=True)
        for one, other in zip(third.releases(2), expected, strict=True):
            assert torch.equal(one, other)
        assert third.private.steps == stated(path) == 9
    third.releases(1)
    assert third.private.steps == stated(path) == 10


def test_a_process_that_took_over_and_trained_does_not_then_load_an_older_state(
    tmp_path: Path,
) -> None:
    """What it released as it began is of noise of its own."""
    path = tmp_path / "ledger"
    first = Process(path)
    first.releases(2)
    state = first.private.state_dict()
    second = Process(path)
    second.releases(2)
    with pytest.raises(CheckpointError, match="from 2 on"):
        second.private.load_state_dict(state, replay=True)
    own = second.private.state_dict()  # counts from 0, the ledger from 2
    third = Process(path)
    with pytest.raises(CheckpointError, match="went on afresh"):
        third.private.load_state_dict(own | {"steps": 1}, replay=True)


@pytest.mark.parametrize("seed", [None, 3])
def test_going_on_in_the_middle_of_a_replay_goes_on_after_all_that_counts(
    tmp_path: Path, seed: int | None
) -> None:
    """Not where the replay is, under steps that are counted already. Pitfall: privacy 10."""
    path = tmp_path / "ledger"
    first = Process(path, seed)
    state = first.private.state_dict()
    found = first.releases(4)
    second = Process(path, seed)
    second.private.load_state_dict(state, replay=True)
    second.releases(1)
    for steps in (5, 6):  # and again, in one opening: with a seed, too, the noise is another
        second.private.go_on()
        found += second.releases(1)
        assert second.private.steps == stated(path) == steps
    pairs = [(one, other) for n, one in enumerate(found) for other in found[:n]]
    assert not any(same_noise(*pair) for pair in pairs)


def test_a_promise_is_made_for_each_loading_anew(tmp_path: Path) -> None:
    """A session that is back at step 2 has still released what came after it."""
    first = Process(tmp_path / "ledger")
    first.releases(2)
    state = first.private.state_dict()
    first.releases(2)
    first.private.load_state_dict(state, replay=True)
    with pytest.raises(CheckpointError, match="counts 4 steps as released, the saved state 2"):
        first.private.load_state_dict(state)


def test_a_state_that_is_taken_up_in_part_is_not_gone_on_from(tmp_path: Path) -> None:
    """The session would be back at a counted step, with noise of its own. Pitfall: privacy 10."""
    path = tmp_path / "ledger"
    first = Process(path)
    state = first.private.state_dict()
    first.releases(2)
    second = Process(path)
    with pytest.raises(CheckpointError):
        second.private.load_state_dict(state | {"noise": {"generator": "?"}}, replay=True)
    with pytest.raises(StepError, match="the loading of a saved state"):
        second.releases(1)
    second.private.go_on()
    second.releases(1)
    assert second.private.steps == stated(path) == 3


def test_a_step_that_the_ledger_refused_can_be_taken_when_there_is_room() -> None:
    """Its noise was not drawn."""
    with Ledger(None) as ledger:
        ledger.set_budget(PLAN.epsilon, delta=1e-3)
        process = Process(ledger)
        process.releases(1)
        ledger.set_budget(process.private.spent().epsilon * 1.001, delta=1e-3)
        with pytest.raises(BudgetError):
            process.releases(1)
        ledger.set_budget(PLAN.epsilon, delta=1e-3)
        process.releases(1)
        assert process.private.steps == 2


def test_a_run_goes_back_to_no_step_before_one_of_other_randomness(tmp_path: Path) -> None:
    event = GaussianEvent(1.0)
    first = Ledger(tmp_path / "l").run("run", block=1)
    first.release(event)
    second = Ledger(tmp_path / "l").run("run", block=1)
    second.release(event)
    third = Ledger(tmp_path / "l").run("run", block=1)
    for stream in (first.stream, third.stream):
        with pytest.raises(LedgerError, match=r"counts step \d as released from other randomness"):
            third.resume_at(0, stream)
    assert third.departs(first.stream, 0) == 1
    third.resume_at(1, second.stream)
    third.release(event)
    assert third.position == third.reserved == 2


def test_steps_of_which_the_ledger_names_no_randomness_match_no_other(tmp_path: Path) -> None:
    """So older versions wrote them; they read and count as they did."""
    path = tmp_path / "l"
    with Ledger(path) as book:
        old = {"opening": book.run("run").opening, "event": to_json(GaussianEvent(1.0))}
        with book._store.transaction(write=True):
            book._store.append("reserve", start=0, stop=4, **old)
    with Ledger(path) as book:
        assert book.contents().runs["run"].statement.reservations[0].stream is None
        run = book.run("run", block=4)
        assert run.position == 4
        with pytest.raises(LedgerError, match="other randomness"):
            run.resume_at(0, run.stream)
        run.resume_at(4, run.stream)
        run.release(GaussianEvent(1.0))
        run.settle()
        assert stated(path) == 5


# -- in memory ------------------------------------------------------------------------------------


def saved_in_memory() -> tuple[Process, dict[str, Any]]:
    first = Process()
    first.releases(2)
    return first, first.private.state_dict()


def test_without_a_file_a_state_is_not_loaded_once_a_step_after_it_was_released() -> None:
    """Pitfall: privacy 11."""
    first, state = saved_in_memory()
    expected = first.releases(2)
    second = Process()
    with pytest.raises(CheckpointError, match="This process counts 4 steps as released"):
        second.private.load_state_dict(state)
    second.private.load_state_dict(state, replay=True)
    for one, other in zip(second.releases(2), expected, strict=True):
        assert torch.equal(one, other)


def test_of_two_sessions_on_one_state_only_one_goes_on_unless_the_other_repeats_it() -> None:
    """Pitfall: privacy 11."""
    first, state = saved_in_memory()
    second = Process()
    second.private.load_state_dict(state)
    first.releases(1)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="released step 2 with the noise"):
            second.releases(1, times=-1.0)
    assert second.private.steps == 2
    second.private.go_on()
    second.releases(1, times=-1.0)
    assert second.private.steps == 3


def test_what_two_sessions_on_one_state_would_give_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: the difference of two sums, without any noise."""
    first, state = saved_in_memory()
    second = Process()
    second.private.load_state_dict(state)
    monkeypatch.setattr(saved_state, "_USED", {})
    [one] = first.releases(1)
    monkeypatch.setattr(saved_state, "_USED", {})
    [other] = second.releases(1, times=-1.0)
    assert same_noise(one, other)
    # Forty gradients of norm 1, once in one direction and once in the other.
    assert float((one - other).norm()) == pytest.approx(80, rel=1e-3)


def test_a_state_may_be_loaded_in_memory_where_nothing_was_released_after_it() -> None:
    _, state = saved_in_memory()
    for _ in range(3):
        again = Process()
        again.private.load_state_dict(state)
    assert len(again.releases(99)) == 10
    assert again.private.spent().epsilon == pytest.approx(PLAN.epsilon)


def test_sessions_of_one_seed_are_not_taken_for_one_another() -> None:
    """They repeat each other's noise, as they are told to; each counts for itself."""
    assert same_noise(*(Process(seed=4).releases(1)[0] for _ in range(2)))


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_run_that_is_taken_over_with_its_seed_draws_other_noise(
    looked_at: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And would repeat it, counted twice, did nobody ask the ledger. Pitfall: privacy 11."""
    path = tmp_path / "ledger"
    first = Process(path, seed=5).releases(2)
    if not looked_at:
        monkeypatch.setattr(deniable.session.PrivateSession, "_taken_over", lambda _: False)
    second = Process(path, seed=5).releases(2)
    repeated = [same_noise(one, other) for one in first for other in second]
    assert any(repeated) is not looked_at
    assert stated(path) == 4


# -- within a loop --------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [False, True])
def test_a_pass_ends_where_its_state_is_changed_under_it(loader: bool, tmp_path: Path) -> None:
    """It would go on with its own batches, and meet them with noise that others had before."""
    process = Process(tmp_path / "ledger")
    process.releases(2)
    private, state = process.private, process.private.state_dict()
    expected = process.releases(2)
    rows = private.loader(DATA, steps=9) if loader else private.batches(DATA)
    with pytest.raises(StepError, match="or a saved state was loaded"):
        for batch in rows:
            process.model(batch[0] if loader else batch).mean().backward()
            process.optimizer.step()
            process.optimizer.zero_grad()
            private.load_state_dict(state, replay=True)
    assert private.steps == 2
    for one, other in zip(process.releases(2), expected, strict=True):
        assert torch.equal(one, other)


def test_the_promise_to_repeat_is_of_what_was_released_when_it_was_made() -> None:
    """Two sessions that repeat steps 3 and 4 part from there: not with the same noise."""
    first, state = saved_in_memory()
    first.releases(2)
    second, third = Process(), Process()
    for each in (second, third):
        each.private.load_state_dict(state, replay=True)
        each.releases(2)
    second.releases(1)
    with pytest.raises(CheckpointError, match="released step 4 with the noise"):
        third.releases(1, times=-1.0)


def test_a_state_is_not_loaded_over_releases_of_ones_own_that_it_does_not_know() -> None:
    """In memory both would count once."""
    _, state = saved_in_memory()
    second = Process()
    second.releases(1)
    with pytest.raises(LedgerError, match="both were made"):
        second.private.load_state_dict(state, replay=True)


def test_states_say_which_step_was_which_release() -> None:
    """Of a schedule that comes and goes, loaded at one step and then at a later one."""
    noise = deniable.Schedule(((3, 1.0), (3, 0.5), (3, 1.0), (3, 0.5)))
    plan = Plan(40, 8, steps=12, noise_multiplier=4.0, delta=1e-3, noise_schedule=noise)

    def session() -> tuple[Any, Any, Any]:
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        return model, optimizer, deniable.attach(model, optimizer, plan, run_id="run")

    def train(model: Any, optimizer: Any, private: Any, steps: int) -> Any:
        for rows in private.batches(torch.ones(40, 3), steps=steps):
            model(rows).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return private.state_dict()

    first = session()
    states = [train(*first, 4), train(*first, 4)]
    second = session()
    for state in states:
        second[2].load_state_dict(state, replay=True)
    train(*second, 99)
    assert second[2].spent().epsilon == pytest.approx(plan.epsilon)
