"""The coordinator's end of its workers: one thread for each, and one queue of what they answer.

A thread that waits for a stopped worker waits alone; the coordinator waits for the queue, with a
deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from torch.distributed import Store

from deniable.collaborate.links import COORDINATOR, Broken, Frames, Link, Message

LOOK_SECONDS = 0.05
FOREVER_SECONDS = 86_400.0


class Peer:
    """One worker that joined: asked one thing at a time, it answers, or its link breaks.

    Attributes:
        slot: which part is its own; None until it said.
        ready: whether it may be asked for a round.
        asked: the round that it was asked for and has not answered; None otherwise.
        link: once it is made.
    """

    def __init__(self, store: Store, name: str, answers: SimpleQueue[Answer]) -> None:
        self.slot: int | None = None
        self.ready = False
        self.asked: int | None = None
        self.link: Link | None = None
        self._sending: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._answers = answers
        threading.Thread(target=self._serve, args=(store, name), daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether it waits to be asked."""
        return self.ready and self.asked is None

    def ask(self, message: Message) -> None:
        """Send a message, and put its answer in the queue when it comes."""
        ask([self], message)

    def _begin(self, frames: Frames) -> None:
        assert self.link is not None
        try:
            self._sending.put(self.link.begin(frames))
        except Broken as problem:
            self._answers.put((self, problem))
            self.leave()

    def leave(self) -> None:
        """End the thread, once it has nothing left to send."""
        self._sending.put(None)

    def _serve(self, store: Store, name: str) -> None:
        try:
            self.link = Link(store, name, COORDINATOR, FOREVER_SECONDS)
            self._answers.put((self, self.link.receive()))
            while (sent := self._sending.get()) is not None:
                sent()
                self._answers.put((self, self.link.receive()))
        except Broken as problem:
            self._answers.put((self, problem))
        finally:
            if self.link:
                self.link.close()


Answer = tuple[Peer, Message | Broken]


def ask(peers: Iterable[Peer], message: Message) -> None:
    """Send a message to some who have said something already; their answers go to the queue.

    It is on its way to all when this returns: whoever has it first and begins to compute may take
    the core that the others' would be sent from.
    """
    framed = [(peer, peer.link.frames(message)) for peer in peers if peer.link is not None]
    for peer, frames in framed:
        peer._begin(frames)


class Peers:
    """Everybody who joined, and what they answer.

    Args:
        store: where workers say that they come.

    Attributes:
        present: whose links are not known to be broken, by slot.
    """

    def __init__(self, store: Store) -> None:
        self.present: dict[int, Peer] = {}
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._everybody: list[Peer] = []
        self._store, self._over = _clone(store), threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def next(self, seconds: float) -> Answer | None:
        """The next answer, or None when none comes in time."""
        try:
            return self._answers.get(timeout=max(0.0, seconds))
        except Empty:
            return None

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent so far, over all links there ever were."""
        links = [each.link for each in self._everybody if each.link is not None]
        return sum(each.received for each in links), sum(each.sent for each in links)

    def close(self) -> None:
        """Take in nobody any more, and end all threads that are not waiting for their worker."""
        self._over.set()
        for peer in self.present.values():
            peer.leave()

    def _listen(self) -> None:
        """Makes a link for everybody who says that they come; who was here before may be gone."""
        try:
            while not self._over.wait(LOOK_SECONDS):
                come = self._store.add("joins", 0)
                while self._store.add("answered", 0) < come:
                    number = self._store.add("answered", 1)
                    peer = Peer(_clone(self._store), f"link/{number}", self._answers)
                    self._everybody.append(peer)
        except (RuntimeError, ValueError):
            return  # the store is gone: who is here stays, nobody comes any more


def _clone(store: Store) -> Store:
    """A connection of its own: waiting on one keeps everybody else who uses it waiting."""
    found: Store = store.clone()  # type: ignore[attr-defined]
    return found
