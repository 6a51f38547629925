"""What the papers say, made again: claims as data, and experiments that run point by point.

Importable without torch.
"""

from deniable.papers.catalogue import PAPERS
from deniable.papers.claims import Claim, Experiment, Paper, Verdict
from deniable.papers.points import Attacked, Language, Named, Point, Recurrent, Training
from deniable.papers.reproduce import Chosen, Progress, choose, reproduce
from deniable.papers.results import Results

__all__ = [
    "PAPERS",
    "Attacked",
    "Chosen",
    "Claim",
    "Experiment",
    "Language",
    "Named",
    "Paper",
    "Point",
    "Progress",
    "Recurrent",
    "Results",
    "Training",
    "Verdict",
    "choose",
    "reproduce",
]
