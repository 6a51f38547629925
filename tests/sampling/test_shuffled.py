from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from deniable.events import GaussianEvent, ShuffledEvent
from deniable.sampling import ShuffledSampler

NOISE = GaussianEvent(1.0)


def sampler(seed: int = 0) -> ShuffledSampler:
    return ShuffledSampler(10, 3, np.random.default_rng(seed))


def test_an_epoch_holds_whole_batches_of_different_examples() -> None:
    """One of ten is left over by three batches of three, another one each time."""
    drawing, left = sampler(), set()
    for epoch in range(1, 40):
        batches = [drawing.draw().tolist() for _ in range(3)]
        assert all(len(batch) == 3 for batch in batches)
        seen = {each for batch in batches for each in batch}
        assert len(seen) == 9
        left |= set(range(10)) - seen
        event = drawing.event(NOISE)
        assert isinstance(event, ShuffledEvent)
        assert event.epoch == epoch
    assert left == set(range(10))


def test_all_orders_are_equally_likely() -> None:
    """Which of 3 batches each example is in, or none: false failures 1e-6 in all."""
    counts = np.zeros((10, 4))
    drawing = sampler(1)
    for _ in range(5_000):
        place = np.full(10, 3)
        for batch in range(3):
            place[drawing.draw()] = batch
        counts[np.arange(10), place] += 1
    expected = 5_000 * np.array([0.3, 0.3, 0.3, 0.1])
    assert min(chisquare(row, expected).pvalue for row in counts) > 1e-7
    assert chisquare(counts[0], np.roll(expected, 1)).pvalue < 1e-7


def test_two_samplers_never_state_the_same_epoch_even_from_one_seed() -> None:
    """Two runs with one seed on one ledger are two."""
    one, other = sampler(), sampler()
    assert one.draw().tolist() == other.draw().tolist()
    assert one.event(NOISE) != other.event(NOISE)


def test_a_plan_counts_the_epochs_that_begin() -> None:
    drawing = sampler()
    assert [drawing.part(NOISE, 0, steps).count for steps in range(8)] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert drawing.part(NOISE, 1, 3).count == 0
    assert drawing.part(NOISE, 2, 4).count == 1
