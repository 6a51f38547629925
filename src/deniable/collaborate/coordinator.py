"""The coordinator: it holds the global model, merges what workers send, computes no gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import Store

from deniable import words
from deniable.bounds import Bound
from deniable.collaborate import parts
from deniable.collaborate.links import Broken, Message, Waited
from deniable.collaborate.packing import packed
from deniable.collaborate.peers import Peer, Peers, ask
from deniable.collaborate.sessions import Merges
from deniable.collaborate.uploads import opened
from deniable.errors import CollaborationError
from deniable.events import PoissonSampledEvent
from deniable.modes import Local, Mode, Shares
from deniable.plan import Plan
from deniable.rows import examples_in

SAVE_SHARE = 0.02  # of the time
AHEAD_SECONDS = 0.25
GOODBYE_SECONDS = 5.0


@dataclass(frozen=True)
class Round:
    """What became of one round.

    Attributes:
        step: how many steps are released after it.
        workers: whose uploads were merged.
        missing: who was asked and did not answer in time.
        seconds: from asking to stepping.
        bytes_up: that workers sent in it.
        bytes_down: that were sent to them.
    """

    step: int
    workers: tuple[int, ...]
    missing: tuple[int, ...]
    seconds: float
    bytes_up: int
    bytes_down: int


class Coordinator:
    """Asks all workers for a round, merges what they send, and steps; made by `collaborate`.

    A worker that is killed leaves its round; one that stops or is slow is waited for `patience`
    seconds, and asked again when it has answered; one that joins is asked from the next round on.
    In the central mode, leaving a worker's sum out removes units from the release, which only
    lessens what it tells of them. The noise is not lessened.

    Attributes:
        steps: how many steps were released.
        sizes: how many units each worker's part holds, once that is known.
        rounds_done: what became of each round of this process.
        claims: what each worker's own ledger proves, by worker, as it said at the end.
    """

    is_coordinator = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        session: Merges,
        mode: Mode,
        workers: int,
        store: Store,
        *,
        sizes: Sequence[int] | None,
        save: Callable[[], None],
        save_seconds: float,
        patience: float,
        absence: float,
    ) -> None:
        self.session, self.mode, self.workers = session, mode, workers
        self.sizes = None if sizes is None else list(sizes)
        self.rounds_done: list[Round] = []
        self.claims: dict[int, dict[str, Any]] = {}
        self._model, self._optimizer = model, optimizer
        self._save, self._save_seconds = save, save_seconds
        self._patience, self._absence = patience, absence
        self._last_saved, self._save_cost = -math.inf, 0.0
        self._waiting: dict[int, tuple[Peer, float]] = {}  # for sizes: their speeds
        self._newest: dict[int, int] = {}
        self._spent_up: set[int] = set()
        self._asked = 0
        self._like = dict(session.parameters)
        self._store = store
        self._peers = Peers(store)

    # -- what it says of itself -----------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many steps were released."""
        return self.session.steps

    def spent(self) -> Any:
        """What has been released so far, as (epsilon, delta); in `Local`, the most of any part."""
        return self.session.spent()

    def claim(self) -> Any:
        """What the coordinator's ledger proves; in `Local`, that no part costs more."""
        return self.session.claim()

    def claims_of_workers(self) -> list[dict[str, Any]]:
        """Each worker's part, and the epsilon that its own ledger proves, where it has one."""
        return [
            {
                "worker": slot,
                "units": None if self.sizes is None else self.sizes[slot],
                "epsilon": (self.claims.get(slot) or {}).get("epsilon"),
                "delta": (self.claims.get(slot) or {}).get("delta"),
            }
            for slot in range(self.workers)
        ]

    # -- the loop -------------------------------------------------------------------------------

    def batches(self, data: Any = None, rows: int | None = None) -> Iterator[Any]:
        """Runs all rounds and yields nothing: the loop around it is for the workers.

        Args:
            data: the whole data set where there is one here; the ledger then knows it again.
            rows: of no use here.

        Raises:
            CollaborationError: nobody worked for `absence` seconds.
            BudgetError: as in `attach`.
        """
        if data is not None and examples_in(data) == self.session.plan.examples:
            self.session.recognise(data)
        for _ in self.rounds():
            pass
        yield from ()

    def rounds(self) -> Iterator[Round]:
        """Round after round, until plan or budget end; leaving it ends the workers too.

        Raises:
            CollaborationError: nobody worked for `absence` seconds; everything is saved.
        """
        reason = "interrupted"
        try:
            while self.session.steps < self.session.ends_at:
                done = self._round()
                if done is None:
                    continue
                self.rounds_done.append(done)
                yield done
            reason = "complete"
        finally:
            self._say_goodbye(reason)

    def save(self) -> None:
        """Replace the checkpoint by the state after the last step."""
        started = time.monotonic()
        self._save()
        self._last_saved = time.monotonic()
        self._save_cost = self._last_saved - started

    def detach(self) -> None:
        """Give model and optimizer back; what was reserved and not released is settled."""
        self.session.detach()

    # -- one round ------------------------------------------------------------------------------

    def _round(self) -> Round | None:
        """One round; None when nothing of it arrived."""
        self._await_somebody()
        if self._asked == 0:
            self.session.at_once = 1
            self.save()  # before the first release there is something to go on from
        if isinstance(self.mode, Local):
            self.session.prepare()  # before anything leaves a worker
        started, (up, down) = time.monotonic(), self._peers.traffic()
        self._asked += 1
        asked = {slot: peer for slot, peer in self._peers.present.items() if peer.idle}
        message = Message(
            {"kind": "round", "round": self._asked, "step": self.steps,
             "bound": self.session.bound.state()},
            packed(list(self._like.values())),
        )  # fmt: skip
        for peer in asked.values():
            peer.asked = self._asked
        ask(asked.values(), message)
        self.session.prepare(self._release_of(len(asked))[0])
        self.session.draw_ahead()
        self._save_if_due()
        found = self._collect(asked, started + self._patience)
        missing = tuple(slot for slot in asked if slot not in found)
        if not found:
            if isinstance(self.mode, Local):
                self.session.count_lost()
            return None
        self._merge(dict(sorted(found.items())))
        all_up, all_down = self._peers.traffic()
        # A crash costs what is recorded ahead: no more than was done in a quarter of a second.
        self.session.at_once = max(1, int(AHEAD_SECONDS / (time.monotonic() - started)))
        return Round(
            self.session.steps,
            tuple(sorted(found)),
            missing,
            time.monotonic() - started,
            all_up - up,
            all_down - down,
        )

    def _collect(self, asked: Mapping[int, Peer], deadline: float) -> dict[int, dict[str, Tensor]]:
        """The uploads of this round that arrive before the deadline."""
        found: dict[int, dict[str, Tensor]] = {}
        while any(peer.asked == self._asked for peer in asked.values()):
            arrived = self._peers.next(deadline - time.monotonic())
            if arrived is None:
                break
            peer, answer = arrived
            upload = self._take(peer, answer)
            if upload is not None and peer.slot is not None:
                found[peer.slot] = upload
        return found

    def _take(self, peer: Peer, answer: Message | Broken) -> dict[str, Tensor] | None:
        """Deals with one answer; what it returns is an upload for the round that is on."""
        if isinstance(answer, Broken):
            self._lose(peer)
            return None
        match answer.says["kind"]:
            case "hello":
                self._greet(peer, answer.says)
            case "ready":
                peer.ready = True
            case "bye":
                self._spent_up.add(answer.says["worker"])
                self.claims[answer.says["worker"]] = answer.says["claim"]
                self._lose(peer)
            case "upload":
                is_now = peer.asked == answer.says["round"] == self._asked
                peer.asked = None
                if is_now:
                    return opened(answer, self._like)
        return None

    def _merge(self, found: dict[int, dict[str, Tensor]]) -> None:
        """Sums the uploads in the order of the workers, in the first's memory, and releases it."""
        sums, *others = found.values()
        for upload in others:
            for name, value in upload.items():
                if name in sums:
                    sums[name] += value
                else:
                    sums[name] = value
        device = next(iter(self._like.values())).device
        sums = {name: value.to(device) for name, value in sums.items()}
        event, inside = self._release_of(len(found))
        self.session.merge(sums, event, inside)

    def _release_of(self, present: int) -> tuple[PoissonSampledEvent, float]:
        """What the merged sum is, and the noise multiplier that is in it already."""
        event = self.session.next_event
        noise = event.event.noise_multiplier
        match self.mode:
            case Shares():
                inside = noise * self.mode.share(self.workers) * math.sqrt(present)
                inner = replace(event.event, noise_multiplier=max(noise, inside))
                # Rounding must not make noise of the plan's own size into another event.
                whole = event if math.isclose(inside, noise) else replace(event, event=inner)
                return whole, min(inside, whole.event.noise_multiplier)
            case Local():
                return event, noise
        return event, 0.0

    # -- who is there ---------------------------------------------------------------------------

    def _await_somebody(self) -> None:
        """Until everybody is there at first, and anybody later.

        Raises:
            CollaborationError: nobody came in time.
        """
        waited = Waited(self._absence, 2.0)
        first = time.monotonic() + self._patience
        while not self._everybody() and (
            self._asked == 0 or not any(each.idle for each in self._peers.present.values())
        ):
            now = time.monotonic()
            some = any(each.idle for each in self._peers.present.values())
            if self._asked == 0 and now >= first and self.sizes is None and self._waiting:
                self._share_out()
            if some and now >= first:
                return
            if waited.is_enough():
                raise CollaborationError(self._nobody())
            until = first - now if now < first else 1.0
            arrived = self._peers.next(min(until, 1.0))
            if arrived is not None:
                self._take(*arrived)
            if len(self._spent_up) == self.workers:
                raise CollaborationError(self._nobody())

    def _everybody(self) -> bool:
        there = self._peers.present
        return len(there) == self.workers and all(each.idle for each in there.values())

    def _nobody(self) -> str:
        if len(self._spent_up) == self.workers:
            return (
                f"Every worker has spent its own budget, after step {self.session.steps:,} of "
                f"{self.session.plan.steps:,}: the model is that of the last step."
            )
        return (
            f"No worker was there for {words.duration(self._absence)}, after step "
            f"{self.session.steps:,} of {self.session.plan.steps:,}. The state is saved; start the "
            "workers again, or the whole training, and it goes on from there."
        )

    def _greet(self, peer: Peer, says: Mapping[str, Any]) -> None:
        """Gives a worker its part, or says why it cannot work here."""
        slot = says["worker"]
        why = self._why_not(says)
        if why:
            peer.ask(Message({"kind": "refused", "why": why}))
            peer.leave()
            return
        before = self._peers.present.pop(slot, None)
        if before is not None:
            before.leave()
        self._newest[slot] = says["life"]
        peer.slot = slot
        self._peers.present[slot] = peer
        if self.sizes is not None:
            self._welcome(peer)
            return
        self._waiting[slot] = (peer, says["speed"])
        if len(self._waiting) == self.workers:
            self._share_out()

    def _why_not(self, says: Mapping[str, Any]) -> str | None:
        slot, mine = says["worker"], self.terms()
        if not 0 <= slot < self.workers:
            return f"there are {self.workers} workers, counted from 0, and this one is {slot}"
        if says["life"] < self._newest.get(slot, -1):
            return f"another process took the place of worker {slot}"
        if slot in self._spent_up:
            return f"worker {slot} has spent its own budget"
        different = [name for name in mine if says["terms"].get(name) != mine[name]]
        if different:
            return (
                f"it was started with another {' and '.join(different)} than the coordinator; "
                "start all processes with the same script and settings"
            )
        return None

    def terms(self) -> dict[str, Any]:
        """What worker and coordinator must agree on."""
        session = self.session
        return terms(session.plan, session.bound, self.mode, session.parameters)

    def _share_out(self) -> None:
        """Sizes parts by the speeds of those who are there; who is not counts as the average."""
        speeds = [speed for _, speed in self._waiting.values()]
        usual = sum(speeds) / len(speeds)
        self.sizes = parts.sizes_by(
            [
                self._waiting[slot][1] if slot in self._waiting else usual
                for slot in range(self.workers)
            ],
            self.session.plan.examples,
        )
        for peer, _ in self._waiting.values():
            self._welcome(peer)
        self._waiting.clear()

    def _welcome(self, peer: Peer) -> None:
        state = [each for each in self._model.state_dict().values() if isinstance(each, Tensor)]
        says = {
            "kind": "welcome",
            "sizes": self.sizes,
            "run_id": self.session.run_id,
            "opening": self.session.opening,
        }
        peer.ask(Message(says, packed(state)))

    def _lose(self, peer: Peer) -> None:
        """Its link is broken: it may come back by another."""
        peer.ready, peer.asked = False, None
        peer.leave()
        if peer.slot is not None and self._peers.present.get(peer.slot) is peer:
            del self._peers.present[peer.slot]
            self._waiting.pop(peer.slot, None)

    def _say_goodbye(self, reason: str) -> None:
        """Tells everybody that it is over, and hears what their ledgers prove."""
        with suppress(RuntimeError, ValueError):  # the store may be gone before us
            self._store.set("over", reason)
        for peer in self._peers.present.values():
            peer.ask(Message({"kind": "end", "reason": reason}))
        limit = time.monotonic() + GOODBYE_SECONDS
        while self._peers.present:
            arrived = self._peers.next(limit - time.monotonic())
            if arrived is None:
                break
            self._take(*arrived)
        self._peers.close()

    # -- bookkeeping ----------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        """Saves while workers compute, and for a small share of the time."""
        since = time.monotonic() - self._last_saved
        if since >= min(self._save_seconds, self._save_cost / SAVE_SHARE):
            self.save()


def terms(plan: Plan, bound: Bound, mode: Mode, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """What worker and coordinator must agree on, as JSON values."""
    return {
        "plan": plan.to_json(),
        "bound": bound.settings(),
        "mode": mode.to_json(),
        "model": [[name, list(each.shape)] for name, each in parameters.items()],
    }
