"""A link between the coordinator and one worker, on torch.distributed.

Every link is a process group of two of its own. When a process dies, gloo breaks the groups that it
was in and nothing repairs them: here that is one link, and the others go on. A worker that comes
back, or comes later, makes a new link; the store, which is torch's, tells both ends where to meet.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, Store

COORDINATOR, WORKER = 0, 1
MEET_SECONDS = 20.0
NOTHING = torch.empty(0, dtype=torch.uint8)
HEAD = 256  # bytes: two lengths and, where it fits, what is said
_LENGTHS = struct.Struct("<qq")
_FIRST, _SAYS, _REST = range(3)  # tags
Frames = dict[int, Tensor]


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

    A message is a head of fixed size and a block. Where one is expected, memory lies ready that has
    room for the head and a block as long as the last one in that direction: what fits arrives at
    once, without another word, and the rest after it.

    Args:
        store: where both ends leave their addresses, under `name`.
        name: of this link, used once.
        end: `COORDINATOR` or `WORKER`.
        timeout: the most seconds that sending or receiving a message may take.

    Attributes:
        sent: bytes so far, heads included.
        received: likewise.

    Raises:
        Broken: the other end did not come within `MEET_SECONDS`.
    """

    def __init__(self, store: Store, name: str, end: int, timeout: float) -> None:
        self.sent = self.received = 0
        self._other, self._timeout = 1 - end, timedelta(seconds=timeout)
        self._room_out = self._room_in = HEAD  # bytes that lie ready for a message, at both ends
        self._expected: dict[int, tuple[Tensor, Any]] = {}
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
        self.begin(self.frames(message))()

    def frames(self, message: Message) -> Frames:
        """What a message is sent as, by tag, if it is the next to be sent."""
        says, block = json.dumps(message.says).encode(), message.block
        fits = block[: self._room_out - HEAD]
        head, short = _LENGTHS.pack(len(says), len(block)), len(says) <= HEAD - _LENGTHS.size
        # Padded, so that nothing leaves that happened to lie in memory.
        head = (head + says if short else head).ljust(HEAD, b"\0")
        first = torch.empty(HEAD + len(fits), dtype=torch.uint8)
        first[:HEAD] = _bytes(head)
        first[HEAD:] = fits
        frames = {_FIRST: first}
        if not short:
            frames[_SAYS] = _bytes(says)
        if len(block) > len(fits):
            frames[_REST] = block[len(fits) :]
        return frames

    def begin(self, frames: Frames) -> Callable[[], None]:
        """Begin to send a message, which does not wait for the other end.

        Returns:
            What waits until it is sent; raises `Broken` where it could not be.

        Raises:
            Broken: the other end is known to be gone.
        """
        group = self._open()
        with _broken():
            sending = [group.send([each], self._other, tag) for tag, each in frames.items()]
        rest = frames.get(_REST, NOTHING)
        self._room_out = _room(len(frames[_FIRST]) + len(rest), self._room_out)

        def wait() -> None:
            with _broken():
                for work, frame in zip(sending, frames.values(), strict=True):
                    work.wait(self._timeout)
                    self.sent += frame.nbytes

        return wait

    def expect(self) -> None:
        """Make memory ready for the next message, so that it can arrive while others work here.

        Raises:
            Broken: the other end is known to be gone.
        """
        self._expect(_FIRST, self._room_in)

    def receive(self) -> Message:
        """Wait for one message.

        Raises:
            Broken: the other end is gone, or silent for longer than the link's time.
        """
        self.expect()
        first = self._arrived(_FIRST)
        head = first[:HEAD].numpy().tobytes()
        said, size = _LENGTHS.unpack_from(head)
        fits = min(size, self._room_in - HEAD)
        self.received += HEAD + fits
        says, block = head[_LENGTHS.size :][:said], first[HEAD : HEAD + fits]
        if said > len(says):
            self._expect(_SAYS, said)
            says = self._arrived(_SAYS).numpy().tobytes()
            self.received += said
        if size > fits:
            self._expect(_REST, size - fits)
            block = torch.cat([block, self._arrived(_REST)])
            self.received += size - fits
        self._room_in = _room(HEAD + size, self._room_in)
        return Message(json.loads(says), block)

    def _expect(self, tag: int, size: int) -> None:
        if tag not in self._expected:
            frame, group = torch.empty(size, dtype=torch.uint8), self._open()
            with _broken():
                self._expected[tag] = frame, group.recv([frame], self._other, tag)

    def _arrived(self, tag: int) -> Tensor:
        frame, work = self._expected[tag]
        with _broken():
            work.wait(self._timeout)
        del self._expected[tag]
        return frame

    def _open(self) -> Any:
        """The connection; another thread may have let go of it."""
        group = self._group
        if group is None:
            raise Broken("this end has let go of the link")
        return group

    def close(self) -> None:
        """Let go of the connection."""
        self._group = None


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _room(length: int, before: int) -> int:
    """What lies ready after a message of such a length; one without a block changes nothing."""
    return length if length > HEAD else before


@contextmanager
def _broken() -> Iterator[None]:
    """What gloo says of a broken connection, as `Broken`."""
    try:
        yield
    except (RuntimeError, ValueError) as problem:
        raise Broken(str(problem)) from problem
