"""`fit`: private training, to be read top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deniable.accounting import Meter
from deniable.errors import BudgetError
from deniable.session import PrivateSession
from deniable.training.interrupt import stop_when_asked
from deniable.training.run import Run, Tally, torch_randomness
from deniable.units import finite

HISTORY_ROWS = 20
TEST_ROWS = 1000
LIVE_SHARE = 0.005  # of the time


@dataclass(frozen=True)
class Moment:
    """What a watcher sees after each step.

    Attributes:
        step: how many steps were released.
        loss: the mean training loss since the last row of the history (NOT private).
        accuracy: on the test set, as of the last row of the history; where there is a part for
            validation, on that.
        epsilon: a bound on what was spent so far, and perhaps a few steps further.
        is_row: whether a row was just added to the history.
        perplexity: of text, per character, where accuracy is measured.
    """

    step: int
    loss: float | None
    accuracy: float | None
    epsilon: float
    is_row: bool
    perplexity: float | None = None


Watch = Callable[[Moment], None]


def fit(run: Run, watch: Watch = lambda _: None) -> bool:
    """Train until the plan's last step, or until Ctrl-C; whether the run is complete.

    A checkpoint exists from before the first release on, so that the run can go on whatever
    happens. Ctrl-C finishes the step, and saves; a second one interrupts at once.

    Args:
        run: from `begin` or `resume`.
        watch: called after each step.

    Raises:
        BudgetError: other runs have spent what this one was to spend from their common ledger; the
            run is saved as of its last step.
    """
    try:
        return _fit(run, watch)
    except BudgetError:
        run.interrupt()
        raise


def _fit(run: Run, watch: Watch) -> bool:
    model, optimizer, private, plan = run.model, run.optimizer, run.private, run.private.plan
    every = row_every(plan.steps, plan.steps_per_epoch)
    live = LiveEpsilon(private)
    started = time.monotonic() - run.seconds
    with stop_when_asked() as stop, run.own_randomness():
        run.save()
        saved, ways = time.monotonic(), private.ways
        model.train()
        begun = torch_randomness(run.device)
        at_its_end = private.steps >= private.ends_at  # killed before it was written down
        coming = () if at_its_end else private.batches(run.train, rows=run.settings.rows)
        for inputs, targets in coming:
            before = private.steps
            losses = loss_of_each(model(inputs), targets)
            private.backward(losses)
            if private.ways > ways:  # how sums are formed is chosen by measuring: to be repeated
                ways = private.ways
                run.save(begun)
            optimizer.step()
            optimizer.zero_grad()

            run.tally.loss += float(losses.detach().sum())
            if private.steps == before:
                continue  # a piece of a larger batch: nothing was released yet
            add_statistics(run.tally, private.statistics)
            run.seconds = time.monotonic() - started
            loss = run.tally.mean(run.tally.loss)
            is_row = private.steps % every == 0 or private.steps == plan.steps
            if is_row:
                add_row(run, live.recent())
                model.train()
            row = run.record["history"][-1] if run.record["history"] else {}
            of = "test" if run.validation is None else "validation"
            accuracy, perplexity = row.get(f"{of}_accuracy"), row.get(f"{of}_perplexity")
            watch(Moment(private.steps, loss, accuracy, live.recent(), is_row, perplexity))

            if stop.asked:
                break
            if time.monotonic() - saved >= run.settings.checkpoint_seconds:
                run.save()
                saved = time.monotonic()
            begun = torch_randomness(run.device)
        if private.steps < plan.steps:
            run.interrupt()
            return False
    restate(run)
    run.finish()
    return True


def loss_of_each(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each example, averaged over its positions when it is a sequence.

    Args:
        scores: `(batch, ..., classes)`.
        targets: whole numbers, `(batch, ...)`.

    Returns:
        One loss per example, `(batch,)`.

    >>> loss_of_each(torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.long))
    tensor([1.3863, 1.3863])
    """
    losses = nn.functional.cross_entropy(scores.movedim(-1, 1), targets, reduction="none")
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Accuracy and mean loss; the model is left in evaluation mode.

    Args:
        model: from inputs to scores `(batch, ..., classes)`.
        inputs: one row per example.
        targets: whole numbers; of a sequence, one for each position.
    """
    model.eval()
    right, loss = 0, 0.0
    for start in range(0, len(inputs), TEST_ROWS):
        rows, labels = inputs[start : start + TEST_ROWS], targets[start : start + TEST_ROWS]
        scores = model(rows)
        loss += float(loss_of_each(scores, labels).sum())
        right += int((scores.argmax(-1) == labels).sum())
    return right / targets.numel(), loss / len(targets)


def add_statistics(tally: Tally, statistics: dict[str, float]) -> None:
    """Count one logical batch."""
    rows = int(statistics["units"])
    tally.rows += rows
    tally.norm += rows * statistics["mean_norm"]
    tally.clipped += rows * statistics["clip_fraction"]


def add_row(run: Run, epsilon: float) -> None:
    """Evaluate, add a row to the history, and start a new tally."""
    measured = _measured(run)
    tally, steps = run.tally, run.private.steps

    def mean(total: float) -> float | None:
        found = tally.mean(total)
        return None if found is None else finite(found)

    run.record["history"].append(
        {
            "step": steps,
            "epoch": run.private.plan.epochs_after(steps),
            "epsilon": finite(epsilon),
            "train_loss": mean(tally.loss),
            **measured,
            "mean_norm": mean(tally.norm),
            "clip_fraction": mean(tally.clipped),
            "rows": tally.rows,
            "seconds": run.seconds,
            **run.private.bound.state(),
        }
    )
    run.tally = Tally()
    run.folder.write(run.record)


def _measured(run: Run) -> dict[str, float | None]:
    """Accuracy and loss; of text also the perplexity per character, the exponential of the loss.

    Where there is a part for validation, the test part is measured at the end alone.
    """
    found: dict[str, float | None] = {"test_accuracy": None, "test_loss": None}
    parts = {} if run.validation is None else {"validation": run.validation}
    if run.validation is None or run.private.steps == run.private.plan.steps:
        parts["test"] = run.test
    for name, (inputs, targets) in parts.items():
        accuracy, loss = evaluate(run.model, inputs, targets)
        found |= {f"{name}_accuracy": accuracy, f"{name}_loss": finite(loss)}
        if targets.dim() > 1:
            found[f"{name}_perplexity"] = finite(math.exp(min(loss, 700.0)))
    return found


def restate(run: Run) -> None:
    """The rows of a complete run say what their steps had cost, in place of what was read ahead."""
    plan = run.private.plan
    meter = Meter(plan.event, plan.delta, plan.accountant, plan.epsilon)
    for row in run.record["history"]:
        row["epsilon"] = finite(meter.epsilon(plan.part(0, row["step"])))


class LiveEpsilon:
    """A bound on epsilon after every step, never below it, for less than `LIVE_SHARE` of the time.

    It is read some steps ahead, and stands until these are taken: as many as pay for the reading.
    """

    def __init__(self, private: PrivateSession) -> None:
        self._private = private
        self._value, self._until, self._cost = 0.0, -1, 0.0
        private.spent_at_most(ahead=1)  # the first reading prepares the others
        self._read(1)

    def recent(self) -> float:
        """What will have been released a few steps from now at the latest."""
        if self._private.steps > self._until:
            taken = max(1, self._private.steps - self._step)
            pace = (time.monotonic() - self._time) / taken
            self._read(math.ceil(self._cost / (LIVE_SHARE * pace)) if pace > 0 else 1)
        return self._value

    def _read(self, ahead: int) -> None:
        started = time.monotonic()
        self._value = self._private.spent_at_most(ahead).epsilon
        self._step, self._time = self._private.steps, time.monotonic()
        self._cost, self._until = self._time - started, self._step + ahead


def row_every(steps: int, steps_per_epoch: int) -> int:
    """How many steps a row of the history is for: whole epochs, for about `HISTORY_ROWS` rows."""
    return steps_per_epoch * math.ceil(steps / steps_per_epoch / HISTORY_ROWS)
