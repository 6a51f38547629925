"""Train PyTorch models with differential privacy, and prove what is claimed.

```
plan = deniable.Plan(examples=60_000, batch_size=256, epochs=15, epsilon=3.0, delta=1e-5)
private = deniable.attach(model, optimizer, plan, bound=deniable.Clip(1.0))
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deniable.batchnorm import replace_batchnorm
    from deniable.bounds import (
        AdaptiveClip,
        AutomaticClip,
        Bound,
        Chain,
        Clip,
        PerLayerClip,
        Tanh,
    )
    from deniable.canaries import Canaries
    from deniable.claim import Claim
    from deniable.collaborate import Central, Local, Shares, collaborate
    from deniable.errors import DeniableError
    from deniable.grouping import Augmented, Example, Microbatch, Unit, User
    from deniable.isolation import Checked, check
    from deniable.ledger import Ledger
    from deniable.optimizers import AdamBC
    from deniable.pca import PrivatePCA, PublicPCA
    from deniable.plan import Plan, Schedule
    from deniable.session import PrivateSession, attach
    from deniable.units import Neighbouring, Spent

__version__ = "0.1.0"

# Loaded on first use, so that what needs no torch (plans, ledgers, reports) never imports it.
_HOME = {
    name: module
    for module, names in {
        "batchnorm": "replace_batchnorm",
        "bounds": "AdaptiveClip AutomaticClip Bound Chain Clip PerLayerClip Tanh",
        "canaries": "Canaries",
        "claim": "Claim",
        "collaborate": "Central Local Shares collaborate",
        "errors": "DeniableError",
        "grouping": "Augmented Example Microbatch Unit User",
        "isolation": "Checked check",
        "ledger": "Ledger",
        "optimizers": "AdamBC",
        "pca": "PrivatePCA PublicPCA",
        "plan": "Plan Schedule",
        "session": "PrivateSession attach",
        "units": "Neighbouring Spent",
    }.items()
    for name in names.split()
}

__all__ = [
    "AdamBC",
    "AdaptiveClip",
    "Augmented",
    "AutomaticClip",
    "Bound",
    "Canaries",
    "Central",
    "Chain",
    "Checked",
    "Claim",
    "Clip",
    "DeniableError",
    "Example",
    "Ledger",
    "Local",
    "Microbatch",
    "Neighbouring",
    "PerLayerClip",
    "Plan",
    "PrivatePCA",
    "PrivateSession",
    "PublicPCA",
    "Schedule",
    "Shares",
    "Spent",
    "Tanh",
    "Unit",
    "User",
    "attach",
    "check",
    "collaborate",
    "replace_batchnorm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'deniable' has no attribute {name!r}")
    module = import_module(f"deniable.{_HOME[name]}")
    # `collaborate` is a package and a function: the package can be called.
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value
