"""Data sets by name, checked byte by byte: from a folder, or downloaded once.

Importable without torch.
"""

from deniable.data.catalogue import NAMES, class_names, load
from deniable.data.dataset import Arrays, Dataset
from deniable.data.download import Progress
from deniable.data.fingerprint import fingerprint

__all__ = ["NAMES", "Arrays", "Dataset", "Progress", "class_names", "fingerprint", "load"]
