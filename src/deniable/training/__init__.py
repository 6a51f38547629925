"""The loop that `deniable train` runs, with checkpoints that a killed run goes on from."""

from deniable.training.loop import Moment, evaluate, fit
from deniable.training.run import Run
from deniable.training.start import begin, resume

__all__ = ["Moment", "Run", "begin", "evaluate", "fit", "resume"]
