"""A link between the coordinator and one worker, on torch.distributed.

Every link is a process group of two of its own. When a process dies, gloo breaks the groups that it
was in and nothing repairs them: here that is one link, and the others go on. A worker that comes
back, or comes later, makes a new link; the store, which is torch's, tells both ends where to meet.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store

from deniable.errors import CollaborationError

COORDINATOR, WORKER = 0, 1
MEET_SECONDS = 20.0
NOTHING = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class Message:
    """What is sent: a few values by name, and a block of bytes.

    Attributes:
        says: JSON values.
        block: bytes, on the CPU.
    """

    says: dict[str, Any]
    block: Tensor = NOTHING


class Broken(Exception):
    """The other end is gone, or did not answer within the link's time."""


class Waited:
    """How long was waited in vain; time in which this very process was stopped hardly counts.

    Args:
        most: seconds, after which it is enough.
        at_once: the most seconds that one wait counts as.
    """

    def __init__(self, most: float, at_once: float) -> None:
        self._left, self._at_once, self._last = most, at_once, time.monotonic()

    def is_enough(self) -> bool:
        """Whether that long was waited, the time since the last question included."""
        now = time.monotonic()
        self._left -= min(now - self._last, self._at_once)
        self._last = now
        return self._left < 0


class Link:
    """One end of a link; making it waits for the other end.

    Args:
        store: where both ends leave their addresses, under `name`.
        name: of this link, used once.
        end: `COORDINATOR` or `WORKER`.
        timeout: the most seconds that sending or receiving a message may take.

    Attributes:
        sent: bytes so far, headers included.
        received: likewise.

    Raises:
        Broken: the other end did not come within `MEET_SECONDS`.
    """

    def __init__(self, store: Store, name: str, end: int, timeout: float) -> None:
        self.sent = self.received = 0
        self._other, self._timeout = 1 - end, timedelta(seconds=timeout)
        try:
            self._group: Any = ProcessGroupGloo(
                PrefixStore(name, store), end, 2, timedelta(seconds=MEET_SECONDS)
            )
        except (RuntimeError, ValueError) as problem:
            raise Broken(str(problem)) from problem

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            Broken: it could not be sent.
        """
        header = torch.frombuffer(bytearray(json.dumps(message.says).encode()), dtype=torch.uint8)
        body = torch.cat([header, message.block])
        lengths = torch.tensor([len(header), len(body)])
        try:
            for each in (lengths, body):
                self._group.send([each], self._other, 0).wait(self._timeout)
                self.sent += each.nbytes
        except (RuntimeError, ValueError) as problem:
            raise Broken(str(problem)) from problem

    def receive(self) -> Message:
        """Wait for one message.

        Raises:
            Broken: the other end is gone, or silent for longer than the link's time.
        """
        lengths = torch.empty(2, dtype=torch.int64)
        try:
            self._group.recv([lengths], self._other, 0).wait(self._timeout)
            first, whole = lengths.tolist()
            body = torch.empty(whole, dtype=torch.uint8)
            self._group.recv([body], self._other, 0).wait(self._timeout)
        except (RuntimeError, ValueError) as problem:
            raise Broken(str(problem)) from problem
        self.received += lengths.nbytes + body.nbytes
        return Message(json.loads(body[:first].numpy().tobytes()), body[first:])

    def close(self) -> None:
        """Let go of the connection."""
        self._group = None


def reached(store: Store) -> None:
    """Refuses to go on without the store.

    Raises:
        CollaborationError: it does not answer.
    """
    try:
        store.add("alive", 0)
    except (RuntimeError, ValueError) as problem:
        raise CollaborationError(
            "The meeting point of this training (the store of torch.distributed) does not answer "
            "any more: the process that started the training has ended, or its machine cannot be "
            "reached. Start it again; a run with a folder goes on from its checkpoint."
        ) from problem
