"""`attach`: private training around a model, an optimizer and a loop that stay what they are.

The session introduces the stages to each other, and is the only module that knows them all:
sampling draws a batch, gradients capture it, the bound sums it, the noise covers it, the ledger
records it, and the optimizer receives the release in its step pre-hook.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from deniable.accounting import Meter, nominal_spent, spent
from deniable.batches import DrawnBatches, Piece, Share, Source, Watched, batches, data_loader
from deniable.bounds import Bound, Clip, Observed
from deniable.canaries import Canaries
from deniable.claim import Claim
from deniable.eligibility import Unchanged, bound_parameters, check_arguments
from deniable.errors import AttachError, BudgetError, CheckpointError, LedgerError, StepError
from deniable.events import (
    ComposedEvent,
    GaussianEvent,
    PoissonSampledEvent,
    neighbouring_of,
    notes,
    singles,
    unsampled,
)
from deniable.gradients import Capture
from deniable.grouping import Example, Unit
from deniable.ledger import Ledger
from deniable.ledger.book import BLOCK
from deniable.noise import Gaussian, noise_generator
from deniable.open_batch import OpenBatch
from deniable.plan import Plan
from deniable.randomness import Streams, derived_seed, numpy_generator
from deniable.ranks import Ranks
from deniable.sampling import SAMPLINGS, OwnLoader
from deniable.saved_state import (
    STATE_VERSION,
    check_rank,
    check_recorded,
    check_repeats,
    check_settings,
    check_unused,
    note_used,
    released_from,
)
from deniable.scaling import LossScale
from deniable.shards import Shards, as_stored, group_of, leave_reduction, within
from deniable.units import BoundedSum, Sensitivity, Spent

LEAST_BUDGET = sys.float_info.min  # for plans whose epsilon is 0 as far as can be computed


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    plan: Plan,
    bound: Bound | None = None,
    *,
    unit: Unit | None = None,
    ledger: Ledger | Path | str | None = None,
    run_id: str | None = None,
    loss_reduction: Literal["mean", "sum"] = "mean",
    budget: float | None = None,
    seed: int | None = None,
    secure: bool = False,
    canaries: Canaries | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> PrivateSession:
    """Make an ordinary training loop private.

    The model keeps its class, its parameters' names and its `state_dict()`; the optimizer stays an
    ordinary torch optimizer. From here on `optimizer.step()` receives noisy sums only.

    Args:
        model: any module; its trainable parameters must be the optimizer's.
        optimizer: any first-order torch optimizer over the model's parameters.
        plan: how much is released, and how often.
        bound: what limits one unit's influence; `Clip(1.0)` if not given.
        unit: what is sampled, bounded and protected; every row by itself if not given.
        ledger: where releases are recorded: a file (made where absent, which the log says), an open
            ledger, or None for memory only.
        run_id: the run's name in the ledger; a fresh one if not given. The name of a run that is
            there goes on with it, by the same plan.
        loss_reduction: how the loss given to `backward` combines the rows of a batch.
        budget: the epsilon that this run never passes: `private.batches` ends before the step that
            would, and the model of the last step stands. The plan's own epsilon if not given.
        seed: makes the run reproducible, and its noise known to whoever knows the seed.
        secure: draw noise from an AES-256-CTR keystream in float64.
        canaries: units of an audit, which the plan's examples must count; see `Canaries`.
        process_group: the ranks that each hold a replica of the model and train it together, every
            one on its part of each batch; each calls this with the same settings, data and ledger.
            Not needed for a model in `DistributedDataParallel` or under `fully_shard`.

    Raises:
        AttachError: the model or the optimizer cannot be made private; the message says the mend.
        BudgetError: the plan does not fit the ledger's budget, the ledger is closed, or `budget`
            has no room for one step.
        LedgerError: the ledger cannot be used, or holds the run with another plan.

    >>> import torch
    >>> model = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> plan = Plan(examples=100, batch_size=10, steps=5, noise_multiplier=1.0, delta=1e-3)
    >>> private = attach(model, optimizer, plan)
    >>> for inputs, labels in private.batches((torch.randn(100, 4), torch.zeros(100).long())):
    ...     nn.functional.cross_entropy(model(inputs), labels).backward()
    ...     optimizer.step()
    >>> private.steps
    5
    """
    if loss_reduction not in ("mean", "sum"):
        raise AttachError(f"loss_reduction must be 'mean' or 'sum', got {loss_reduction!r}.")
    bound = Clip(1.0) if bound is None else bound
    unit = Example() if unit is None else unit
    check_arguments(
        plan, model=model, optimizer=optimizer, bound=bound, unit=unit, ledger=ledger,
        run_id=run_id, canaries=canaries, secure=secure,
    )  # fmt: skip
    return PrivateSession(
        model,
        optimizer,
        plan,
        bound,
        unit,
        ledger,
        run_id,
        loss_reduction,
        max(plan.epsilon, LEAST_BUDGET) if budget is None else budget,
        seed,
        secure,
        canaries=canaries,
        process_group=process_group,
    )


class PrivateSession:
    """A model and an optimizer under a plan; made by `attach`.

    Guarantees:
        - `optimizer.step()` sees a release exactly once for each logical batch, recorded in the
          ledger before it takes effect, and nothing otherwise.
        - `.grad` never holds a sum without noise.
        - What is divided by is the expected batch size of the plan's step, never the drawn one.
        - The run's releases never cost more than its budget.

    Attributes:
        plan: the plan that is followed.
        steps: how many logical batches were released.
        budget: the epsilon at which the run ends, if its plan does not end before.
        at_once: how many steps are recorded at once, ahead of their releases: what a crash may
            overstate.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plan: Plan,
        bound: Bound,
        unit: Unit,
        ledger: Ledger | Path | str | None,
        run_id: str | None,
        loss_reduction: Literal["mean", "sum"],
        budget: float,
        seed: int | None,
        secure: bool,
        canaries: Canaries | None = None,
        about: Mapping[str, Any] | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.plan, self.steps, self.budget, self.at_once = plan, 0, budget, BLOCK
        room = _room(plan, budget)
        self.seeded, self.secure = seed is not None, secure
        self._bound, self._unit, self._optimizer = bound, unit, optimizer
        self._loss_reduction, self.canaries = loss_reduction, canaries
        as_stored(model)
        self._parameters = bound_parameters(model, optimizer)
        if canaries is not None:
            canaries.join_plan(plan, bound, unit, self._parameters)
        bound.sensitivity(self._parameters)  # refuses what does not fit, before anything is written
        self._device = next(iter(self._parameters.values())).device
        ranks = self._ranks = Ranks(group_of(model, process_group), self._device)
        self._check_alike(seed)
        if canaries is not None and ranks.size > 1:
            raise AttachError(
                "Canaries join the batches of one process, and this model is held by "
                f"{ranks.size}. Audit on one process, or leave out canaries."
            )
        self._shards = Shards(model, self._parameters, ranks)
        self.run_id = ranks.first_says((run_id or uuid.uuid4().hex[:12]).encode()).decode()
        self._owns_ledger = not isinstance(ledger, Ledger) or ranks.rank > 0
        self._ledger = ranks.first(lambda: self._opened(ledger))
        self._opens_with: dict[str, Any] = {
            "planned": room,
            "expected": plan.part(0, room),
            "description": {
                "plan": plan.to_json(),
                "bound": self.bound_settings,
                "unit": unit.settings(),
                "noise": {"secure": secure, "seeded": seed is not None},
                **(about or {}),
            },
            "neighbouring": plan.neighbouring,
            "unit": unit.protects,
        }
        self._run = ranks.first(lambda: self._ledger.run(self.run_id, **self._opens_with))
        self._count_along()
        self._seed = seed
        streams = self._streams() if self._taken_over() else Streams(seed)
        self._source = Source(
            plan,
            unit,
            self._draw_from(streams),
            left=lambda: self.ends_at - self.steps,
            recognise=self._recognise,
            share=Share(ranks.rank, ranks.size),
            canaries=canaries,
        )
        self._meter = Meter(plan.event, plan.delta, plan.accountant, plan.epsilon)
        self._ends_at = None if self._run.position else room
        self._pass = self._begun = 0
        self._releasing, self._detached, self._repeats_until = False, False, 0
        self._ahead: dict[int, PoissonSampledEvent] = {}
        in_calls = self._shards.in_calls
        self._unchanged = Unchanged(model, optimizer, self._parameters, in_calls)
        self._undo = leave_reduction(model)
        keep = bound.asks == "elements"
        self._capture = Capture(
            within(model), in_calls, measure=seed is None, keep=keep, shards=self._shards
        )
        self._open = OpenBatch(
            self._capture, bound, self._shards, self._device, loss_reduction, canaries
        )
        self._loss_scale = LossScale(optimizer)
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    def __repr__(self) -> str:
        """What it is, and how far: nothing that costs time."""
        return (
            f"PrivateSession(run {self.run_id!r}: {self.steps} of {self.plan.steps} steps, "
            f"{self._bound.in_words}, epsilon at most {self.budget:.4g} at delta "
            f"{self.plan.delta:g}{', detached' if self._detached else ''})"
        )

    def __reduce__(self) -> NoReturn:
        """Nothing is pickled, and a copy would release with the same noise.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            "A session cannot be pickled or copied: a copy would draw the same noise again. Save "
            "private.state_dict(), as private as the data; load_state_dict goes on from it."
        )

    def __enter__(self) -> Self:
        """The session itself; it is detached where the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _check_alike(self, seed: int | None) -> None:
        """Ranks that train one model must have been told the same."""
        shapes = {name: list(each.shape) for name, each in self._parameters.items()}
        told = [self.plan.to_json(), self._bound.settings(), self._unit.settings(), self.budget]
        self._ranks.alike("parameters", repr(shapes))
        self._ranks.alike("plan, bound, unit and budget", repr(told))
        self._ranks.alike("seed, secure and loss_reduction", repr(
            (seed, self.secure, self._loss_reduction)
        ))  # fmt: skip

    def _opened(self, ledger: Ledger | Path | str | None) -> Ledger:
        """Rank 0 keeps the ledger; every other rank counts along in memory."""
        if self._ranks.rank > 0:
            return Ledger(None)
        return ledger if isinstance(ledger, Ledger) else Ledger(ledger)

    def _taken_over(self) -> bool:
        """Whether the run's ledger counted steps already."""
        return self._run.position > 0

    def _count_along(self) -> None:
        """Let every other rank's record, in memory, say what rank 0's ledger does from here on."""
        if self._ranks.size == 1:
            return
        run = self._run
        said = json.dumps([run.record(), run.position, run.stream])
        told = self._ranks.first_says(said.encode())
        if self._ranks.rank > 0:
            record, position, stream = json.loads(told)
            self._ledger = Ledger(None)
            self._run = self._ledger.run(self.run_id, **self._opens_with)
            self._run.restate(record)
            self._run.resume_at(position, stream)

    def _streams(self) -> Streams:
        """Randomness that no step was released from: other openings and places have other."""
        place = f"{self._run.opening}/{self._run.position}".encode()
        place = self._ranks.first_says(place)
        return Streams(derived_seed(self._seed, "opening", place.decode()))

    def _draw_from(self, streams: Streams) -> np.random.Generator:
        """Noise comes from these streams from here on; who joins is for the caller to draw."""
        key = streams.key("noise", self._ranks.rank)
        self._generator = noise_generator(key, self._device, self.secure)
        return numpy_generator(self._ranks.first_says(streams.key("sampling")))

    def _recognise(self, found: str) -> None:
        self._ranks.alike("data set", found)
        self._ranks.first(lambda: self._ledger.recognise(found))

    # -- the user's loop -----------------------------------------------------------------------

    def batches(
        self, data: Any, rows: int | None = None, steps: int | None = None, workers: int = 0
    ) -> Iterator[Any]:
        """The batches to train on, drawn as the plan says; empty ones included.

        Args:
            data: a tensor, a tuple or dictionary of tensors (rows are gathered directly), or a
                map-style data set (read through a DataLoader).
            rows: the most rows that are in memory at once; a larger batch comes in pieces, and
                `optimizer.step()` does nothing until it is whole. None: always whole.
            steps: how many logical batches at most; all that plan and budget have left if not
                given.
            workers: DataLoader processes, for data sets.

        Yields:
            What one reading of the data set yields, with rows stacked along dimension 0.

        Raises:
            PlanError: the data set does not hold `plan.examples` examples.
            StepError: a drawn batch was passed over without `optimizer.step()`.
        """
        self._refuse_detached()
        drawn = self._source.drawn(data, rows, steps)
        yield from self._follow(batches(data, drawn, workers))

    def loader(
        self, data: Any, rows: int | None = None, steps: int | None = None, **arguments: Any
    ) -> Watched:
        """A DataLoader whose batches are drawn as the plan says, for loops that count epochs.

        A pass through it is an epoch; the passes end when the plan does. Frameworks that take a
        loader can be given this one, as long as they step on a batch before they ask for the next.

        Args:
            data: tensors, or a map-style data set.
            rows: the most rows that are in memory at once, as in `batches`.
            steps: how many logical batches a pass has; `plan.steps_per_epoch` if not given.
            arguments: for the DataLoader: `num_workers`, `collate_fn`, `pin_memory` and so on.

        Raises:
            PlanError: the data set does not hold `plan.examples` examples, or an argument would
                choose rows in another way.
        """
        return self.watch(data_loader(data, self.batch_sampler(data, rows, steps), **arguments))

    def batch_sampler(
        self, data: Any, rows: int | None = None, steps: int | None = None
    ) -> DrawnBatches:
        """The plan's batches as a batch sampler, for a DataLoader that you build.

        Give that loader to `watch`. A batch may be empty: your `collate_fn` then gets an empty
        list, which torch's own does not take; `loader` knows what to do.

        Args:
            data: what the DataLoader reads.
            rows: the most rows of a piece, as in `batches`.
            steps: how many logical batches a pass has; `plan.steps_per_epoch` if not given.

        Raises:
            PlanError: the data set does not hold `plan.examples` examples, or the plan leaves the
                drawing to your own loader.
        """
        self._refuse_detached()
        return self._source.drawn(data, rows, self.plan.steps_per_epoch if steps is None else steps)

    def watch(self, loader: Any) -> Watched:
        """Your own loader, whose batches are recognised as they arrive.

        On a `batch_sampler` of this session, what arrives must be what was drawn, in its order. Any
        other loader needs a plan with `sampling="own-loader"`, which claims no amplification.

        Args:
            loader: a DataLoader or, for an own loader, any iterable of batches that reads an
                example at most once into a batch.

        Raises:
            PlanError: the loader draws otherwise than the plan says.
        """
        self._refuse_detached()
        self._source.check(loader)
        return Watched(loader, lambda each: self._follow(self._source.arriving(each)))

    def backward(self, losses: Tensor) -> None:
        """Backward for a vector of one loss per row, whatever `loss_reduction` says.

        Args:
            losses: shape `(rows,)`.

        Raises:
            StepError: the vector does not have one entry for each row of the drawn piece.
        """
        self._open.backward(losses)

    def spent(self) -> Spent:
        """What has been released so far, as (epsilon, delta)."""
        return spent(self._run.released_event(), self.plan.delta, self.plan.accountant)

    def spent_at_most(self, ahead: int = 0) -> Spent:
        """A bound on what will have been spent `ahead` steps from now, quick enough for every step.

        Mostly within 1% of what `spent` would say, and never below it; about a millisecond, where
        `spent` can take a tenth of a second.

        Args:
            ahead: 1 for what the next step would come to; no more than the plan has left counts.
        """
        stop = min(self.steps + ahead, self.plan.steps)
        coming = self.plan.part(self.steps, stop, self._begun)
        event = ComposedEvent((self._run.released_event(), coming))
        epsilon = self._meter.epsilon(event)
        return Spent(epsilon, self.plan.delta, neighbouring_of(event), notes(event))

    def claim(self) -> Claim:
        """What the ledger proves of this run, to be published and to be verified.

        What the run had reserved and not released is given back first. After `detach`, the claim is
        that of the moment of detaching.

        Raises:
            LedgerError: the ledger is kept by rank 0, and this is another.
        """
        if self._ranks.rank > 0:
            raise LedgerError(
                f"Rank 0 keeps the ledger, and this is rank {self._ranks.rank}. Ask for the claim "
                "on rank 0 alone."
            )
        if not self._detached:
            self._run.settle()
        return Claim.of(self._ledger.known(), self.run_id, self.plan.delta, self.plan.accountant)

    @property
    def ends_at(self) -> int:
        """How many steps will have been released at the end: the plan's, or what budget allows."""
        if self._ends_at is None:
            released = self._run.released_event()
            self._ends_at = self.plan.steps_within(self.budget, self.steps, released, self._begun)
        return self._ends_at

    @property
    def statistics(self) -> dict[str, float]:
        """Of the last logical batch: units, those not finite, mean norm, share clipped.

        **Not private**: it is for your eyes while you tune, never for a release.
        """
        observed = self._open.observed
        if not observed:
            return {"units": 0, "not_finite": 0, "mean_norm": 0.0, "clip_fraction": 0.0}
        norms = torch.cat([each.norms for each in observed])
        return Observed(norms, torch.cat([each.factors for each in observed])).summary()

    @property
    def sensitivity(self) -> Sensitivity:
        """How far one protected unit can move the sum that is released next."""
        return self._of_protected(self._bound.sensitivity(self._parameters))

    def _of_protected(self, one: Sensitivity) -> Sensitivity:
        """For one protected unit under the plan's relation, from that of one bounded gradient."""
        in_place = SAMPLINGS[self.plan.sampling].in_place
        return self._unit.sensitivity(one, self.plan.neighbouring, in_place=in_place)

    @property
    def bound(self) -> Bound:
        """What limits one unit's influence; where it adapts, as of the last release."""
        return self._bound

    @property
    def bound_settings(self) -> dict[str, Any]:
        """The bound as runs and ledgers describe it: settings, words, and its sensitivity.

        Where the bound's source takes the sensitivity for another that is **no guarantee**, that is
        there too, as `nominal_sensitivity`.
        """
        described = self._bound.settings() | {
            "in_words": self._bound.in_words,
            "sensitivity": self.sensitivity.value,
        }
        nominal = self._bound.nominal_sensitivity(self._parameters)
        if nominal is not None:
            described["nominal_sensitivity"] = self._of_protected(nominal).value
        return described

    def nominal_spent(self) -> Spent | None:
        """What the bound's source would state in place of `spent`, **which is no guarantee**.

        Its notes say why. None for bounds whose source states what holds.
        """
        event, plan = self._run.released_event(), self.plan
        return nominal_spent(event, plan.delta, self.bound_settings, plan.accountant)

    @property
    def noise_deviation(self) -> float:
        """The standard deviation of the noise in each coordinate of the next release.

        The noise multiplier times the sensitivity, over the public number that sums are divided by.
        """
        phase = self.plan.at(min(self.steps, self.plan.steps - 1))
        return phase.noise_multiplier * self.sensitivity.value / self.denominator

    @property
    def denominator(self) -> float:
        """The public number that the next sum is divided by."""
        return self._denominator(self.plan.at(min(self.steps, self.plan.steps - 1)).batch_size)

    def _denominator(self, batch_size: int) -> float:
        """The public number that a sum is divided by: how many gradients of data are expected."""
        if self.canaries is None:
            return self._unit.denominator(batch_size)
        share = 1 - self.canaries.gradients / self.plan.examples
        return self._unit.denominator(batch_size) * share

    @property
    def ways(self) -> int:
        """For how many kinds of use a way to compute norms was chosen; `state_dict` has them."""
        return len(self._capture.chooser.choices)

    def explain(self) -> str:
        """How the norms of each kind of use are computed, and what each way took when tried.

        One line a kind: the use's shapes, the way taken, and milliseconds by way where measured.
        """
        lines = []
        for use, choice in self._capture.chooser.choices.items():
            took = ", ".join(f"{way} {ms:.2f} ms" for way, ms in choice.milliseconds.items())
            lines.append(f"{use}: {choice.way}" + (f" ({took})" if took else ""))
        return "\n".join(lines)

    def detach(self) -> None:
        """Give model and optimizer back as they were; unreleased reservations are settled."""
        if self._detached:
            return
        self._hook.remove()
        self._loss_scale.remove()
        self._capture.remove()
        self._undo()
        self._run.settle()
        self._detached = True
        if self._owns_ledger:
            self._ledger.close()

    # -- batches as they arrive ----------------------------------------------------------------

    def _follow(self, pieces: Iterator[tuple[Piece, Any]]) -> Iterator[Any]:
        """Hands out batches, each when the one before has been stepped on."""
        self._refuse_detached()
        self._refuse_half_released()
        self._open.forget()
        self._pass += 1
        mine = self._pass
        try:
            for piece, batch in pieces:
                self._refuse_detached()
                if mine != self._pass:
                    self._refuse_half_released()
                    raise StepError(
                        "This pass through the data is over: another began, a step was refused, or "
                        "a saved state was loaded. Leave the loop, and begin it again: the batch "
                        "that was due comes first."
                    )
                self._open.begin(piece, batch)
                yield batch
                if mine == self._pass:
                    self._open.passed_over()
        finally:
            if mine == self._pass:
                self._open.forget()

    def _refuse_detached(self) -> None:
        if self._detached:
            raise StepError(
                "This session is detached: nothing is bounded, noised or recorded any more. Attach "
                "the model again, with run_id and ledger if the run is to go on."
            )

    def _refuse_half_released(self) -> None:
        if self._releasing:
            raise StepError(
                "An exception interrupted a release, which the ledger counts, or the loading of a "
                "saved state: the noise that is due may not meet another batch. Go on from a saved "
                "state (load_state_dict), or with fresh noise (go_on)."
            )

    # -- steps ahead and behind ----------------------------------------------------------------

    def prepare(self, event: PoissonSampledEvent | None = None) -> None:
        """Make the record of the next step durable now, so that its release need not wait for it.

        For batches that are drawn independently of each other (Poisson). A step that is prepared
        and never released stays recorded until the run is settled.

        Args:
            event: what it will be, if not what the plan says.
        """
        if self.steps < self.ends_at:
            self._run.prepare(event or self.next_event, self._alike())

    def _alike(self) -> int:
        """How many steps may be recorded at once from here on."""
        return min(self.at_once, self.plan.at(self.steps).stop - self.steps)

    @property
    def next_event(self) -> PoissonSampledEvent:
        """What the next step of a plan with Poisson sampling releases."""
        phase = self.plan.at(self.steps)
        if phase.start not in self._ahead:
            [(event, _)] = singles(self.plan.part(phase.start, phase.start + 1))
            assert isinstance(event, PoissonSampledEvent), "others are not known beforehand"
            self._ahead[phase.start] = event
        return self._ahead[phase.start]

    # -- one release ---------------------------------------------------------------------------

    def _before_step(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The optimizer's step pre-hook: hand it the release, or nothing.

        A closure is evaluated here, before the noise; the optimizer gets what it returned.
        """
        piece = self._open.to_step()
        closure = next(iter(args[1:]), None) or kwargs.get("closure")
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            args, kwargs = args[:1], {**kwargs, "closure": _once(loss)}
        self._unchanged.check()
        self._finish()
        if piece.last:
            try:
                self._release(piece)
            except BaseException:
                # Its sum must meet no other batch, nor its noise: the loop begins with it again.
                self._open.forget()
                self._pass += 1
                raise
        else:
            for parameter in self._parameters.values():
                parameter.grad = None
        return args, kwargs

    def _finish(self) -> None:
        """The open piece joins its batch's sum."""
        self._open.add(self._loss_scale.take())

    def _release(self, piece: Piece) -> None:
        if self.steps >= self.ends_at:
            raise BudgetError(
                f"{self.steps} of the plan's {self.plan.steps} steps are released, and one more "
                f"would exceed the run's epsilon of {self.budget:.6g}. The model is that of the "
                "last step: keep it, or make a plan with more steps or a larger budget."
            )
        if self.steps >= self._repeats_until:
            check_unused(self._run.stream, self.steps)
        self._ranks.first(lambda: self._run.release(piece.event, self._alike()))
        self._releasing = True
        note_used(self._run.stream, self.steps)
        denominator = self._denominator(piece.batch_size)
        noisy = self._add_noise(piece, self._to_release())
        aside = {name: noisy[name] for name in noisy.keys() - self._parameters.keys()}
        for group in self._optimizer.param_groups:
            if "noise_deviation" in group:
                group["noise_deviation"] = self.noise_deviation
        self._bound.learn(aside, denominator)
        _divide([noisy[name] for name in self._parameters], denominator)
        for name, parameter in self._parameters.items():
            parameter.grad = noisy[name].to(parameter)
        if self.canaries is not None:
            deviation, rate = self.noise_deviation, piece.batch_size / self.plan.examples
            weight = rate / deviation**2 if deviation else 1.0
            self.canaries.observe(noisy, weight * self.sensitivity.value / denominator)
        self._source.state = piece.state
        self._open.released()
        self.steps += 1
        self._releasing = False

    def _to_release(self) -> BoundedSum:
        """The batch's sum, and how far one protected unit can move it."""
        total = self._open.total()
        return replace(total, sensitivity=self._of_protected(total.sensitivity))

    def _add_noise(self, piece: Piece, bounded: BoundedSum) -> dict[str, Tensor]:
        """What was recorded is what is added."""
        released = unsampled(piece.event)
        assert isinstance(released, GaussianEvent)
        noise = Gaussian.of(released)
        return self._shards.release(bounded, lambda sums: noise.add(sums, self._generator))

    # -- saved state ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as of the last release: plain values, no pickle.

        It holds the noise generator: **whoever reads it can subtract the noise**. Keep it as
        private as the data, and delete it when the run is complete.

        Raises:
            CheckpointError: an exception left a release half done.
        """
        if self._releasing:
            raise CheckpointError(
                "An exception interrupted a release, so this state cannot be saved. Continue from "
                "the checkpoint before it; the ledger already counts the interrupted step."
            )
        return {
            **self._settings(),
            "run_id": self.run_id,
            "steps": self.steps,
            "bound_state": self._bound.state(),
            "seeded": self.seeded,
            "data": self._source.data,
            "strategies": self._capture.chooser.state(),
            "record": self._run.record(),
            "stream": self._run.stream,
            "rank": [self._ranks.rank, self._ranks.size],
            "sampler": self._source.state,
            "begun": self._begun,
            "noise": self._generator.state(),
            **({} if self.canaries is None else {"canaries": self.canaries.state()}),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, replay: bool = False) -> None:
        """Continue where a saved state was taken; model and optimizer are restored by you.

        A ledger in a file knows of every process that went on from the state. **Without one, only
        what this process released is known**: load a state in one process at a time, and never
        again once another has released a step after it, or the same noise covers two sums.

        Args:
            state: what `state_dict` returned.
            replay: the promise that model, optimizer, data and code are those of the saved run, so
                that steps which are released already are repeated bit for bit, at no cost.

        Raises:
            CheckpointError: the state is of another run or plan; steps after it are known to be
                released, and `replay` does not promise to repeat them; or they were released with
                other noise, after `go_on`, so that nothing can repeat them.
        """
        self._refuse_detached()
        self._ranks.unanimous(lambda: self._check(state))
        common = "steps", "begun", "stream", "sampler", "bound_state", "data"
        self._ranks.alike("saved state", repr([state[name] for name in common]))
        self._ranks.first_alone(lambda: self._go_back(state, replay=replay))
        self._count_along()
        self._repeats_until = released_from(state["stream"], self._run) if replay else 0
        self._pass += 1  # a pass that is on drew its batches as before
        self._releasing = True  # nothing more is released, unless all of the state is taken up
        self._open.forget()
        self._ends_at = None
        self._capture.chooser.restore(state["strategies"])
        self._generator.restore(state["noise"])
        self._bound.restore(state["bound_state"])
        self._source.state, self._source.data = state["sampler"], state["data"]
        if self.canaries is not None:
            self.canaries.restore(state["canaries"])
        self.steps, self._begun = state["steps"], state.get("begun", 0)
        self.seeded = self.seeded or state["seeded"]
        self._releasing = False

    def _check(self, state: Mapping[str, Any]) -> None:
        check_settings(state, self._settings(), self.run_id)
        check_rank(state, self._ranks, in_parts=self._shards.in_parts)

    def _go_back(self, state: Mapping[str, Any], *, replay: bool) -> None:
        """The ledger's record is taken up again where a state was saved, if that may be."""
        self._run.settle()
        if self._ledger.path is None:
            self._run.restate(state["record"])
        own_loader = self.plan.sampling == OwnLoader.name
        check_repeats(state, self._run, replay=replay, own_loader=own_loader)
        self._run.resume_at(state["steps"], state["stream"])

    def go_on(self, state: Mapping[str, Any] | None = None) -> None:
        """Continue after every step that the ledger counts, with fresh randomness.

        For a process that cannot repeat its steps since a saved state bit for bit: they stay spent,
        and no noise or batch of theirs is drawn again. With a seed, what is drawn follows from the
        seed, this opening of the run and the step.

        Args:
            state: what `state_dict` returned, of which only the bound's is taken up; None where a
                run that saves nothing goes on. Model and optimizer are restored by you.

        Raises:
            CheckpointError: the state is of another run or plan, or of more steps than the ledger
                counts.
        """
        self._refuse_detached()
        self._run.settle()
        if state is not None:
            self._ranks.unanimous(lambda: self._check(state))
            self._ranks.first_alone(lambda: check_recorded(state, self._run))
            self._bound.restore(state["bound_state"])
            self._source.data = state["data"]
            self.seeded = self.seeded or state["seeded"]
        self._open.forget()
        self._releasing, self._repeats_until = False, 0
        self._pass += 1  # a pass that is on drew its batches as before
        self._run.go_on()
        self._count_along()
        self.steps = self._begun = self._run.position
        self._ends_at = None
        self._source.begin_at(self.steps, self._draw_from(self._streams()))

    def _settings(self) -> dict[str, Any]:
        """What a saved state must have been saved under."""
        return {
            "version": STATE_VERSION,
            "plan": self.plan.to_json(),
            "bound": self._bound.settings(),
            "unit": self._unit.settings(),
            "secure": self.secure,
        }


def _divide(values: list[Tensor], divisor: float) -> None:
    """Divide each in place. On the CPU torch makes a tensor of a number, anew for each value."""
    if all(each.is_cpu for each in values):
        wide = any(each.dtype == torch.float64 for each in values)
        by = torch.scalar_tensor(divisor, dtype=torch.float64 if wide else torch.float32)
        torch._foreach_div_(values, by)
    else:
        torch._foreach_div_(values, divisor)


def _once(loss: Any) -> Callable[[], Any]:
    """A closure that was evaluated already."""
    left = [loss]

    def evaluated() -> Any:
        if not left:
            raise StepError(
                "The optimizer evaluated its closure twice in one step, and there is one release a "
                "step, of the first. Use an optimizer that needs one gradient a step."
            )
        return left.pop()

    return evaluated


def _room(plan: Plan, budget: float) -> int:
    """How many of the plan's steps the budget has room for."""
    room = plan.steps_within(budget)
    if room == 0:
        one = spent(plan.part(0, 1), plan.delta, plan.accountant).epsilon
        raise BudgetError(
            f"The budget of epsilon {budget:g} has no room for a single step, which costs "
            f"{one:.4g}. Give a larger budget, or a plan with more noise or a smaller batch_size."
        )
    return room
