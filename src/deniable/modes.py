"""Who adds how much noise, and what is then guaranteed against whom.

Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from deniable.errors import SettingsError


@dataclass(frozen=True)
class Central:
    """Clipped sums reach the coordinator, which adds the noise once.

    The release, its event and its epsilon are those of one process with the whole data set: each
    worker draws its units independently at the plan's rate, and a union of Poisson samples of
    disjoint parts is a Poisson sample of the whole.

    Guaranteed against: everybody who sees the model, at any step. Not against the coordinator, nor
    against who listens to its links.
    """

    name: ClassVar[str] = "central"
    guarantee: ClassVar[str] = (
        "The coordinator and the links to it are trusted: sums reach it without noise. Epsilon "
        "holds against everybody else, other workers included."
    )

    def to_json(self) -> dict[str, Any]:
        """Name and settings, as JSON values."""
        return {"name": self.name}


@dataclass(frozen=True)
class Shares:
    """Every worker adds an independent share of the noise, and the shares add up to it.

    With `n` workers and `k = survives`, each share is `N(0, sigma^2 C^2 / (n - k))`: the sum of any
    `n - k` of them has the plan's noise (Dwork et al., 2006, "Our Data, Ourselves", section 3). So
    the release keeps its guarantee when up to k workers are gone, or pool what they know of their
    own shares. What fewer than `n - k` shares lack, the coordinator adds.

    Guaranteed against: everybody who sees the model; a coalition of j workers, at the noise that
    remains when their shares are subtracted, `sigma^2 - j sigma^2 / (n - k)` of what the ledger
    states; the coordinator, which sees every upload by itself, at one share.

    Args:
        survives: k, from 0 on and below the number of workers. 0 is the plan's noise exactly once;
            n - 1 is as much noise a worker as in `Local`.

    Raises:
        SettingsError: k is negative.
    """

    survives: int = 0

    name: ClassVar[str] = "shares"
    guarantee: ClassVar[str] = (
        "Every worker adds a share of the noise. Epsilon holds against who sees the model; the "
        "coordinator, and workers that pool their shares, see less noise: their epsilons stand "
        "beside it."
    )

    def __post_init__(self) -> None:
        if not self.survives >= 0:
            raise SettingsError(f"survives must be at least 0, got {self.survives!r}.")

    def share(self, workers: int) -> float:
        """The standard deviation of one share, as a part of the plan's.

        Raises:
            SettingsError: nobody is left when so many workers are gone.

        >>> Shares().share(4), Shares(survives=3).share(4)
        (0.5, 1.0)
        """
        if not self.survives < workers:
            raise SettingsError(
                f"survives must be below the number of workers, {workers}, got {self.survives}."
            )
        return 1 / math.sqrt(workers - self.survives)

    def to_json(self) -> dict[str, Any]:
        """Name and settings, as JSON values."""
        return {"name": self.name} | asdict(self)


@dataclass(frozen=True)
class Local:
    """Every worker adds the whole noise to its own sum before it leaves.

    Each worker is an ordinary private run on its own part, with its own rate, ledger and epsilon.
    Parts are disjoint, so that all of them together cost their maximum (parallel composition;
    Xia et al., section III.C, equation 9). The noise of n workers adds up: the merged sum has
    `n sigma^2 C^2`.

    Guaranteed against: everybody, the coordinator and the other workers included.

    With `upload` below 1, a worker sends that share of the coordinates alone, those of largest
    size ("selective gradient", ibid.). Choosing among noisy values is post-processing and costs
    nothing. With `carry`, what was not sent is added to the next release before choosing.

    Args:
        upload: the share of coordinates that is sent, above 0 and up to 1.
        carry: whether what was left out is carried to the next round.

    Raises:
        SettingsError: the share is out of range, or everything is sent and nothing left to carry.
    """

    upload: float = 1.0
    carry: bool = False

    name: ClassVar[str] = "local"
    guarantee: ClassVar[str] = (
        "Every worker adds all of its noise before anything leaves it. Epsilon holds against "
        "everybody, the coordinator included; parts are disjoint, so the largest epsilon of all "
        "workers holds for all."
    )

    def __post_init__(self) -> None:
        if not 0 < self.upload <= 1:
            raise SettingsError(f"upload must lie above 0 and up to 1, got {self.upload!r}.")
        if self.carry and self.upload == 1:
            raise SettingsError(
                "carry keeps what was not uploaded, but upload=1 sends everything. Leave carry "
                "out, or upload less."
            )

    def to_json(self) -> dict[str, Any]:
        """Name and settings, as JSON values."""
        return {"name": self.name} | asdict(self)


Mode = Central | Shares | Local
MODES: dict[str, type[Mode]] = {each.name: each for each in (Central, Shares, Local)}


def mode_from_json(values: Mapping[str, Any]) -> Mode:
    """The mode that `to_json` wrote.

    Raises:
        SettingsError: there is no such mode, or a setting is not its own.

    >>> mode_from_json(Local(upload=0.1).to_json())
    Local(upload=0.1, carry=False)
    """
    given = dict(values)
    name = given.pop("name", None)
    if name not in MODES:
        raise SettingsError(f"No mode is called {name!r}. Choose one of {', '.join(MODES)}.")
    try:
        return MODES[name](**given)
    except TypeError as problem:
        raise SettingsError(
            f"The mode {name} has no setting of that name: {problem}. upload and carry are for "
            "local, survives for shares."
        ) from problem
