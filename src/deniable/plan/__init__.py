"""The frozen plan: what will be released, how often, and what that will cost.

Noise and batch size may change over training, by a `Schedule`; `Drawing` makes a plan's steps.
"""

from deniable.plan.drawing import Draw, Drawing
from deniable.plan.plan import Plan
from deniable.plan.schedule import Phase, Schedule

__all__ = ["Draw", "Drawing", "Phase", "Plan", "Schedule"]
