"""A run folder turned into one page that a stranger can read: `report.html`.

The page is a pure function of `run.json` and the run's ledger. It loads nothing from anywhere, and
its epsilon is computed again from the ledger. Importable without torch.
"""

from deniable.report.page import render

__all__ = ["render"]
