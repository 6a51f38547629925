"""Parameters in parts: which part of each sum a rank keeps, and whose noise it draws.

Replicas of a model (DDP, or the same module on every rank) hold each parameter whole; under FSDP2
(`torch.distributed.fsdp.fully_shard`) a rank holds a shard of it, and the whole exists only while
the block that it belongs to runs forward or backward. Either way a unit's rows are on one rank, so
that its norm is known there, over all parameters. What is added up across ranks are bounded sums,
one parameter after another.

Each coordinate's noise is drawn once, by one rank: of a shard by the rank that keeps it, of a
replicated parameter by rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate
from torch.nn.parallel import DistributedDataParallel

from deniable.errors import AttachError
from deniable.ranks import Ranks
from deniable.units import BoundedSum


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was called on the model or on any module in it."""
    return any(isinstance(each, FSDPModule) for each in model.modules())


def as_stored(model: nn.Module) -> None:
    """Let every shard stand in its module again: a forward may leave the whole there."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def group_of(model: nn.Module, process_group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """The ranks that train the model together: as given, DDP's, or all of them for shards."""
    if process_group is None and isinstance(model, DistributedDataParallel):
        return model.process_group
    if process_group is None and is_sharded(model):
        return dist.group.WORLD
    return process_group


def within(model: nn.Module) -> nn.Module:
    """The module whose forward is the model's own: DDP wraps it into one that is collective."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def leave_reduction(model: nn.Module) -> Callable[[], None]:
    """Keep DDP from waiting for gradients that never come; what is returned undoes that."""
    if not isinstance(model, DistributedDataParallel):
        return lambda: None
    before = model.require_backward_grad_sync
    model.require_backward_grad_sync = False

    def undo() -> None:
        model.require_backward_grad_sync = before

    return undo


class Shards:
    """The parts in which ranks hold a model's parameters.

    Args:
        model: a module; sharded by `fully_shard`, a replica on each rank, or on one process alone.
        parameters: the bound parameters, by name.
        ranks: who trains it together.

    Attributes:
        in_calls: what the model's own calls take in place of each parameter: itself, or the whole
            of which it is a shard (without memory while the block does not run).

    Raises:
        AttachError: parameters are in parts of a kind that is not known here.
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], ranks: Ranks
    ) -> None:
        self.model, self.ranks = model, ranks
        self._stored: dict[str, DTensor] = {
            name: each
            for name, each in cast(Mapping[str, Tensor], parameters).items()
            if isinstance(each, DTensor)
        }
        self.in_calls = dict(parameters)
        self._blocks: list[tuple[FSDPModule, set[str]]] = []
        for module in model.modules():
            if isinstance(module, FSDPModule):
                self._find(model, module)
        for name, part in self._stored.items():
            if _is_part(self.in_calls[name]) or part.device_mesh.size() != ranks.size:
                raise AttachError(
                    f"Parameter '{name}' is a DTensor on a mesh of {part.device_mesh.size()} ranks "
                    f"of {ranks.size}, and not one that fully_shard alone made. Shard the model "
                    "with torch.distributed.fsdp.fully_shard over all ranks; tensor parallelism is "
                    "not supported."
                )
        for each in (*model.parameters(), *model.buffers()):
            if not _is_part(each):
                ranks.from_first(each.data)

    def _find(self, model: nn.Module, module: FSDPModule) -> None:
        """Note the parameters that a module gathers before it runs."""
        known = {name for _, names in self._blocks for name in names}
        module.unshard()
        names = {
            name
            for name, each in model.named_parameters()
            if name in self._stored and name not in known and not isinstance(each, DTensor)
        }
        self.in_calls |= {name: model.get_parameter(name) for name in names}
        module.reshard()
        self._blocks.append((module, names))

    # -- what ranks do together -----------------------------------------------------------------

    @property
    def in_parts(self) -> bool:
        """Whether ranks hold different parts of the parameters, each with noise of its own."""
        return bool(self._stored)

    @property
    def in_step(self) -> bool:
        """Whether a forward is collective: no rank may run one by itself."""
        return bool(self._blocks)

    def gathered(self, wanted: Collection[Collection[str]]) -> Iterator[set[str]]:
        """The names of parameters whose values are there, block after block.

        Args:
            wanted: sets of names; blocks of which no rank wants any are left out.
        """
        if not self.in_step:
            yield set(self.in_calls)
            return
        yield set(self.in_calls) - set(self._stored)
        asked = self.ranks.each(
            [any(names.intersection(each) for each in wanted) for _, names in self._blocks]
        )
        for (module, names), needed in zip(self._blocks, asked, strict=True):
            if needed:
                module.unshard()
                yield names
                module.reshard()

    # -- sums and noise -------------------------------------------------------------------------

    def kept(self, name: str, value: Tensor) -> Tensor:
        """What this rank keeps of a sum: of a shard, that of all ranks; else its own as it is.

        Args:
            name: the parameter's.
            value: the sum over this rank's units, in the whole parameter's shape.
        """
        stored = self._stored.get(name)
        if stored is None:
            return value
        parts = [Partial()] * stored.device_mesh.ndim
        whole = DTensor.from_local(value, stored.device_mesh, parts, run_check=False)
        return whole.redistribute(placements=_before_replication(stored)).to_local()

    def release(
        self, bounded: BoundedSum, add: Callable[[BoundedSum], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The sums over all ranks with noise, once in each coordinate, as parameters are stored.

        Args:
            bounded: what `kept` returned, over a whole logical batch; sums beside the parameters'.
            add: a noise.
        """
        mine = {name: each for name, each in bounded.sums.items() if self._draws(name)}
        noisy = bounded.sums | add(BoundedSum(mine, bounded.sensitivity))
        whole = {name: each for name, each in noisy.items() if name not in self._stored}
        if self.ranks.size > 1:
            whole = self._added_up(whole)
        return {
            name: whole[name] if name in whole else self._put_back(name, each)
            for name, each in noisy.items()
        }

    def _draws(self, name: str) -> bool:
        stored = self._stored.get(name)
        if stored is None:
            return self.ranks.rank == 0
        coordinate = stored.device_mesh.get_coordinate()
        assert coordinate is not None
        return all(
            not isinstance(placement, Replicate) or k == 0
            for placement, k in zip(stored.placements, coordinate, strict=True)
        )

    def _added_up(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all ranks, sent as one."""
        if not sums:
            return sums
        dtype = torch.float64 if _any_float64(sums) else torch.float32
        flat = torch.cat([each.reshape(-1).to(dtype) for each in sums.values()])
        pieces = torch.split(self.ranks.sum_(flat), [each.numel() for each in sums.values()])
        return {
            name: piece.view(each.shape)
            for piece, (name, each) in zip(pieces, sums.items(), strict=True)
        }

    def _put_back(self, name: str, local: Tensor) -> Tensor:
        stored = self._stored[name]
        mesh, before = stored.device_mesh, _before_replication(stored)
        part = DTensor.from_local(
            local, mesh, before, run_check=False, shape=stored.shape, stride=stored.stride()
        )
        return part.redistribute(placements=stored.placements)


def _is_part(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor)


def _before_replication(stored: DTensor) -> list[Placement]:
    """The placements of a sum that is not added up across replicas yet: noise comes first."""
    return [Partial() if isinstance(each, Replicate) else each for each in stored.placements]


def _any_float64(sums: Mapping[str, Tensor]) -> bool:
    return any(each.dtype == torch.float64 for each in sums.values())
