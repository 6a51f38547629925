"""The processes that train one model together, and what they must agree on.

Everything here is collective: every rank makes the same calls in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

import deniable.errors
from deniable.errors import AttachError, DeniableError

Result = TypeVar("Result")


class Ranks:
    """A process group in which all ranks trust each other, or one process alone.

    Args:
        group: of `torch.distributed`; None for one process alone.
        device: of the tensors that are sent.

    Attributes:
        rank: this process's number, from 0.
        size: how many processes there are.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, device: torch.device | None = None
    ) -> None:
        self.group, self._device = group, device or torch.device("cpu")
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def any(self, mine: bool) -> bool:
        """Whether any rank says so."""
        return self.each([mine])[0]

    def each(self, mine: list[bool]) -> list[bool]:
        """For each of several questions, whether any rank says so."""
        if self.size == 1 or not mine:
            return mine
        flags = torch.tensor(mine, dtype=torch.int32, device=self._device)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.group)
        return [bool(each) for each in flags.tolist()]

    def sum_(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place: the same bits on each of them."""
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def from_first(self, value: Tensor) -> Tensor:
        """Rank 0's values, in place."""
        if self.size > 1:
            dist.broadcast(value, group=self.group, group_src=0)
        return value

    def first_says(self, mine: bytes) -> bytes:
        """What rank 0 says."""
        if self.size == 1:
            return mine
        length = self.from_first(torch.tensor([len(mine)], device=self._device))
        content = torch.zeros(int(length), dtype=torch.uint8, device=self._device)
        if self.rank == 0 and mine:
            content.copy_(torch.frombuffer(bytearray(mine), dtype=torch.uint8))
        return bytes(self.from_first(content).tolist())

    def first(self, act: Callable[[], Result]) -> Result:
        """Act on rank 0, then on all others: not at all where it failed on rank 0.

        Raises:
            DeniableError: as on rank 0, on all ranks.
        """
        if self.size == 1:
            return act()
        if self.rank == 0:
            try:
                result = act()
            except BaseException as problem:
                self.first_says(f"{type(problem).__name__}\n{problem}".encode())
                raise
            self.first_says(b"")
            return result
        kind, _, message = self.first_says(b"").decode().partition("\n")
        if kind:
            error = getattr(deniable.errors, kind, DeniableError)
            raise error(f"On rank 0: {message}")
        return act()

    def first_alone(self, act: Callable[[], None]) -> None:
        """Act on rank 0, and wait for it: what fails there is an error on all.

        Raises:
            DeniableError: as on rank 0.
        """
        self.first(act if self.rank == 0 else lambda: None)

    def unanimous(self, check: Callable[[], object]) -> None:
        """Check on every rank: what one refuses is an error on all of them.

        Raises:
            DeniableError: as here; or that another rank refused.
        """
        problem: DeniableError | None = None
        try:
            check()
        except DeniableError as refused:
            problem = refused
        if self.any(problem is not None):
            raise problem or DeniableError("Another rank refused: its message says why.")

    def alike(self, what: str, mine: str) -> None:
        """Refuse what differs between ranks.

        Raises:
            AttachError: on all ranks, if any differs from rank 0.
        """
        theirs = self.first_says(hashlib.sha256(mine.encode()).digest())
        if self.any(theirs != hashlib.sha256(mine.encode()).digest()):
            raise AttachError(
                f"All ranks must have the same {what}, and one differs from rank 0. Run the same "
                "script with the same settings on each of them."
            )
