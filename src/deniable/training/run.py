"""One run: what the loop works with, how it is saved, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from deniable import checkpoint
from deniable.accounting import nominal_spent, spent
from deniable.claim import Claim
from deniable.events import Event
from deniable.ledger import Ledger
from deniable.runfolder import RunFolder, replaced, write_json
from deniable.session import PrivateSession
from deniable.settings import Settings
from deniable.units import finite


@dataclass
class Tally:
    """Sums since the last row of the history; without noise, so never released."""

    rows: int = 0
    loss: float = 0.0
    norm: float = 0.0
    clipped: float = 0.0

    def mean(self, total: float) -> float | None:
        """A sum over rows as a mean; None when no row was drawn."""
        return total / self.rows if self.rows else None


@dataclass
class Run:
    """Everything that the loop works with.

    Attributes:
        folder: where the run is kept.
        settings: what it was told.
        record: what run.json holds.
        model: the network, on its device.
        optimizer: an ordinary torch optimizer.
        private: the session that makes it private.
        train: inputs and targets that the guarantee is about.
        test: inputs and targets that accuracy is measured on; at the end alone, if there is a part
            for validation.
        randomness: the state of torch's own generators (dropout), which is no secret.
        tally: sums since the last row of the history.
        seconds: the time in the loop so far, over all its interruptions.
        validation: inputs and targets to choose settings by, where the data have such a part.
    """

    folder: RunFolder
    settings: Settings
    record: dict[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    private: PrivateSession
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    randomness: list[Tensor]
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    validation: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.train[0].device

    @property
    def is_private(self) -> bool:
        """Whether there is any noise."""
        return self.private.plan.noise_multiplier > 0

    def event(self) -> Event:
        """What the ledger states for this run: reserved steps count as released."""
        with Ledger(self.folder.ledger_of(self.record), create=False) as ledger:
            return ledger.event(self.record["run_id"])

    def claim(self) -> Claim:
        """What the ledger proves of this run."""
        plan = self.private.plan
        with Ledger(self.folder.ledger_of(self.record), create=False) as ledger:
            contents = ledger.contents()
        return Claim.of(contents, self.record["run_id"], plan.delta, plan.accountant)

    def spent_json(self) -> dict[str, Any]:
        """What was spent, the steps and the time, as run.json has them."""
        event, plan = self.event(), self.private.plan
        claim = spent(event, plan.delta, plan.accountant)
        nominal = nominal_spent(event, plan.delta, self.record["bound"], plan.accountant)
        return {
            "epsilon": finite(claim.epsilon),
            "delta": claim.delta,
            "neighbouring": claim.neighbouring.value,
            "notes": list(claim.notes),
            "steps": self.private.steps,
            "seconds": self.seconds,
            "non_private": not claim.is_private,
            "nominal": None
            if nominal is None
            else {"epsilon": finite(nominal.epsilon), "says": nominal.notes[-1]},
        }

    def save(self, randomness: list[Tensor] | None = None) -> None:
        """Replace the checkpoint by the state after the last step, and run.json with it.

        Args:
            randomness: of torch's generators after that step, if a forward has drawn since.
        """
        checkpoint.save(
            self.folder.checkpoint,
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "private": self.private.state_dict(),
                "randomness": randomness or torch_randomness(self.device),
                "history": self.record["history"],
                "tally": asdict(self.tally),
                "seconds": self.seconds,
                "environment": self.record.get("environment"),
                "settings": self.settings.to_json(),
            },
        )
        self.folder.write(self.record)

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.private.load_state_dict(state["private"], replay=True)
        self.randomness = state["randomness"]
        self.record["history"] = state["history"]
        self.tally = Tally(**state["tally"])
        self.seconds = state["seconds"]

    def interrupt(self) -> None:
        """Stop after the last step, in order: what was reserved and not released is given back."""
        self.record["status"] = "interrupted"
        self.save()
        self.private.detach()
        self.folder.let_go()

    def finish(self) -> None:
        """Write model, claim and results, then remove the checkpoint with its secrets."""
        self.private.detach()
        weights = {
            name: value.detach().cpu().clone().contiguous()
            for name, value in self.model.state_dict().items()
        }
        claim = self.claim()  # which refuses where its ledger is another run's by now
        with replaced(self.folder.model) as file:
            file.write(safetensors.torch.save(weights))
        write_json(self.folder.claim, claim.to_json())
        if self.private.canaries is not None:
            with replaced(self.folder.canaries) as file:
                file.write(safetensors.torch.save(_tensors(self.private.canaries.state())))
        last = self.record["history"][-1]
        self.record["results"] = {
            **{name: last[name] for name in last if name.startswith(("test_", "validation_"))},
            **self.spent_json(),
        }
        self.record["status"] = "complete"
        self.folder.write(self.record)
        self.folder.remove_checkpoint()
        self.folder.let_go()

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Torch's generators are the run's inside, and what they were again outside."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self.randomness[0])
            for device, state in zip(devices, self.randomness[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(np.asarray(each)) for name, each in state.items()}


def torch_randomness(device: torch.device) -> list[Tensor]:
    """The states of the generators that a model on a device draws from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
