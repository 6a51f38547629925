"""From released events to (epsilon, delta), and back to the noise or the steps that reach a target.

Importable without torch; dp-accounting, which does the mathematics, is imported on first use.
"""

from deniable.accounting.accountants import ACCOUNTANTS, STATED, Accountant, spent
from deniable.accounting.calibrate import most_for, noise_multiplier_for, steps_for
from deniable.accounting.composition import (
    AmplifiedAccountant,
    BasicAccountant,
    StrongAccountant,
)
from deniable.accounting.curve import privacy_curve
from deniable.accounting.meter import Meter
from deniable.accounting.moments import MomentsAccountant
from deniable.accounting.nominal import nominal_event, nominal_spent
from deniable.accounting.pld import PldAccountant
from deniable.accounting.rdp import RdpAccountant
from deniable.accounting.search import Search

__all__ = [
    "ACCOUNTANTS",
    "STATED",
    "Accountant",
    "AmplifiedAccountant",
    "BasicAccountant",
    "Meter",
    "MomentsAccountant",
    "PldAccountant",
    "RdpAccountant",
    "Search",
    "StrongAccountant",
    "most_for",
    "noise_multiplier_for",
    "nominal_event",
    "nominal_spent",
    "privacy_curve",
    "spent",
    "steps_for",
]
