"""A little made-up text, so that language models can be tried in seconds and without a download."""

from __future__ import annotations

import numpy as np

from deniable.data.ptb import LENGTH

_WHO = ("the bank", "a broker", "the company", "an analyst", "the fund", "a trader", "the ministry")
_DOES = ("sold", "bought", "expects", "reported", "rejected", "announced", "lost")
_WHAT = ("shares", "bonds", "a loss", "higher profits", "a takeover", "N million dollars", "losses")
_WHEN = ("yesterday", "last year", "in october", "after the crash", "this week", "at N a share")


def text(sequences: int, seed: int) -> bytes:
    """Sentences that say who did what and when, at random: so many sequences of them.

    >>> len(text(3, seed=0)), text(3, seed=0)[:1]
    (240, b' ')
    """
    random = np.random.default_rng(seed)
    made = ""
    while len(made) < sequences * LENGTH:
        said = (str(random.choice(words)) for words in (_WHO, _DOES, _WHAT, _WHEN))
        made += " " + " ".join(said) + " \n"
    return made[: sequences * LENGTH].encode()
