"""Where the time of deniable's step goes, phase by phase, beside plain PyTorch's."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.candidates import Choices, Loop, Setting, deniable_loop, plain_loop
from benchmarks.measure import CACHED_SECONDS, synchronize
from deniable.gradients.per_unit import PerUnitGradients
from deniable.gradients.use import Use
from deniable.noise import Gaussian
from deniable.open_batch import OpenBatch
from deniable.session import PrivateSession

BATCH, FORWARD, INPUTS = "drawing the batch", "forward and loss", "input gradients"
NORMS, SUMS, BOUND = "per-unit norms", "weight gradients", "bound"
NOISE, RELEASE, OPTIMIZER = "noise", "ledger and release", "optimizer"
ORDER = (BATCH, FORWARD, INPUTS, NORMS, SUMS, BOUND, NOISE, RELEASE, OPTIMIZER)

# What deniable does within the user's `backward()` and `step()`. Whatever a phase runs inside
# another counts for the inner one alone, so "bound" is what is left of it without its sums.
_INNER: tuple[tuple[type, str, str], ...] = (
    (Use, "receive", NORMS),
    (PerUnitGradients, "_one_sum", SUMS),
    (OpenBatch, "add", BOUND),
    (PrivateSession, "_release", RELEASE),
    (Gaussian, "add", NOISE),
)
_WARM_UP, _LEAST = 1, 5


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


def phases(
    setting: Setting, seconds: float = 3.0, choices: Choices | None = None
) -> dict[str, Any]:
    """Milliseconds by phase, medians over steps, of plain PyTorch and deniable in turns.

    Plain's backward is divided by a third loop, the plain one with frozen weights: what that takes
    are the input gradients, and the rest of plain's backward are the weight gradients.

    Args:
        setting: what is trained.
        seconds: how long to go on.
        choices: deniable's strategies; None: chosen anew.

    Returns:
        `plain` and `deniable`: milliseconds by phase. `reading`: milliseconds to read every layer's
        input and output once, which is the least that norms can take. `floor`: plain's step, a draw
        of noise for every weight, and that reading, as a ratio to plain's step.
    """
    clock = Clock(setting.device)
    with watched_inside(clock):
        loops = {
            "plain": plain_loop(setting),
            "frozen": frozen_loop(setting),
            "deniable": deniable_loop(setting, choices)[0],
        }
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
        started = time.perf_counter()
        while len(taken["plain"]) < _WARM_UP + _LEAST or time.perf_counter() - started < seconds:
            for name, loop in loops.items():
                if not taken[name] or sum(taken[name][-1].values()) < CACHED_SECONDS:
                    loop.run()  # not noted: the loop before has left its own data in the caches
                taken[name].append(one_step(loop, clock))
    found = {name: _medians(steps[_WARM_UP:]) for name, steps in taken.items()}
    plain, private = found["plain"], found["deniable"]
    backward = plain[INPUTS]
    plain[INPUTS] = min(backward, found["frozen"][INPUTS])
    plain[SUMS] = backward - plain[INPUTS]
    whole, reading = sum(plain.values()), 1000 * reading_seconds(setting)
    return {
        "plain": plain,
        "deniable": private,
        "reading": reading,
        "floor": (whole + private.get(NOISE, 0.0) + reading) / whole,
    }


def frozen_loop(setting: Setting) -> Loop:
    """The plain loop without weight gradients, down to the first layer that has weights."""
    loop = plain_loop(setting)
    loop.model.requires_grad_(False)
    first = next(each for each in loop.model.modules() if _has_weights(each))
    if isinstance(first, nn.RNNBase):  # its own backward through time is no weight gradient
        first.register_forward_pre_hook(lambda _, inputs: (inputs[0].requires_grad_(),))
    else:
        first.register_forward_hook(lambda _, inputs, output: output.requires_grad_())
    return loop


def reading_seconds(setting: Setting, repeats: int = 5) -> float:
    """Seconds to take one norm a row of the inputs and outputs of all layers with weights."""
    loop = plain_loop(setting)
    tensors: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        met = [*inputs, *(output if isinstance(output, tuple) else (output,))]
        floating = [each for each in met if isinstance(each, Tensor) and each.is_floating_point()]
        tensors.extend(each.detach().flatten(1).contiguous() for each in floating)

    for module in loop.model.modules():
        if _has_weights(module):
            module.register_forward_hook(keep)
    with torch.no_grad():
        loop.model(next(loop.batches)[0])
    clock = Clock(setting.device)
    taken = []
    for _ in range(repeats):
        clock.seconds.clear()
        with clock.phase(NORMS):
            for each in tensors:
                torch.linalg.vector_norm(each, dim=1)
        taken.append(clock.seconds[NORMS])
    return statistics.median(taken)


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
    """Seconds by phase of one step; of plain, all of backward counts for the input gradients."""
    clock.seconds.clear()
    with clock.phase(BATCH):
        inputs, labels = next(loop.batches)
    with clock.phase(FORWARD):
        loss = loop.loss(loop.model(inputs), labels)
    with clock.phase(INPUTS):
        loss.backward()  # type: ignore[no-untyped-call]
    with clock.phase(OPTIMIZER):
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    return dict(clock.seconds)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {
        phase: 1000 * statistics.median(step[phase] for step in steps)
        for phase in ORDER
        if all(phase in step for step in steps)
    }
