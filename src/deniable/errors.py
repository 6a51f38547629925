"""Every error that deniable raises on purpose.

```
DeniableError
├── PlanError             (ValueError)   a plan that contradicts itself or cannot be solved
├── AccountingError       (ValueError)   events that cannot be turned into (epsilon, delta)
│   └── UnknownEventError                an event that this accountant does not know: refused
├── LedgerError           (RuntimeError) a ledger that cannot be read, written or trusted
│   └── BudgetError                      a release that a budget, or a ledger's closing, forbids
├── DataError             (ValueError)   a data set that is absent, cut off, swapped or corrupted
├── AttachError           (ValueError)   a model or optimizer that cannot be made private
├── CaptureError          (RuntimeError) a gradient that no per-unit rule saw (contract 1)
├── StepError             (RuntimeError) a loop that breaks the order batch, backward, step
├── CheckpointError       (RuntimeError) a saved state that cannot be resumed
├── CollaborationError    (RuntimeError) workers or a coordinator that cannot be reached any more
└── SettingsError         (ValueError)   a command or a run folder with settings that do not fit
```

Each message says what was expected, what came, and what to do. What is no error, and most likely
not what was meant, is a `DeniableWarning` (UserWarning).
"""


class DeniableError(Exception):
    """The root: `except DeniableError` catches everything raised on purpose."""


class PlanError(DeniableError, ValueError):
    """A plan that contradicts itself or cannot be solved."""


class AccountingError(DeniableError, ValueError):
    """Events that cannot be turned into (epsilon, delta)."""


class UnknownEventError(AccountingError):
    """An event that the accountant does not know; it is refused, never ignored."""


class LedgerError(DeniableError, RuntimeError):
    """A ledger that cannot be read, written or trusted."""


class BudgetError(LedgerError):
    """A release that a budget, or a ledger's closing, forbids; nothing of it was recorded."""


class DataError(DeniableError, ValueError):
    """A data set that is absent, cut off, swapped or corrupted."""


class AttachError(DeniableError, ValueError):
    """A model or optimizer that cannot be made private as it is."""


class CaptureError(DeniableError, RuntimeError):
    """A gradient reached a parameter by a path that the per-unit rules did not see."""


class StepError(DeniableError, RuntimeError):
    """A training loop that breaks the order of batch, backward, step."""


class CheckpointError(DeniableError, RuntimeError):
    """A saved state that cannot be resumed."""


class CollaborationError(DeniableError, RuntimeError):
    """Workers or a coordinator that cannot be reached, or that follow another plan."""


class SettingsError(DeniableError, ValueError):
    """A command or a run folder with settings that do not fit together."""


class DeniableWarning(UserWarning):
    """Something that is allowed, and most likely not what was meant."""
