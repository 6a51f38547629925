"""Per-unit gradients of any model: rules, capture, strategies.

`rules.py` says how each torch function's parameter gradients factor; `mode.py` sees the calls while
the user's model runs, `use.py` is one of them, and `capture.py` collects a batch's; `parameters.py`
knows whose gradients are wanted, and `calls.py` how calls are known. `recurrent.py`, `cells.py` and
`bags.py` open up layers that hide parameters. `contributions.py`, `outer.py` and `convolution.py`
turn factors into norms and sums, `strategies.py` choosing the way and `products.py` the library.
`probe.py` runs a model again to see what its rows move, leaving all else as it was
(`undisturbed.py`); `order.py` follows rows that it moves itself, and `verdicts.py` keeps what was
found. `fallback.py` serves every function without a rule.
"""

from deniable.gradients.capture import Capture
from deniable.gradients.contributions import exactly
from deniable.gradients.groups import Groups
from deniable.gradients.per_unit import PerUnitGradients

__all__ = ["Capture", "Groups", "PerUnitGradients", "exactly"]
