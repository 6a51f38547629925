"""What a ledger proves, in a form to publish, and to check against the ledger again.

Importable without torch.
"""

from deniable.claim.claim import FALSE_POSITIVE_RATES, Claim, planned_delta
from deniable.claim.verification import Difference, read_claim, verify

__all__ = [
    "FALSE_POSITIVE_RATES",
    "Claim",
    "Difference",
    "planned_delta",
    "read_claim",
    "verify",
]
