"""When a session may go on from a saved state: what must agree, and which noise is used already.

Noise may be drawn again only where the same release is made again, bit for bit. A ledger in a file
knows of every process that released steps after a state; without one, this process knows of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deniable.errors import CheckpointError
from deniable.ledger import RunLedger
from deniable.ranks import Ranks

STATE_VERSION = 5

_USED: dict[str, int] = {}
"""How many steps this process has released from each stream of randomness, in whichever session."""


def check_unused(stream: str, step: int) -> None:
    """Refuse to release a step whose noise was used by a session that nobody promised to repeat.

    Args:
        stream: the name that the run's ledger has for the noise.
        step: counted from 0.

    Raises:
        CheckpointError: it was released in this process.
    """
    if step < _USED.get(stream, 0):
        raise CheckpointError(
            "Another session in this process was loaded from the same saved state, and released "
            f"step {step} with the noise that is due here. If model, optimizer, data and code are "
            "exactly those of that session, load the state with replay=True. Otherwise go on with "
            "fresh noise (go_on): the same noise must never meet other gradients."
        )


def note_used(stream: str, step: int) -> None:
    """From here on, this process has released a step from a stream."""
    _USED[stream] = max(_USED.get(stream, 0), step + 1)


def released_from(stream: str, run: RunLedger) -> int:
    """How many steps are known to be released: by the ledger, or of a stream by this process."""
    return max(run.reserved, _USED.get(stream, 0))


def check_settings(state: Mapping[str, Any], mine: Mapping[str, Any], run_id: str) -> None:
    """Refuse a state of other settings, or of another run.

    Raises:
        CheckpointError: what differs, or that it is no state at all.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"A saved state is what state_dict() returned, got {state!r}.")
    for name, value in mine.items():
        if state.get(name) != value:
            mend = "Attach with the settings of the saved run."
            if name == "version":
                mend = "Use the deniable that saved it, or go on without it: go_on()."
            raise CheckpointError(
                f"The saved state has {name} = {state.get(name)!r}, this session {value!r}. {mend}"
            )
    if state["run_id"] != run_id:
        raise CheckpointError(
            f"The saved state is of run {state['run_id']!r}, this session of {run_id!r}. "
            f"Attach with run_id={state['run_id']!r} and the ledger of that run."
        )


def check_rank(state: Mapping[str, Any], ranks: Ranks, *, in_parts: bool) -> None:
    """Refuse a state whose noise is another rank's.

    Ranks that hold shards draw noise each for its own; of replicas rank 0 alone draws, and what
    another saved does not know how much.

    Args:
        state: the saved one.
        ranks: who trains the model.
        in_parts: whether they hold it in shards.

    Raises:
        CheckpointError: whose it is.
    """
    rank, size = state.get("rank", [0, 1])
    if in_parts and [rank, size] != [ranks.rank, ranks.size]:
        raise CheckpointError(
            f"The saved state is that of rank {rank} of {size}, and this is rank {ranks.rank} of "
            f"{ranks.size}: each rank draws the noise of its own shard, and another's would be "
            "used twice. Save and load state_dict() on every rank; with another number of ranks, "
            "go on with fresh noise: go_on()."
        )
    if rank not in (0, ranks.rank):
        raise CheckpointError(
            f"The saved state is that of rank {rank}, and this is rank {ranks.rank}: of replicas "
            "rank 0 alone draws noise, so that only its state knows how much is used. Load the "
            "state that rank 0 saved."
        )


def check_recorded(state: Mapping[str, Any], run: RunLedger) -> None:
    """Refuse a state of more steps than the ledger counts.

    Raises:
        CheckpointError: its releases are recorded elsewhere.
    """
    if state["steps"] > run.reserved:
        raise CheckpointError(
            f"The saved state has {state['steps']} steps, the ledger counts {run.reserved}: it is "
            "not the ledger that the run was recorded in. Use the one that lies beside the "
            "checkpoint."
        )


def check_repeats(
    state: Mapping[str, Any], run: RunLedger, *, replay: bool, own_loader: bool
) -> None:
    """Refuse a state after which steps were released that would not be repeated.

    Args:
        state: the saved one.
        run: what is recorded.
        replay: the promise to repeat them bit for bit.
        own_loader: batches come from a loader that nobody can make repeat them.

    Raises:
        CheckpointError: such steps are known.
    """
    steps, stream = state["steps"], state["stream"]
    departs = run.departs(stream, steps)
    if departs is not None:
        raise CheckpointError(
            f"The ledger counts steps from {departs} on as released with other noise than that "
            f"of the saved state, which has {steps} steps: the run went on afresh since. To "
            "release them with its noise would be to release them again. Load a state that "
            "was saved since then, or go on with fresh noise: go_on(state)."
        )
    released = released_from(stream, run)
    who = "The ledger" if run.reserved == released else "This process"
    if released > steps and own_loader:
        raise CheckpointError(
            f"{who} counts {released} steps as released, the saved state {steps}, "
            "and which batches your own loader gave in between is not saved: the same noise "
            "would meet other gradients. Start a new run from the saved model; both are spent."
        )
    if released > steps and not replay:
        raise CheckpointError(
            f"{who} counts {released} steps as released, the saved state {steps}. "
            "If model, optimizer, data and code are exactly those of the saved run, pass "
            "replay=True: the steps in between are repeated bit for bit and cost nothing. "
            "Otherwise go on after them with fresh noise, go_on(state): the same noise must never "
            "meet other gradients."
        )
