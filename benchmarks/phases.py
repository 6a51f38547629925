"""Where the time of deniable's step goes, phase by phase, beside plain PyTorch's."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.candidates import Loop, Setting, deniable_loop, plain_loop
from benchmarks.measure import WARM_UP, synchronize
from deniable.gradients.use import Use
from deniable.noise import Gaussian
from deniable.session import PrivateSession

FORWARD, BACKWARD, OPTIMIZER = "forward and loss", "backward", "optimizer"
BATCH, NORMS, NOISE, RELEASE = "drawing the batch", "norms and sums", "noise", "ledger and release"
ORDER = (BATCH, FORWARD, BACKWARD, NORMS, NOISE, RELEASE, OPTIMIZER)

# What deniable does within the user's `backward()` and `step()`. Whatever a phase runs inside
# another counts for the inner one alone.
_INNER: tuple[tuple[type, str, str], ...] = (
    (Use, "receive", NORMS),
    (PrivateSession, "_finish_piece", NORMS),
    (PrivateSession, "_release", RELEASE),
    (Gaussian, "add", NOISE),
)


class Clock:
    """Seconds by phase; on a GPU it waits for the device wherever a phase begins or ends."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._turn()
        self._inside.append(name)
        try:
            yield
        finally:
            self._turn()
            self._inside.pop()

    def _turn(self) -> None:
        """Credit the time since the last turn to the innermost phase."""
        synchronize(self.device)
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def watching(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return watched


def phases(setting: Setting, seconds: float = 3.0) -> dict[str, Any]:
    """Milliseconds by phase, medians over steps, of plain PyTorch and deniable in turns.

    Returns:
        `plain` and `deniable`: milliseconds by phase. `floor`: what private training cannot do
        without, as a ratio to plain: the plain step and a draw of noise for every weight.
    """
    clock = Clock(setting.device)
    with watched_inside(clock):
        loops = {"plain": plain_loop(setting), "deniable": deniable_loop(setting)[0]}
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
        started = time.perf_counter()
        for turn in range(10**6):
            if turn >= WARM_UP + 3 and time.perf_counter() - started > seconds:
                break
            for name, loop in loops.items():
                loop.run()
                taken[name].append(one_step(loop, clock))
    found = {name: _medians(steps[WARM_UP:]) for name, steps in taken.items()}
    plain = sum(found["plain"].values())
    return {**found, "floor": (plain + found["deniable"].get(NOISE, 0.0)) / plain}


@contextmanager
def watched_inside(clock: Clock) -> Iterator[None]:
    """While this lasts, deniable's own parts are phases of the clock."""
    with ExitStack() as stack:
        for owner, name, phase in _INNER:
            original = getattr(owner, name)
            setattr(owner, name, clock.watching(original, phase))
            stack.callback(setattr, owner, name, original)
        yield


def one_step(loop: Loop, clock: Clock) -> dict[str, float]:
    """Seconds by phase of one step."""
    clock.seconds.clear()
    with clock.phase(BATCH):
        inputs, labels = next(loop.batches)
    with clock.phase(FORWARD):
        loss = loop.loss(loop.model(inputs), labels)
    with clock.phase(BACKWARD):
        loss.backward()  # type: ignore[no-untyped-call]
    with clock.phase(OPTIMIZER):
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    return dict(clock.seconds)


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {
        phase: 1000 * statistics.median(step[phase] for step in steps)
        for phase in ORDER
        if all(phase in step for step in steps)
    }
