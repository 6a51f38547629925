"""The append-only record of what was released: durable before a release takes effect.

A run reserves a block of steps durably and then releases them one by one, so that a process killed
at any instant leaves a ledger that overstates and never understates. Rows are only ever added:

- an *opening* says that a process took a run over; only the latest opening of a run may reserve,
- a *reserve* entry says that steps `start` to `stop` of the run count as released as one event,
  from the randomness that it names,
- a *settle* entry says that its own opening released nothing from step `start` on,
- a *budget* entry limits what everything together may cost, and a *close* entry ends spending; what
  they forbid is refused while the file is locked, so that no two processes can overspend together.

Every entry carries a hash of itself and of the hash before it. Whoever changes, removes or reorders
entries breaks that chain, which each opening of the file checks. Cutting off the end, or writing
the whole file anew, breaks no chain: a claim, which quotes the last hash, shows that.

A step that is reserved twice as the same event counts once: a process that replays it after a crash
repeats the same release, bit for bit. Reserved as different events, it counts as each of them. From
other randomness it would be another release: a run does not go back to before a step of such.

Importable without torch.
"""

from deniable.ledger.book import Ledger
from deniable.ledger.budget import Budget
from deniable.ledger.contents import Contents, RunRecord
from deniable.ledger.run import RunLedger

__all__ = ["Budget", "Contents", "Ledger", "RunLedger", "RunRecord"]
