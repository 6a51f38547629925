"""Canaries: units that an audit adds to a training run, each in or out by a coin of its own.

A canary counts as a member of the plan, is drawn by its sampler, bounded by its bound and hidden by
its noise like every other unit. Whether what was released tells in from out is what an audit
measures; see `deniable.audit`.

Two kinds:

- a **gradient canary** is a unit whose gradient is one coordinate and huge, so that every bound
  cuts it to what it may be at most (Nasr et al., 2023, "Tight Auditing of Differentially Private
  Machine Learning", section 5.1: Dirac canaries). It goes past the model, not past the bound.
- an **example canary** is a row of the data set like any other; one that is out is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deniable.bounds import Bound, Gradients
from deniable.bounds.base import Weights
from deniable.errors import AttachError
from deniable.gradients.contributions import units_at_once
from deniable.grouping import Unit
from deniable.numeric import is_whole
from deniable.plan import Plan
from deniable.randomness import Streams
from deniable.sampling import OwnLoader
from deniable.units import Neighbouring

Indices = NDArray[np.int64]
# Far above what any bound lets through: one that is skipped, or comes too late, shows.
NORM = 1e4
MOST = 5000


@dataclass(frozen=True)
class _Place:
    """The gradient canaries of one parameter: which, at what coordinate, with what sign."""

    canaries: Tensor
    coordinates: Tensor
    signs: Tensor


class Canaries:
    """Units of an audit, with their coins, their places and what was seen of them so far.

    Give it to `attach`, and count its length into the plan's examples. Of the units that the plan
    draws, the last are the gradient canaries; the rows before them, at the end of the data set, are
    the example canaries.

    Args:
        model: whose trainable parameters the gradient canaries lie in.
        gradients: how many gradient canaries, at most one for each coordinate; `suggested(model)`
            if not given.
        examples: how many rows at the end of the data set are canaries.
        seed: of the coins and places; of the operating system if not given.
        inside: the coins, where they are to be other than fair: an audit of one step knows both
            worlds. Fair ones from the stream "audit" if not given.
        of_each: in place of `gradients`: so many in each parameter, or all that it has room for.

    Attributes:
        gradients: how many gradient canaries.
        examples: how many example canaries.
        inside: the coin of each: example canaries first, `(examples + gradients,)`.
        scores: of each gradient canary, the sum over releases of its inner product with them, in
            deviations of the noise: larger where it is in.
        replaced: whether one that is out has another in its place, with the opposite gradient: the
            worst case of the relation "replace". `attach` says it.
        steers: whether a bound that adapts may follow them; else `attach` refuses such a bound.

    Raises:
        AttachError: more gradient canaries than coordinates, or fewer than none; no model, or no
            whole number.

    >>> canaries = Canaries(nn.Linear(8, 4), gradients=10, seed=0)
    >>> len(canaries), canaries.scores.shape
    (10, (10,))
    """

    def __init__(
        self,
        model: nn.Module,
        gradients: int | None = None,
        examples: int = 0,
        *,
        seed: int | None = None,
        inside: NDArray[np.bool_] | None = None,
        of_each: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise AttachError(f"Canaries are planted in a torch.nn.Module, got {model!r}.")
        counts = gradients, examples, of_each
        wrong = [each for each in counts if not (each is None or is_whole(each))]
        if wrong:
            raise AttachError(
                f"Canaries are counted: gradients, examples and of_each are whole numbers, got "
                f"{wrong[0]!r}."
            )
        shapes = {name: each for name, each in model.named_parameters() if each.requires_grad}
        coordinates = sum(each.numel() for each in shapes.values())
        if of_each is not None:
            gradients = sum(min(of_each, each.numel()) for each in shapes.values())
        self.gradients = suggested(model) if gradients is None else gradients
        self.examples = examples
        if not 0 <= self.gradients <= coordinates or examples < 0:
            raise AttachError(
                f"An audit of this model can have 0 to {coordinates:,} gradient canaries, one for "
                f"each coordinate, and no fewer than 0 of any kind; got {self.gradients:,} and "
                f"{examples:,} examples."
            )
        generator = Streams(seed).numpy("audit")
        fair = generator.random(examples + self.gradients) < 0.5
        self.inside = fair if inside is None else np.asarray(inside, dtype=bool)
        sizes = [each.numel() for each in shapes.values()]
        if of_each is None:
            self._where = generator.choice(coordinates, self.gradients, replace=False)
        else:
            starts = np.cumsum([0, *sizes[:-1]])
            chosen = [generator.choice(n, min(n, of_each), replace=False) for n in sizes]
            self._where = np.concatenate([a + b for a, b in zip(starts, chosen, strict=True)])
        self._signs = generator.choice([-1.0, 1.0], self.gradients)
        self.scores = np.zeros(self.gradients)
        self.replaced = self.steers = False
        self._sizes = {name: each.numel() for name, each in shapes.items()}
        self._devices = {name: each.device for name, each in shapes.items()}
        self._place()

    def __len__(self) -> int:
        return self.examples + self.gradients

    def join_plan(
        self, plan: Plan, bound: Bound, unit: Unit, parameters: Mapping[str, Tensor]
    ) -> None:
        """Become members of a plan; `attach` calls it.

        Args:
            plan: of the training.
            bound: of the gradients.
            unit: what is protected.
            parameters: those that are trained, by name.

        Raises:
            AttachError: they do not fit the model, the plan, the bound or the unit, or have scores
                of another training.
        """
        sizes = {name: each.numel() for name, each in parameters.items()}
        if self._sizes != {name: sizes.get(name) for name in self._sizes}:
            raise AttachError(
                "These canaries were made for another model, whose trainable parameters are of "
                "other names or sizes. Make them of the model that is attached: Canaries(model)."
            )
        if self.scores.any():
            raise AttachError(
                "These canaries were in a training already, whose scores they hold: two trainings "
                "would be held against one claim. Make new ones: Canaries(model)."
            )
        if self.gradients >= plan.examples:
            raise AttachError(
                f"The plan is for {plan.examples:,} examples, {len(self):,} canaries of an audit "
                "included, so that none are left. Make the plan with examples=len(data) + canaries."
            )
        if plan.sampling == OwnLoader.name:
            raise AttachError(
                "Canaries are drawn as the plan says, and this plan leaves the drawing to your own "
                "loader. Make the plan with another sampling, or leave out canaries."
            )
        if bound.adapts and not self.steers:
            raise AttachError(
                f"{bound!r} follows the norms in a batch, and canaries would lead it astray. Audit "
                "with Clip at the norm where it settles, or leave out canaries."
            )
        if unit.sensitivity_factor != 1:
            raise AttachError(
                f"A canary is one unit with a gradient of its own, and {type(unit).__name__} mixes "
                "units before they are bounded. Leave out canaries, or unit."
            )
        self.replaced = plan.neighbouring is Neighbouring.REPLACE

    def _place(self) -> None:
        """Which canaries lie in which parameter."""
        self._places: dict[str, _Place] = {}
        start = 0
        for name, size in self._sizes.items():
            mine = np.flatnonzero((self._where >= start) & (self._where < start + size))
            if len(mine):
                self._places[name] = _Place(
                    torch.from_numpy(mine),
                    torch.from_numpy(self._where[mine] - start).to(self._devices[name]),
                    torch.from_numpy(self._signs[mine]).float().to(self._devices[name]),
                )
            start += size

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that gradient canaries may lie in."""
        return tuple(self._sizes)

    def of_parameter(self, name: str) -> Indices:
        """Which gradient canaries lie in a parameter."""
        place = self._places.get(name)
        return np.empty(0, np.int64) if place is None else place.canaries.numpy()

    def split(self, drawn: Indices, population: int) -> tuple[Indices, Indices]:
        """Of the drawn units, those whose rows are read, and which gradient canaries joined.

        Args:
            drawn: units of the plan.
            population: how many examples the plan has.
        """
        if not len(self):
            return drawn, drawn[:0]
        rows, first = population - self.gradients, population - len(self)
        present = self.inside[np.maximum(drawn - first, 0)]
        here = drawn[(drawn < first) | present | (self.replaced & (drawn >= rows))]
        return here[here < rows], here[here >= rows] - rows

    def join(self, gradients: Gradients, joined: Indices) -> Gradients:
        """The batch's gradients, followed by those of the canaries that joined it."""
        return Joined(gradients, self._drawn(joined), len(joined)) if len(joined) else gradients

    def _drawn(self, joined: Indices) -> dict[str, _Place]:
        """The places of those that joined, counted as they joined."""
        # In the order of their parameters, so that a stream of one parameter's is of neighbours.
        mine = np.zeros(self.gradients, dtype=bool)
        mine[joined] = True
        by_parameter = [place.canaries.numpy() for place in self._places.values()]
        order = np.full(self.gradients, -1, dtype=np.int64)
        start = 0
        for each in by_parameter:
            here = each[mine[each]]
            order[here] = np.arange(start, start + len(here))
            start += len(here)
        # Of those that join and are out, another one has the place.
        sides = torch.from_numpy(np.where(self.inside[self.examples :], 1.0, -1.0)).float()
        found = {}
        for name, place in self._places.items():
            position = torch.from_numpy(order)[place.canaries]
            chosen = position >= 0
            here = chosen.to(place.coordinates.device)
            if bool(chosen.any()):
                signs = place.signs * sides[place.canaries].to(place.signs.device)
                found[name] = _Place(position[chosen], place.coordinates[here], signs[here])
        return found

    def observe(self, release: Mapping[str, Tensor], weight: float) -> None:
        """Add a release to the scores.

        Args:
            release: what the optimizer receives, by parameter.
            weight: of this release beside others; where noise or rates change, those with the
                better view count more.
        """
        self.scores += weight * self.read(release)

    def read(self, release: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """The inner product of one release with each gradient canary, `(gradients,)`."""
        found = np.zeros(self.gradients)
        for name, place in self._places.items():
            seen = release[name].detach().flatten()[place.coordinates] * place.signs
            found[place.canaries.numpy()] = seen.double().cpu().numpy()
        return found

    def state(self) -> dict[str, Any]:
        """Coins, places and scores, for a checkpoint."""
        return {
            "examples": self.examples,
            "inside": self.inside.astype(np.int64),
            "where": self._where,
            "signs": self._signs,
            "scores": self.scores,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.examples = int(state["examples"])
        self.inside = np.asarray(state["inside"]).astype(bool)
        self._where, self._signs = np.asarray(state["where"]), np.asarray(state["signs"])
        self.scores = np.array(state["scores"])
        self.gradients = len(self._where)
        self._place()


def suggested(model: nn.Module) -> int:
    """How many gradient canaries tell much and cost little: a quarter of the coordinates, to 5,000.

    Each that is in moves one coordinate by no more than one example may. What all of them together
    add to the noise is then small beside it.

    >>> suggested(nn.Linear(100, 10))
    252
    """
    return min(MOST, sum(each.numel() for each in model.parameters() if each.requires_grad) // 4)


class Joined:
    """Per-unit gradients of a batch, followed by those of gradient canaries; see `Gradients`.

    Args:
        gradients: of the batch.
        places: of the canaries that joined, by parameter.
        count: how many joined.
        keep: a mask of the canaries that count, where some do not.
    """

    def __init__(
        self,
        gradients: Gradients,
        places: Mapping[str, _Place],
        count: int,
        keep: Tensor | None = None,
    ) -> None:
        self.gradients, self._places, self._count, self._keep = gradients, places, count, keep

    @property
    def units(self) -> int:
        """How many units there are, canaries included."""
        return self.gradients.units + self._count

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Every bound parameter, by name."""
        return self.gradients.parameters

    def squared_norms(self) -> dict[str, Tensor]:
        """See `Gradients.squared_norms`."""
        of_batch = self.gradients.squared_norms()
        found = {}
        for name in of_batch.keys() | self._places.keys():
            like = self.parameters[name]
            dtype = torch.promote_types(like.dtype, torch.float32)
            mine = torch.zeros(self._count, dtype=dtype, device=like.device)
            if name in self._places:
                mine[self._places[name].canaries.to(like.device)] = NORM**2
            batch = of_batch.get(name, mine.new_zeros(self.gradients.units))
            found[name] = torch.cat([batch, self._kept(mine).to(batch)])
        return {name: found[name] for name in self.parameters if name in found}

    def norms(self) -> Tensor:
        """See `Gradients.norms`."""
        batch = self.gradients.norms()
        return torch.cat([batch, self._kept(batch.new_full((self._count,), NORM))])

    def weighted_sums(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """See `Gradients.weighted_sums`."""
        n = self.gradients.units
        of_batch: Weights = (
            weights[:n]
            if isinstance(weights, Tensor)
            else {name: each[:n] for name, each in weights.items()}
        )
        for name, total in self.gradients.weighted_sums(of_batch):
            place = self._places.get(name)
            if place is None:
                yield name, total
                continue
            of_units = weights if isinstance(weights, Tensor) else weights[name]
            of_canaries = self._kept(of_units[n:])
            chosen = of_canaries[place.canaries.to(of_canaries.device)].to(place.signs.device)
            flat = total.flatten().clone()
            flat.index_add_(0, place.coordinates, (chosen * place.signs * NORM).to(flat.dtype))
            yield name, flat.view(total.shape)

    def stream(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """See `Gradients.stream`."""
        n = self.gradients.units
        for units, of_batch in self.gradients.stream(name):
            start = units.start or 0
            yield slice(start, start + len(of_batch)), of_batch  # it may end beyond the batch
        if name not in self._places:
            return
        place, like = self._places[name], self.parameters[name]
        values = self._kept(torch.full((self._count,), NORM, device=like.device))
        first, count = int(place.canaries[0]), len(place.canaries)
        at_once = units_at_once(like.numel(), like.device)
        for start in range(0, count, at_once):
            some = slice(start, min(count, start + at_once))
            rows = slice(n + first + some.start, n + first + some.stop)
            dtype = torch.promote_types(like.dtype, torch.float32)
            dense = like.new_zeros(some.stop - some.start, like.numel(), dtype=dtype)
            signed = (values[first:][some] * place.signs[some]).to(dtype)
            dense.scatter_(1, place.coordinates[some, None], signed[:, None])
            yield rows, dense.view(-1, *like.shape)

    def only(self, keep: Tensor) -> Joined:
        """See `Gradients.only`."""
        n = self.gradients.units
        mine = keep[n:] if self._keep is None else keep[n:] & self._keep
        return Joined(self.gradients.only(keep[:n]), self._places, self._count, mine)

    def _kept(self, values: Tensor) -> Tensor:
        return (
            values if self._keep is None else torch.where(self._keep.to(values.device), values, 0)
        )
