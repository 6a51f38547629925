"""What audits found, beside what was claimed: a value that becomes audit.json.

Importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deniable.audit.estimators import LowerBound
from deniable.units import finite

CONFIDENCE = 0.95  # of one finding, taken alone
TOGETHER = 0.99  # of all findings of an audit together: what a gate goes by
VERSION = 1


@dataclass(frozen=True)
class Finding:
    """What one test found.

    Attributes:
        name: what was tested, in a few words.
        claim: the epsilon that is claimed of it, at the bound's delta.
        bound: the largest epsilon that is refuted at `CONFIDENCE`, taken alone; None for a test
            that asks another question than how large epsilon is.
        surely: the same at a confidence which holds for all findings together.
        holds: whether the claim stands: `surely` is not above it, or nothing else was refuted.
        says: what was done and what came out, in a sentence or two.
        kind: "one step", "whole run" or "sampling", to group findings by.
    """

    name: str
    kind: str
    claim: float | None
    bound: LowerBound | None
    surely: float | None
    holds: bool
    says: str

    @classmethod
    def measured(
        cls,
        name: str,
        kind: str,
        claim: float,
        measure: Callable[[float], LowerBound],
        tests: int,
        says: Callable[[LowerBound], str],
    ) -> Finding:
        """A lower bound beside a claim.

        Args:
            name: what was tested.
            kind: to group it by.
            claim: epsilon claimed, at the delta that `measure` takes.
            measure: from a confidence to the bound.
            tests: how many tests share the error of the whole audit.
            says: what came out, in words.
        """
        bound = measure(CONFIDENCE)
        surely = measure(1 - (1 - TOGETHER) / tests).epsilon
        # Rounding of float32 sums is no finding.
        return cls(name, kind, claim, bound, surely, not surely > claim * (1 + 1e-6), says(bound))

    def to_json(self) -> dict[str, Any]:
        """Plain values; JSON knows no infinity, so that None stands for it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "claim": finite(self.claim),
            "bound": None
            if self.bound is None
            else {
                name: finite(each) if isinstance(each, float) else each
                for name, each in self.bound.to_json().items()
            },
            "surely": finite(self.surely),
            "holds": self.holds,
            "says": self.says,
        }


@dataclass(frozen=True)
class Audit:
    """All findings on one subject.

    Attributes:
        findings: in the order in which they were made.
        claim: epsilon that is claimed of the whole run; infinite where it is not private.
        delta: of the claim.
        roc: of the gradient canaries: pairs of a false- and a true-positive rate; none without.
    """

    findings: tuple[Finding, ...]
    claim: float
    delta: float
    roc: Sequence[tuple[float, float]] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing that was measured exceeds what is claimed."""
        return all(each.holds for each in self.findings)

    @property
    def lower(self) -> Finding | None:
        """Of the findings on the whole run that assume nothing, that of the largest lower bound."""
        whole = [
            each
            for each in self.findings
            if each.kind == "whole run" and each.bound and each.bound.mu is None
        ]
        return max(whole, key=lambda each: each.bound.epsilon if each.bound else 0, default=None)

    def failed(self) -> Iterable[Finding]:
        """The findings that refute a claim."""
        return (each for each in self.findings if not each.holds)

    def to_json(self) -> dict[str, Any]:
        """What audit.json holds."""
        return {
            "version": VERSION,
            "holds": self.holds,
            "claim": {"epsilon": finite(self.claim), "delta": self.delta},
            "confidence": {"alone": CONFIDENCE, "together": TOGETHER},
            "findings": [each.to_json() for each in self.findings],
            "roc": [[round(x, 6), round(y, 6)] for x, y in self.roc],
        }
