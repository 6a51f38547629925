"""Which papers there are.

Importable without torch.
"""

from deniable.papers.abadi import ABADI
from deniable.papers.amian import AMIAN
from deniable.papers.boulif_durand import BOULIF_DURAND
from deniable.papers.threat_model import THREAT_MODEL

PAPERS = (ABADI, BOULIF_DURAND, AMIAN, THREAT_MODEL)
