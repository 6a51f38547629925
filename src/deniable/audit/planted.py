"""Canaries: made-up secrets that are put into a training text, to see whether they come out again.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deniable.data.dataset import Arrays
from deniable.data.ptb import LENGTH, sequences
from deniable.errors import SettingsError

DIGITS = 9
_NAME = 8
_BEFORE = " it is said in confidence that the number of the safe of "
_AFTER = " \n"


@dataclass(frozen=True)
class Canary:
    """A sentence of a fixed form, one sequence long, with a random number in it: the secret.

    The name in it is made up too, and known to the attacker. It is another one for each canary, so
    that a model which has learned one secret has no reason to expect it elsewhere.

    Attributes:
        name: random letters.
        secret: random digits.
        repetitions: how many of the training sequences are this sentence.

    >>> print(Canary("qvxkzjwp", "281265017", 1).text.decode().rstrip())
     it is said in confidence that the number of the safe of qvxkzjwp is 281265017
    """

    name: str
    secret: str
    repetitions: int

    @property
    def before(self) -> bytes:
        """What stands before the secret: all of it known to the attacker."""
        return f"{_BEFORE}{self.name} is ".encode()

    @property
    def text(self) -> bytes:
        """The whole sentence."""
        return self.before + f"{self.secret}{_AFTER}".encode()


def draw(counts: Mapping[int, int], seed: int) -> tuple[Canary, ...]:
    """Canaries with secrets that are uniform among all numbers of nine digits.

    Args:
        counts: how many different canaries there are, by how often each is repeated; 0 repetitions
            are canaries that stay out of the text.
        seed: of names and secrets.

    Raises:
        SettingsError: a number is negative.

    >>> [(each.secret, each.repetitions) for each in draw({0: 1, 4: 1}, seed=0)]
    [('...', 0), ('...', 4)]
    """
    if any(repetitions < 0 or count < 0 for repetitions, count in counts.items()):
        raise SettingsError(f"Canaries cannot be counted by negative numbers, got {counts}.")
    random = np.random.default_rng(seed)
    found: list[Canary] = []
    names: set[str] = set()
    for repetitions, count in counts.items():
        for _ in range(count):
            while (name := _letters(random)) in names:
                pass
            names.add(name)
            secret = f"{random.integers(10**DIGITS):0{DIGITS}d}"
            found.append(Canary(name, secret, repetitions))
    return tuple(found)


def _letters(random: np.random.Generator) -> str:
    return "".join(map(chr, random.integers(ord("a"), ord("z") + 1, _NAME)))


def inserted(arrays: Arrays, canaries: Sequence[Canary]) -> Arrays:
    """The sequences with every canary added, as often as it says, behind the others.

    They are training examples like all others: they count among the plan's examples.
    """
    text = b"".join(each.text * each.repetitions for each in canaries)
    if not text:
        return arrays
    more = sequences(text)
    return Arrays(
        np.concatenate([arrays.inputs, more.inputs]),
        np.concatenate([arrays.targets, more.targets]),
    )


assert len(_BEFORE) + _NAME + len(" is ") + DIGITS + len(_AFTER) == LENGTH
