"""The append-only record of what was released: durable before a release takes effect.

A run reserves a block of steps durably and then releases them one by one, so that a process killed
at any instant leaves a ledger that overstates and never understates. Rows are only ever added:

- an *opening* says that a process took a run over; only the latest opening of a run may reserve,
- a *reserve* entry says that steps `start` to `stop` of the run count as released as one event,
- a *settle* entry says that its own opening released nothing from step `start` on.

A step that is reserved twice as the same event counts once: a process that replays it after a crash
repeats the same release, bit for bit. Reserved as different events, it counts as each of them.

Importable without torch.
"""

from deniable.ledger.book import Ledger, RunRecord
from deniable.ledger.run import RunLedger

__all__ = ["Ledger", "RunLedger", "RunRecord"]
