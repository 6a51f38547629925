"""What the processes of the tests run: importable, since every process finds it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import deniable
from deniable.collaborate import Coordinator, Place, mode_from_json
from deniable.collaborate.links import Link, Message
from deniable.plan import Plan

EXAMPLES, INPUTS, CLASSES = 60, 5, 3


def examples() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels, and who each is."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(EXAMPLES, INPUTS, generator=generator)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    return inputs, labels, torch.arange(EXAMPLES)


def small_model() -> nn.Module:
    """The same in every process, at first."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, CLASSES))


def flat(model: nn.Module) -> Tensor:
    """All parameters in a row."""
    return torch.cat([each.detach().reshape(-1) for each in model.parameters()]).clone()


def trained(
    place: Place, plan: dict[str, Any], mode: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """An ordinary loop; what it saw of parameters and batches."""
    model, data = small_model(), examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    private = deniable.collaborate(
        model, optimizer, Plan.from_json(plan), deniable.Clip(0.5), mode=mode_from_json(mode),
        place=place, **given,
    )  # fmt: skip
    met, drawn = [], []
    for inputs, labels, who in private.batches(data):
        met.append(flat(model).tolist())
        drawn.append(who.tolist())
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    found: dict[str, Any] = {"met": met, "drawn": drawn, "last": flat(model).tolist()}
    if isinstance(private, Coordinator):
        found["event"] = repr(private.session._run.released_event())
        found["epsilon"] = private.spent().epsilon
        found["sizes"] = private.sizes
        found["bytes"] = [each.bytes_up for each in private.rounds_done]
        found["claims"] = [private.claims.get(each) for each in range(private.workers)]
        found["claim"] = private.claim().to_json()
        found["merged"] = [each.workers for each in private.rounds_done]
    return found


def only_noise(
    place: Place, plan: dict[str, Any], mode: dict[str, Any], size: int
) -> list[list[float]] | None:
    """A loss without gradient: what the coordinator steps by is noise; of unit sensitivity."""
    model = nn.Linear(size, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    private = deniable.collaborate(
        model, optimizer, Plan.from_json(plan), mode=mode_from_json(mode), place=place
    )
    steps = []
    if isinstance(private, Coordinator):
        before = flat(model)
        for _ in private.rounds():
            now = flat(model)
            steps.append(((before - now) * private.session.denominator).tolist())
            before = now
        return steps
    inputs = torch.ones(private.plan.examples, size)
    for each in private.batches(inputs):
        (model(each) * 0).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return None


# -- faults ----------------------------------------------------------------------------------------


WORKERS_FAULTS = ("downloaded", "computed", "stepped", "mid-upload")


def faulty(
    place: Place, plan: dict[str, Any], mode: dict[str, Any], folder: str, given: dict[str, Any],
    fault: str, rank: int, at: int,
) -> dict[str, Any] | None:  # fmt: skip
    """As `trained`, with a note of each upload's rows; a process ends itself in its round `at`.

    It does so once: in its first life. When it is a worker, the others wait for its second.
    """
    model, data = small_model(), examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    usual = {"patience": 2.0, "absence": 30.0, "save_seconds": 0.0}
    private = deniable.collaborate(
        model, optimizer, Plan.from_json(plan), mode=mode_from_json(mode), place=place,
        folder=folder, **(usual | given),
    )  # fmt: skip
    first = not Path(folder, f"life-{place.rank}").exists()
    Path(folder, f"life-{place.rank}").touch()
    mine = fault if first and place.rank == rank else ""
    if mine == "mid-upload":
        break_uploads(at)
    if isinstance(private, Coordinator):
        return coordinated(private, data, mine, at)
    notes = os.open(
        Path(folder, f"uploads-{place.rank}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
    )
    for done, (inputs, labels, _) in enumerate(private.batches(data)):
        if not first:
            Path(folder, "back").touch()
        if done == at:
            happen(mine, "downloaded")
        if done == at + 2 and fault in WORKERS_FAULTS and place.rank != rank:
            wait_for(Path(folder, "back"))
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        if done == at:
            happen(mine, "computed")
        os.write(notes, b"%d\n" % len(inputs))
        optimizer.step()
        if done == at:
            happen(mine, "stepped")
        optimizer.zero_grad()
        time.sleep(0.02)
    return None


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Until there is such a file."""
    limit = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < limit:
        time.sleep(0.01)


def coordinated(private: Coordinator, data: Any, fault: str, at: int) -> dict[str, Any]:
    """The coordinator's part, which may end in the middle of its round `at`."""
    if fault == "recorded":
        release = private.session._release

        def recorded(piece: Any) -> None:
            if private.steps == at:
                private.session._run.release(piece.event)
                happen(fault, "recorded")
            release(piece)

        private.session._release = recorded  # type: ignore[method-assign]
    merged = []
    for done in private.rounds():
        merged.append(done.workers)
        if done.step == at:
            happen(fault, "merged")
    private.detach()
    return {"merged": merged, "steps": private.steps, "epsilon": private.spent().epsilon}


def happen(fault: str, moment: str) -> None:
    """Ends or stops this process, if that is what is to happen now."""
    if fault == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == f"stopped when {moment}":
        os.kill(os.getpid(), signal.SIGSTOP)


def break_uploads(at: int) -> None:
    """Of this process's upload number `at`, only the head leaves."""
    frames, sent = Link.frames, [0]

    def half(self: Link, message: Message) -> dict[int, torch.Tensor]:
        made = frames(self, message)
        if message.says["kind"] == "upload":
            sent[0] += 1
            if sent[0] == at + 1:
                [(tag, head), *_] = made.items()
                self.begin({tag: head})()
                os.kill(os.getpid(), signal.SIGKILL)
        return made

    Link.frames = half  # type: ignore[method-assign]
