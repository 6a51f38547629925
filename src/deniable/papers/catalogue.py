"""Which papers there are.

Importable without torch.
"""

from deniable.papers.abadi import ABADI
from deniable.papers.amian import AMIAN
from deniable.papers.boulif_durand import BOULIF_DURAND
from deniable.papers.tf_privacy import TF_PRIVACY
from deniable.papers.threat_model import THREAT_MODEL
from deniable.papers.xia import XIA

PAPERS = (ABADI, BOULIF_DURAND, AMIAN, XIA, THREAT_MODEL, TF_PRIVACY)
