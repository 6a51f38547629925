"""Whether batches are drawn as the plan says: looked at where the model would see them.

The accountant counts on the law by which units join batches. Draws of another law can look alike
batch by batch, and cost far more: a shuffled epoch holds every unit, for certain.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD

from deniable.audit.findings import TOGETHER, Finding
from deniable.plan import Plan
from deniable.sampling import (
    FixedSizeSampler,
    PoissonSampler,
    Sampler,
    ShuffledSampler,
    TruncatedPoissonSampler,
)
from deniable.session import attach

MOST_STEPS, MOST_ROWS = 400, 2_000_000


class _Silent(nn.Module):
    """A model that learns nothing, whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, rows: Tensor) -> Tensor:
        """Zero for each row."""
        return rows.unsqueeze(-1).float() @ self.weight * 0.0


def sampling_of(plan: Plan, tests: int) -> Finding:
    """Draws batches as a run of the plan would, and tests how often units joined, and how many.

    Under Poisson sampling every count is binomial, of units over batches and of a batch over units;
    under fixed-size sampling, of units over batches. Batches of a shuffled epoch hold each unit
    once.

    Args:
        plan: whose sampling is tested; it must not leave the drawing to the user's own loader.
        tests: how many tests share the error of the whole audit.
    """
    steps = max(2, min(MOST_STEPS, MOST_ROWS // plan.batch_size))
    probe = Plan(
        examples=plan.examples,
        batch_size=plan.batch_size,
        steps=steps,
        sampling=plan.sampling,
        max_batch_size=plan.max_batch_size,
        neighbouring=plan.neighbouring.value,
        noise_multiplier=max(plan.noise_multiplier, 1.0),
        delta=plan.delta,
    )
    drawn = _drawn(probe)
    sampler = probe.sampler(None)
    assert isinstance(sampler, Sampler)
    probabilities = probabilities_of(sampler, drawn)
    least = min(probabilities.values())
    which = min(probabilities, key=lambda name: probabilities[name])
    holds = least * len(probabilities) >= (1 - TOGETHER) / tests
    rate = drawn.sum() / (steps * plan.examples)
    says = (
        f"{steps} batches drawn as the run's were, each example in {100 * rate:.3g}% of them: "
        f"{which} as uneven as this has a probability of {least:.2g} under {plan.sampling} sampling"
    )
    if not holds:
        says += ", so these batches come about in another way, and epsilon is not what was claimed"
    return Finding("drawn as planned", "sampling", None, None, None, holds, says + ".")


def probabilities_of(sampler: Sampler, drawn: NDArray[np.bool_]) -> dict[str, float]:
    """How probable what was drawn is under a sampler, by what is looked at.

    Args:
        sampler: what is claimed to have drawn.
        drawn: which units were in which batch, `(steps, units)`.

    >>> generator = np.random.default_rng(0)
    >>> sampler = PoissonSampler(200, 50)
    >>> min(probabilities_of(sampler, generator.random((100, 200)) < 0.25).values()) > 0.001
    True
    """
    steps, units = drawn.shape
    rate = _joining(sampler, units)
    sizes, counts = drawn.sum(1), drawn.sum(0)
    if isinstance(sampler, ShuffledSampler):
        epoch = units // sampler.batch_size
        whole = drawn[: steps // epoch * epoch].reshape(-1, epoch, units).sum(1)
        once = (whole <= 1).all() and (sizes == sampler.batch_size).all()
        return {"the epochs": 1.0 if once else 0.0}
    found = {"how often examples joined": _evenness(counts, steps, rate)}
    if isinstance(sampler, FixedSizeSampler):
        return found | {"the sizes": 1.0 if (sizes == sampler.batch_size).all() else 0.0}
    if isinstance(sampler, TruncatedPoissonSampler):
        within = (sizes <= sampler.max_batch_size).all()
        return found | {"the largest batch": 1.0 if within else 0.0}
    assert isinstance(sampler, PoissonSampler)
    total = int(sizes.sum())
    return found | {
        "the sizes": _evenness(sizes, units, rate),
        "the mean size": float(stats.binomtest(total, steps * units, rate).pvalue),
        "neighbouring batches": _overlap(drawn, rate),
    }


def _joining(sampler: Sampler, units: int) -> float:
    """How probably a unit is in a batch."""
    if not isinstance(sampler, TruncatedPoissonSampler):
        return sampler.batch_size / units
    sizes = np.arange(units + 1)
    chance = stats.binom.pmf(sizes, units, sampler.sampling_rate)
    return float(np.minimum(sizes, sampler.max_batch_size) @ chance) / units


def _evenness(counts: NDArray[np.int64], of: int, rate: float) -> float:
    """Whether counts scatter as binomial ones: more and less is both improbable.

    Their squared deviations add up to about a gamma variable with the right mean and variance.
    """
    variance = of * rate * (1 - rate)
    if variance == 0:
        return 1.0 if (counts == of * rate).all() else 0.0
    fourth = variance * (1 + 3 * (of - 2) * rate * (1 - rate))
    total = float(((counts - of * rate) ** 2).sum())
    mean, spread = len(counts) * variance, len(counts) * (fourth - variance**2)
    gamma = stats.gamma(mean**2 / spread, scale=spread / mean)
    return float(min(1.0, 2 * min(gamma.cdf(total), gamma.sf(total))))


def _overlap(drawn: NDArray[np.bool_], rate: float) -> float:
    """Whether batches that follow each other share as many units as independent ones do."""
    pairs = len(drawn) // 2
    both = int((drawn[0 : 2 * pairs : 2] & drawn[1 : 2 * pairs : 2]).sum())
    return float(stats.binomtest(both, pairs * drawn.shape[1], rate**2).pvalue)


def _drawn(plan: Plan) -> NDArray[np.bool_]:
    """Which units were in which batch, seen by a model in a session."""
    model = _Silent()
    optimizer = SGD(model.parameters(), lr=0.0)
    private = attach(model, optimizer, plan)
    found = np.zeros((plan.steps, plan.examples), dtype=bool)
    for step, batch in enumerate(private.batches(torch.arange(plan.examples))):
        found[step, batch.numpy()] = True
        if len(batch):
            private.backward(model(batch))
        optimizer.step()
    private.detach()
    return found
