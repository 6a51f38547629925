"""A worker: it computes on its own part, and uploads to the coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import Store

from deniable import words
from deniable.bounds import Bound
from deniable.claim import Claim
from deniable.collaborate import parts
from deniable.collaborate.coordinator import terms
from deniable.collaborate.links import MEET_SECONDS, WORKER, Broken, Link, Message, Waited
from deniable.collaborate.packing import unpacked
from deniable.collaborate.sessions import HandsOver
from deniable.collaborate.uploads import Upload
from deniable.eligibility import bound_parameters
from deniable.errors import CollaborationError
from deniable.modes import Central, Local, Mode
from deniable.plan import Plan
from deniable.session import PrivateSession
from deniable.units import BoundedSum, Spent

RETRY_SECONDS = 0.2
UNDRAWN, OVER = object(), object()
AHEAD = 4  # steps that are recorded at once, and that a crash costs at most

MakeSession = Callable[[Sequence[int], str, str], PrivateSession]
"""Makes the worker's session from the sizes of all parts, the run's name, and a label that no other
life of this worker has."""


class Worker:
    """Downloads, computes a bounded sum on its own part, uploads; made by `collaborate`.

    `optimizer.step()` uploads and changes nothing here: the next batch comes with the parameters
    that the coordinator has made of it.

    Attributes:
        worker: which one this is, counted from 0.
        rounds_done: how many uploads were made.
    """

    is_coordinator = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        bound: Bound,
        mode: Mode,
        worker: int,
        store: Store,
        make: MakeSession,
        *,
        speed: float,
        silence: float,
        absence: float,
    ) -> None:
        self.worker, self.plan, self.mode, self.rounds_done = worker, plan, mode, 0
        self._model, self._optimizer, self._bound = model, optimizer, bound
        self._parameters = bound_parameters(model, optimizer)
        self._terms = terms(plan, bound, mode, self._parameters)
        self._store, self._make = store, make
        self._speed, self._silence, self._absence = speed, silence, absence
        self._life = store.add(f"life/{worker}", 1)
        self._session: PrivateSession | None = None
        self._sizes: list[int] | None = None
        self._link: Link | None = None
        self._owed: Message | None = None
        self._round = self._step = 0
        self._drawn: Iterator[Any] | None = None
        self._ahead: Any = UNDRAWN
        upload = (mode.upload, mode.carry) if isinstance(mode, Local) else ()
        self._upload = Upload(*upload)
        self._hook: Any = None

    # -- what it says of itself -----------------------------------------------------------------

    @property
    def session(self) -> PrivateSession:
        """The session on this worker's part, once the coordinator has said which that is.

        Raises:
            CollaborationError: it has not yet.
        """
        if self._session is None:
            raise CollaborationError(
                "This worker has no part yet: it is given one when `for ... in private.batches` "
                "begins."
            )
        return self._session

    @property
    def steps(self) -> int:
        """How many uploads this worker's session has made."""
        return self.session.steps

    @property
    def members(self) -> parts.Indices:
        """The units of this worker's part."""
        if self._sizes is None:
            return np.empty(0, np.int64)
        return parts.members(self._sizes, self.worker)

    def spent(self) -> Spent:
        """What this worker released, as (epsilon, delta).

        Raises:
            CollaborationError: in `Central`, where the coordinator releases.
        """
        return self._own().spent()

    def claim(self) -> Claim:
        """What this worker's own ledger proves.

        Raises:
            CollaborationError: in `Central`, where the coordinator has the ledger.
        """
        return self._own().claim()

    def _own(self) -> PrivateSession:
        if isinstance(self.session, HandsOver):
            raise CollaborationError(
                "In the central mode a worker releases nothing: the coordinator adds the noise and "
                "has the ledger. Ask there."
            )
        return self.session

    # -- the loop -------------------------------------------------------------------------------

    def batches(self, data: Any, rows: int | None = None) -> Iterator[Any]:
        """The batches to compute on, each after a download of the global parameters.

        Args:
            data: the whole data set, or this worker's part alone.
            rows: the most rows in memory at once, as in `PrivateSession.batches`.

        Yields:
            What one reading of the data yields; batches may be empty.

        Raises:
            CollaborationError: the coordinator was not there for `absence` seconds, or refused.
        """
        self._drawn, self._ahead = None, UNDRAWN
        while self._download():
            drawn = self._following(data, rows)
            made, batch, self._ahead = self.rounds_done, self._ahead, UNDRAWN
            while batch is not OVER:
                yield batch
                if self.rounds_done > made:
                    break
                batch = next(drawn, OVER)
            else:
                self._bye()
                return

    def backward(self, losses: Tensor) -> None:
        """Backward for a vector of one loss per row, as in `PrivateSession.backward`."""
        self.session.backward(losses)

    def detach(self) -> None:
        """Give model and optimizer back, and leave the training."""
        if self._hook is not None:
            self._hook.remove()
        if self._session is not None:
            self._session.detach()
        self._drop()

    # -- one round ------------------------------------------------------------------------------

    def _download(self) -> bool:
        """Send what is owed, wait to be asked, and take over the parameters; False at the end."""
        waited = Waited(self._absence, MEET_SECONDS + 1)
        while True:
            if self._link is None:
                if self._store_says_over():
                    return False
                self._join(waited)
                continue
            try:
                owed, self._owed = self._owed, None
                if owed is not None:
                    sent = self._link.begin(self._link.frames(owed))
                    self._link.expect()
                    self._draw_ahead()
                    self._prepare()
                    sent()
                message = self._link.receive()
            except Broken:
                self._drop()
                continue
            waited = Waited(self._absence, MEET_SECONDS + 1)
            match message.says["kind"]:
                case "round":
                    self._take_over(message)
                    return True
                case "welcome":
                    self._settle_in(message)
                case "end":
                    self._bye()
                    return False
                case "refused":
                    raise CollaborationError(
                        f"The coordinator refused worker {self.worker}: {message.says['why']}."
                    )

    def _following(self, data: Any, rows: int | None) -> Iterator[Any]:
        """The pass that the round's batch is of, which was read ahead, or is now.

        What was read ahead may be of another step than the round's: one was missed, or is asked for
        again. Where the plan has other batches for it, a new pass begins there.
        """
        drawn = self._drawn or self._begun(data, rows)
        self._draw_ahead()
        if isinstance(self._session, HandsOver) and not self._session.is_for(self._step):
            drawn = self._begun(data, rows)
            self._draw_ahead()
        return drawn

    def _begun(self, data: Any, rows: int | None) -> Iterator[Any]:
        if isinstance(self._session, HandsOver):
            self._session.expect(self._step)
        self._drawn, self._ahead = self.session.batches(data, rows=rows), UNDRAWN
        return self._drawn

    def _draw_ahead(self) -> None:
        """Read the next batch, where that was not done: while others compute, it costs no time."""
        if self._drawn is not None and self._ahead is UNDRAWN:
            self._ahead = next(self._drawn, OVER)

    def _take_over(self, message: Message) -> None:
        self._round, self._step = message.says["round"], message.says["step"]
        with torch.no_grad():
            values = unpacked(message.block, self._parameters)
            torch._foreach_copy_(list(self._parameters.values()), list(values.values()))
        if isinstance(self.mode, Central):
            self.session.bound.restore(message.says["bound"])

    def _settle_in(self, message: Message) -> None:
        """Take the part, and everything of the model that is not trained."""
        sizes = [int(each) for each in message.says["sizes"]]
        if self._sizes not in (None, sizes):
            raise CollaborationError(
                f"The parts were of sizes {self._sizes} and are now {sizes}: this is another "
                "training. Start all its processes again."
            )
        state = {
            name: each for name, each in self._model.state_dict().items()
            if isinstance(each, Tensor)
        }  # fmt: skip
        with torch.no_grad():
            for name, value in unpacked(message.block, state).items():
                state[name].copy_(value)
        if self._session is None:
            self._sizes = sizes
            label = f"{message.says['opening']}/{self._life}"
            self._session = self._make(sizes, message.says["run_id"], label)
            self._session.at_once = AHEAD
            if isinstance(self._session, HandsOver):
                self._session.hand_over = self._hand_over
            else:
                self._hook = self._optimizer.register_step_pre_hook(self._take_release)
        self._owed = Message({"kind": "ready", "worker": self.worker})

    def _hand_over(self, bounded: BoundedSum) -> None:
        self._owe(bounded.sums)

    def _take_release(self, *_: Any) -> None:
        """After the session's own hook: what it released goes to the coordinator, not to a step."""
        found = {name: each.grad for name, each in self._parameters.items()}
        if any(each is None for each in found.values()):
            return  # a piece of a larger batch
        by = self.session.denominator
        self._owe({name: each * by for name, each in found.items() if each is not None})
        for parameter in self._parameters.values():
            parameter.grad = None

    def _owe(self, sums: Mapping[str, Tensor]) -> None:
        self._owed = self._upload.of(sums, self._round)
        self.rounds_done += 1

    def _prepare(self) -> None:
        """While others compute: the record of what this worker releases next."""
        if self._session is not None and not isinstance(self._session, HandsOver):
            self._session.prepare()

    # -- coming and going -----------------------------------------------------------------------

    def _join(self, waited: Waited) -> None:
        """Ask for a link until there is one.

        Raises:
            CollaborationError: nobody answers.
        """
        if waited.is_enough():
            raise CollaborationError(
                f"Worker {self.worker} reached no coordinator for "
                f"{words.duration(self._absence)}. What it uploaded is on record; start it again "
                "when there is a coordinator."
            )
        try:
            number = self._store.add("joins", 1)
            link = Link(self._store, f"link/{number}", WORKER, self._silence)
            hello = {"kind": "hello", "worker": self.worker, "life": self._life,
                     "speed": self._speed, "terms": self._terms}  # fmt: skip
            link.send(Message(hello))
        except Broken:
            time.sleep(RETRY_SECONDS)
            return
        except (RuntimeError, ValueError) as problem:
            raise CollaborationError(
                f"Worker {self.worker} cannot reach the meeting point of the training any more "
                f"({problem}): the process that started it has ended. Start the training again."
            ) from problem
        self._link, self._owed = link, None

    def _bye(self) -> None:
        """Settle, and tell the coordinator what this worker's ledger proves."""
        if self._link is None or self._session is None:
            return
        says: dict[str, Any] = {"kind": "bye", "worker": self.worker, "claim": None}
        if not isinstance(self._session, HandsOver):
            says["claim"] = self._session.claim().to_json()
        with suppress(Broken):
            self._link.send(Message(says))
        self._drop()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None

    def _store_says_over(self) -> bool:
        try:
            return bool(self._store.check(["over"]))
        except (RuntimeError, ValueError) as problem:
            raise CollaborationError(
                "The meeting point of the training cannot be reached any more: the process that "
                "started it has ended."
            ) from problem
