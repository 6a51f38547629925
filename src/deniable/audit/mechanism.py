"""Audits of the released step itself: thousands of draws, in seconds, from the real path.

Each test attaches a session as training does, and looks only at what the optimizer receives. One
release gives many draws: its coordinates have noise of their own, and where each coordinate has a
worst-case unit of its own, each is a draw of the mechanism with or without that unit.

That counts draws as independent, which noise that repeats itself would not be. Whether it does is
tested by itself (`noise_again`), and generators have tests of their own.
"""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD

from deniable import checkpoint
from deniable.audit.estimators import Family, LowerBound, from_scores
from deniable.audit.findings import Finding
from deniable.audit.tradeoff import gaussian_epsilon
from deniable.bounds import Bound, Clip
from deniable.canaries import Canaries
from deniable.plan import Plan
from deniable.session import attach
from deniable.units import Neighbouring

# Draws of each parameter, with a unit and without: enough to see noise that is missing.
DRAWS = 512
MOST_OF_EACH = 1 << 14  # coordinates of one parameter, in one release
LEAST_RELEASES, MOST_RELEASES = 8, 512
ROUNDING = 1e-4  # of float32 sums, relative to the sensitivity

Flat = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Mechanism:
    """How to make a session of the kind that is audited.

    Attributes:
        model: makes a fresh model; of the same sizes each time.
        noise_multiplier: as planned.
        bound: makes the bound.
        neighbouring: the relation.
        secure: whether noise is drawn in float64.
    """

    model: Callable[[], nn.Module]
    noise_multiplier: float
    bound: Callable[[], Bound] = lambda: Clip(1.0)
    neighbouring: Neighbouring = Neighbouring.ADD_OR_REMOVE
    secure: bool = False

    @property
    def mu(self) -> float:
        """Of one step on all the data, as claimed."""
        return 1 / self.noise_multiplier if self.noise_multiplier else math.inf

    def claim(self, delta: float) -> float:
        """Epsilon of one step on all the data, as claimed."""
        return gaussian_epsilon(self.mu, delta)


class Direct(nn.Module):
    """A row's gradient is the row: the sum that is released is one that can be written down."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, size))

    def forward(self, rows: Tensor) -> Tensor:
        """One number a row."""
        return nn.functional.linear(rows, self.weight)[:, 0]


def one_step(
    noise_multiplier: float,
    *,
    bound: Callable[[], Bound] = lambda: Clip(1.0),
    secure: bool = False,
    delta: float = 1e-5,
    confidence: float = 0.95,
    draws: int = 100_000,
) -> LowerBound:
    """A lower bound on epsilon of one released step, from end to end: model, bound, noise, release.

    A model of one linear layer is trained for some steps on all of its rows. Each row lies along
    one coordinate, far beyond the bound; half of the coordinates have a row, by fair coins. What
    the optimizer receives is scored coordinate by coordinate.

    Args:
        noise_multiplier: of the step.
        bound: makes the bound.
        secure: whether noise is drawn in float64.
        delta: at which epsilon is stated.
        confidence: with which the bound holds.
        draws: how many, with a unit and without together.

    >>> bound = one_step(1.0, draws=4000)
    >>> 3.2 < bound.epsilon < gaussian_epsilon(1.0, 1e-5) + 0.5
    True
    """
    size = min(1000, draws // LEAST_RELEASES)
    inside: list[Mask] = []
    scores: list[Flat] = []
    for _ in range(4):
        model = Direct(size)
        coins = np.random.default_rng(secrets.randbits(128)).random(size) < 0.5
        rows = torch.eye(size)[torch.from_numpy(coins)]
        rows = torch.cat([rows, torch.zeros(1, size)])
        steps = -(-draws // (4 * size))
        plan = Plan(
            examples=len(rows),
            batch_size=len(rows),
            steps=steps,
            noise_multiplier=noise_multiplier,
            delta=delta,
        )
        optimizer = SGD(model.parameters(), lr=0.0)
        private = attach(model, optimizer, plan, bound=bound(), secure=secure)
        for batch in private.batches(rows):
            private.backward(1e4 * model(batch))
            optimizer.step()
            assert model.weight.grad is not None
            scores.append(model.weight.grad[0].double().numpy().copy())
            inside.append(coins)
        private.detach()
    return _bound(np.concatenate(inside), np.concatenate(scores), delta, confidence)


def _bound(inside: Mask, scores: Flat, delta: float, confidence: float) -> LowerBound:
    return from_scores(
        scores[inside], scores[~inside], delta=delta, confidence=confidence, family=Family.GAUSSIAN
    )


# -- the mechanism of a run ------------------------------------------------------------------------


def step_of(mechanism: Mechanism, delta: float, tests: int) -> list[Finding]:
    """One step on all the data, at the run's own noise, bound and model: whole, and by parameter.

    Every coordinate has a gradient canary, in or out by a fair coin at each release. A parameter
    that is left without noise, or whose gradient goes past the bound, shows by itself.

    Args:
        mechanism: what is audited.
        delta: at which epsilon is stated.
        tests: how many tests share the error of the whole audit.
    """
    canaries, releases = _releases(mechanism, delta)
    names = [name for name in canaries.parameters if len(canaries.of_parameter(name))]
    parts: dict[str, Any] = {"": slice(None)}
    parts |= {name: canaries.of_parameter(name) for name in names if len(names) > 1}
    return [
        _step_finding(name, part, mechanism, releases, delta, tests) for name, part in parts.items()
    ]


def _step_finding(
    name: str,
    part: Any,
    mechanism: Mechanism,
    releases: list[tuple[Mask, Flat]],
    delta: float,
    tests: int,
) -> Finding:
    inside = np.concatenate([each[part] for each, _ in releases])
    scores = np.concatenate([each[part] for _, each in releases])
    return Finding.measured(
        f"one step, {name}" if name else "one step",
        "one step",
        mechanism.claim(delta),
        lambda confidence: _bound(inside, scores, delta, confidence),
        tests,
        lambda bound: (
            f"{len(scores):,} draws with and without a worst-case unit: a Gaussian mechanism's mu "
            f"is at least {bound.mu:.4g}, claimed is {mechanism.mu:.4g}."
        ),
    )


def findings_of_step(model: nn.Module) -> int:
    """How many findings `step_of` makes."""
    names = sum(each.requires_grad for each in model.parameters())
    return 1 + (names if names > 1 else 0)


def sensitivity_of(
    mechanism: Mechanism,
    loss: Callable[[nn.Module, tuple[Tensor, ...]], Tensor],
    rows: tuple[Tensor, ...],
    delta: float,
) -> Finding:
    """How far single rows move the sum on their way through the model, its rules and the bound.

    At noise 0, so that a move is seen exactly. Each row is alone in the loss, once as it is and
    once weighted so that every bound must cut it.

    Args:
        mechanism: what is audited.
        loss: from the model and rows to one loss a row.
        rows: some of the data.
        delta: at which epsilon is stated.
    """
    model, count = mechanism.model().train(), len(rows[0])
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = SGD(list(parameters.values()), lr=0.0)
    plan = Plan(
        examples=count, batch_size=count, steps=2 * count, noise_multiplier=0.0, delta=delta
    )
    private = attach(model, optimizer, plan, bound=mechanism.bound(), seed=0)
    ratio, most, allowed, where = 0.0, 0.0, private.sensitivity.value, ""
    for step, batch in enumerate(private.batches(rows)):
        alone = torch.zeros(count)
        alone[step // 2] = 1e6 if step % 2 else 1.0
        limit = private.sensitivity.value
        private.backward(loss(model, batch) * alone)
        optimizer.step()
        norms = {name: float(_received(each).norm()) * count for name, each in parameters.items()}
        moved = math.sqrt(sum(each**2 for each in norms.values()))
        if not moved / limit <= ratio:
            ratio = moved / limit if math.isfinite(moved) else math.inf
            most, allowed, where = moved, limit, max(norms, key=lambda name: norms[name])
    private.detach()
    if ratio <= 1 + ROUNDING:
        ratio = min(1.0, ratio)
    mu = ratio * mechanism.mu
    bound = LowerBound(
        gaussian_epsilon(mu, delta), delta, 1.0, Family.GAUSSIAN, mu, (("rows", count),)
    )
    return Finding.measured(
        "sensitivity",
        "one step",
        mechanism.claim(delta),
        lambda _: bound,
        1,
        lambda _: (
            f"Of {count} rows, each alone through the model, one moved the sum by {most:.4g}, "
            f"mostly in {where}; {allowed:.4g} is what noise is scaled to."
        ),
    )


def noise_again(mechanism: Mechanism, delta: float, tests: int) -> Finding:
    """Whether noise that one release had is in another, before and after a run is resumed.

    Three releases, a checkpoint, a resumed session, three more. Of each pair of a release without
    any unit and one with units, the difference is scored: honest noise hides a unit in it better
    still, by a factor of sqrt(2); noise that was used twice cancels.

    Args:
        mechanism: what is audited.
        delta: at which epsilon is stated.
        tests: how many tests share the error of the whole audit.
    """
    releases = _resumed(mechanism, delta)
    pairs = [
        (first, second)
        for first, (empty, _) in enumerate(releases)
        for second, (other, _) in enumerate(releases)
        if not empty.any() and other.any()
    ]

    def measure(confidence: float) -> LowerBound:
        each = 1 - (1 - confidence) / len(pairs)
        bounds = [
            _bound(releases[b][0], releases[b][1] - releases[a][1], delta, each) for a, b in pairs
        ]
        largest = max(bounds, key=lambda bound: bound.epsilon)
        return replace(largest, confidence=confidence)

    return Finding.measured(
        "noise used twice",
        "one step",
        mechanism.claim(delta),
        measure,
        tests,
        lambda bound: (
            f"{len(releases)} releases, three of them after a checkpoint and a resumption: in the "
            f"differences of {len(pairs)} pairs, a Gaussian mechanism's mu is at least "
            f"{bound.mu:.4g}, claimed of each alone is {mechanism.mu:.4g}."
        ),
    )


def _resumed(mechanism: Mechanism, delta: float) -> list[tuple[Mask, Flat]]:
    """Which units were in, and the scores, of three releases and of three after a resumption."""
    # A seed is where a resumed session could begin its noise again.
    model, seed, found = mechanism.model(), secrets.randbits(63), []
    first = _Stage(mechanism, model, delta, steps=6, seed=seed)
    for batch in range(3):
        found += first.take(1, inside=batch % 2 == 1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), first.private.state_dict())
        saved = checkpoint.load(Path(folder))
    first.private.detach()
    second = _Stage(mechanism, model, delta, steps=6, seed=seed)
    second.private.load_state_dict(saved)
    for batch in range(3):
        found += second.take(1, inside=batch % 2 == 0)
    second.private.detach()
    return found


def _releases(mechanism: Mechanism, delta: float) -> tuple[Canaries, list[tuple[Mask, Flat]]]:
    """As many releases as give every parameter its draws."""
    model = mechanism.model()
    smallest = min(each.numel() for each in model.parameters() if each.requires_grad)
    steps = min(MOST_RELEASES, max(LEAST_RELEASES, math.ceil(2 * DRAWS / smallest)))
    if mechanism.bound().asks == "elements":
        steps = LEAST_RELEASES  # each forms every unit's gradient
    stage = _Stage(mechanism, model, delta, steps)
    found = stage.take(steps)
    stage.private.detach()
    return stage.canaries, found


class _Stage:
    """A session whose units are gradient canaries alone, one at every coordinate."""

    def __init__(
        self,
        mechanism: Mechanism,
        model: nn.Module,
        delta: float,
        steps: int,
        seed: int | None = None,
    ) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # A data set has at least one row: here it is one that is never in.
        self.canaries = Canaries(model, examples=1, seed=seed, of_each=MOST_OF_EACH)
        self.canaries.steers = True  # what is claimed of a step holds whatever came before it
        self.coins = np.random.default_rng(secrets.randbits(128))
        self.optimizer = SGD(list(self.parameters.values()), lr=0.0)
        everyone = len(self.canaries)
        self.private = attach(
            model,
            self.optimizer,
            Plan(
                examples=everyone,
                batch_size=everyone,
                steps=steps,
                noise_multiplier=mechanism.noise_multiplier,
                neighbouring=mechanism.neighbouring.value,
                delta=delta,
            ),
            bound=mechanism.bound(),
            seed=seed,
            secure=mechanism.secure,
            canaries=self.canaries,
            run_id="audit",
        )
        self.rows = torch.zeros(1, 1)

    def take(self, releases: int, inside: bool = True) -> list[tuple[Mask, Flat]]:
        """Releases, each with coins of its own: who was in, and what the optimizer received."""
        found = []
        self._toss(inside)
        for _ in self.private.batches(self.rows, steps=releases):
            deviation = self.private.noise_deviation
            self.optimizer.step()
            received = {name: _received(each) for name, each in self.parameters.items()}
            scores = self.canaries.read(received) / deviation
            found.append((self.canaries.inside[1:].copy(), scores))
            self._toss(inside)
        return found

    def _toss(self, inside: bool) -> None:
        among = self.coins.random(len(self.canaries)) < (0.5 if inside else 0.0)
        among[0] = False
        self.canaries.inside = among


def _received(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
