"""Ctrl-C and SIGTERM: as a request that the loop answers at the end of a step, or as one likes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]


@dataclass
class Stop:
    """Whether someone asked to stop."""

    asked: bool = False


@contextmanager
def stop_when_asked() -> Iterator[Stop]:
    """Turns the first Ctrl-C (or SIGTERM) into `asked`; a second one interrupts at once.

    Signals belong to the main thread: in any other, nobody can ask.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    with handled(ask):
        yield stop


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Both signals are the handler's, until they are given back."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before: dict[signal.Signals, Any] = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier)
