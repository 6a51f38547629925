"""Two network namespaces, joined by a wire that loses packets.

Each has a TUN device; this process carries packets from one to the other, and drops some at random.
TCP on both sides notices and sends them again, as on any bad network. Needs root and iproute2.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import selectors
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
NAMES = ("here", "there")
WIRE = "wire"
T = TypeVar("T")


class LossyNetwork:
    """The two namespaces, while they last.

    Args:
        name: of this network, which the namespaces' names begin with.
        loss: the probability that a packet is dropped.
        seed: who is dropped.

    Attributes:
        carried: packets that arrived.
        dropped: packets that did not.
    """

    def __init__(self, name: str, loss: float, seed: int) -> None:
        self.name, self.loss = name, loss
        self.carried = self.dropped = 0
        self._random = random.Random(seed)
        self._over = threading.Event()

    def address(self, side: int) -> str:
        """Of the namespace's own end of the wire."""
        return f"10.77.0.{side + 1}"

    def namespace(self, side: int) -> str:
        """The namespace's name."""
        return f"{self.name}-{NAMES[side]}"

    def __enter__(self) -> Self:
        self._ends = [self._open(side) for side in (0, 1)]
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)
        for side in (0, 1):
            subprocess.run(["ip", "netns", "del", self.namespace(side)], check=True)

    def _open(self, side: int) -> int:
        """A namespace with a TUN device in it; the device's other end is here."""
        where = self.namespace(side)
        subprocess.run(["ip", "netns", "add", where], check=True)
        end = in_namespace(where, lambda: _tun(WIRE))
        for command in (
            "ip link set lo up",
            f"ip addr add {self.address(side)}/24 dev {WIRE}",
            f"ip link set {WIRE} mtu 1400 up",
        ):
            subprocess.run(["ip", "netns", "exec", where, *command.split()], check=True)
        return end

    def _carry(self) -> None:
        with selectors.DefaultSelector() as ready:
            for side in (0, 1):
                ready.register(self._ends[side], selectors.EVENT_READ, self._ends[1 - side])
            while not self._over.is_set():
                for key, _ in ready.select(timeout=0.2):
                    packet = os.read(key.fd, 65536)
                    if self._random.random() < self.loss:
                        self.dropped += 1
                        continue
                    self.carried += 1
                    os.write(key.data, packet)


def in_namespace(name: str, act: Callable[[], T]) -> T:
    """What a call returns that is made in a network namespace.

    In a thread of its own: a namespace is a thread's, and what is opened in it stays in it.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(join_namespace, name).result()
        return thread.submit(act).result()


def join_namespace(name: str) -> None:
    """Move this thread, and what it starts, into a network namespace.

    Raises:
        OSError: it cannot.
    """
    with Path("/run/netns", name).open() as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)


def _tun(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end
