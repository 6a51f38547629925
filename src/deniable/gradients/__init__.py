"""Per-unit gradients of any model: rules, capture, strategies.

`rules.py` says how each torch function's parameter gradients factor; `capture.py` sees the calls
while the user's model runs; `contributions.py`, `outer.py` and `convolution.py` turn factors into
norms and sums, `strategies.py` choosing the way; `probe.py` finds the batch dimension where shapes
do not tell; `fallback.py` serves every function without a rule.
"""

from deniable.gradients.capture import Capture
from deniable.gradients.contributions import exactly
from deniable.gradients.groups import Groups
from deniable.gradients.per_unit import PerUnitGradients

__all__ = ["Capture", "Groups", "PerUnitGradients", "exactly"]
