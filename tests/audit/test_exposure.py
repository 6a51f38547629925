"""Exposure: against a rank by brute force, at chance where nothing was learned, found where it was.

Each statistical test states how often it fails although all is well.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deniable.audit import exposure as exposures
from deniable.audit.planted import DIGITS, Canary, draw, inserted
from deniable.audit.secrets import SPACE, count_likelier, exposure, random_secrets, secret_losses
from deniable.data import Arrays
from deniable.data.ptb import sequences
from deniable.errors import SettingsError
from deniable.models import CharLSTM


def brute_force(loss: float, space: np.ndarray) -> float:
    """The exposure by the definition: one secret of the space after the other."""
    rank = 0
    for other in space:
        if other <= loss:
            rank += 1
    return math.log2(len(space)) - math.log2(rank)


@pytest.mark.parametrize("quantile", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_the_three_ways_agree_with_a_rank_by_brute_force(quantile: float, shape: str) -> None:
    """20,000 of 50,000 are sampled: a share of 1% is off by 0.15 bits with probability 0.03.

    The seed is fixed; another one would have to be tried now and then.
    """
    random = np.random.default_rng(1)
    space = random.normal(20, 2, 50_000)
    if shape == "skewed":
        space = 15 + random.gamma(4.0, 1.5, 50_000)  # no skew normal, but with the same left end
    loss = float(np.sort(space)[int(quantile * len(space))])
    exact = brute_force(loss, space)
    others = random.choice(space[space != loss], 20_000, replace=False)
    rank = int((space <= loss).sum())
    assert exposures.by_rank(rank, len(space)) == pytest.approx(exact)
    assert exposures.interpolated(loss, others, len(space)) == pytest.approx(exact, abs=0.15)
    assert exposures.extrapolated(loss, others, len(space)) == pytest.approx(exact, abs=0.3)


def test_a_sample_sees_no_further_than_its_size_and_a_fit_does() -> None:
    others = np.random.default_rng(2).normal(20, 1, 1023)
    assert exposures.interpolated(12.0, others, SPACE) == 10
    assert exposures.extrapolated(14.0, others, SPACE) > 20
    assert exposures.extrapolated(0.0, others, SPACE) == pytest.approx(math.log2(SPACE))


def test_what_was_never_met_has_the_exposure_of_chance() -> None:
    """Of 1,000 secrets a share 2^-e exceeds e bits at most; fails with probability below 1e-3.

    The bound is that of Hoeffding: four times sqrt(ln(2e3) / 2e3) is the most that is allowed.
    """
    random = np.random.default_rng(3)
    losses = random.gamma(5.0, 4.0, (1000, 256))
    found = np.array([exposures.interpolated(row[0], row[1:], SPACE) for row in losses])
    slack = math.sqrt(math.log(5e3) / 2e3)
    for bits in (1, 2, 3, 4):
        assert (found >= bits).mean() <= 2.0**-bits + slack
    assert exposures.chance(found) > 1e-3


def test_secrets_that_were_learned_are_not_explained_by_chance() -> None:
    """The control of the test above: losses that are smaller by one deviation."""
    random = np.random.default_rng(3)
    losses = random.gamma(5.0, 4.0, (100, 256))
    losses[:, 0] -= losses.std()
    found = [exposures.interpolated(row[0], row[1:], SPACE) for row in losses]
    assert exposures.chance(found) < 1e-6


def test_chance_is_rejected_as_often_as_it_says() -> None:
    """Null exposures of 8 canaries, 2,000 times; at level 5% more than 7% has probability 1e-4."""
    random = np.random.default_rng(4)
    ranks = random.integers(1, 257, (2000, 8))
    p = [exposures.chance(8 - np.log2(row)) for row in ranks]
    assert (np.array(p) < 0.05).mean() < 0.07


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan], [[1.0]]])
def test_losses_that_are_none_are_refused(wrong: list[float]) -> None:
    with pytest.raises(SettingsError):
        exposures.interpolated(1.0, wrong, SPACE)
    with pytest.raises(SettingsError):
        exposures.interpolated(math.nan, [1.0, 2.0], SPACE)


@pytest.mark.parametrize("rank", [0, 11])
def test_a_rank_beyond_the_space_is_refused(rank: int) -> None:
    with pytest.raises(SettingsError, match="from 1 to that"):
        exposures.by_rank(rank, 10)


# -- canaries --------------------------------------------------------------------------------------


def test_canaries_are_whole_sequences_of_their_own_names() -> None:
    canaries = draw({0: 3, 1: 3, 4: 2}, seed=0)
    assert len({each.name for each in canaries}) == 8
    assert all(len(each.text) == 80 and len(each.secret) == DIGITS for each in canaries)
    text = sequences(b"x" * 800)
    more = inserted(text, canaries)
    assert len(more.inputs) == len(more.targets) == 10 + 3 + 8
    rows = [bytes(row.tolist()) for row in more.targets]
    assert [rows.count(each.text) for each in canaries] == [each.repetitions for each in canaries]
    assert (inserted(text, canaries[:3]).inputs == text.inputs).all()


def test_secrets_are_drawn_evenly() -> None:
    """Each of ten digits in nine places, 5,000 times; fails with probability below 1e-6."""
    drawn = [list(each) for each in random_secrets(5000, seed=5)]
    shares = np.array([[(np.array(drawn)[:, place] == str(d)).mean() for d in range(10)]
                       for place in range(DIGITS)])  # fmt: skip
    assert np.abs(shares - 0.1).max() < 6 * math.sqrt(0.09 / 5000)


# -- a model whose memory is known -----------------------------------------------------------------


class Remembers(nn.Module):
    """Expects the digits of some sentences with a given probability, and all others evenly."""

    def __init__(self, known: tuple[Canary, ...], probability: float) -> None:
        super().__init__()
        self.known = {each.name.encode(): each for each in known}
        self.gain = math.log(9 * probability / (1 - probability))

    def forward(self, rows: Tensor) -> Tensor:
        scores = torch.full((*rows.shape, 256), -30.0)
        scores[..., ord("0") : ord("9") + 1] = 0.0
        for index, row in enumerate(rows.tolist()):
            text = bytes(row[1:])
            for name, canary in self.known.items():
                if name in text:
                    at = len(canary.before)
                    for place in range(min(DIGITS, len(row) - at)):
                        scores[index, at + place, ord(canary.secret[place])] = self.gain
        return scores


def test_a_canary_that_is_known_by_heart_is_the_first_of_all() -> None:
    known, other = draw({1: 1, 0: 1}, seed=6)
    model = Remembers((known,), 0.6)
    found = exposure(model, known, random_secrets(200, seed=7))
    assert found.rank == 1
    assert found.bits == found.ranked == pytest.approx(math.log2(SPACE))
    assert found.loss == pytest.approx(-9 * math.log(0.6), abs=1e-4)
    missed = exposure(model, other, random_secrets(200, seed=7))
    assert missed.rank is None
    assert missed.bits < 1


def test_a_rank_is_what_going_through_the_space_gives() -> None:
    """Three digits are known wrongly; the rank of each neighbour is counted by hand."""
    (canary,) = draw({1: 1}, seed=8)
    wrong = "".join(str((int(d) + 1) % 10) if i < 2 else d for i, d in enumerate(canary.secret))
    model = Remembers((Canary(canary.name, wrong, 1),), 0.9)
    # Likelier or as likely: at most two of nine digits differ from what the model remembers.
    expected = 1 + 9 * 9 + math.comb(9, 2) * 81
    assert count_likelier(model, canary, limit=100_000) == expected
    assert count_likelier(model, canary, limit=10) is None


def test_losses_of_secrets_are_those_of_their_digits_alone() -> None:
    (canary,) = draw({1: 1}, seed=9)
    model = Remembers((), 0.5)
    losses = secret_losses(model, canary, [canary.secret, "000000000"])
    assert losses == pytest.approx(9 * math.log(10), abs=1e-4)


@pytest.mark.parametrize("repetitions", [0, 40])
def test_a_planted_canary_is_found_in_a_model_that_learned_it(repetitions: int) -> None:
    """A tiny LSTM on noise and one canary; without it exposure exceeds 9 bits once in 500 times."""
    (canary,) = draw({repetitions: 1}, seed=10)
    random = np.random.default_rng(11)
    noise = sequences(bytes(random.integers(97, 123, 80 * 40, dtype=np.uint8)))
    arrays: Arrays = inserted(noise, [canary])
    inputs, targets = torch.from_numpy(arrays.inputs), torch.from_numpy(arrays.targets)
    torch.manual_seed(0)
    model = CharLSTM(256, width=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        rows = torch.randperm(len(inputs))[:40]
        loss = nn.functional.cross_entropy(model(inputs[rows]).movedim(-1, 1), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = exposure(model.eval(), canary, random_secrets(511, seed=12), limit=2000)
    assert (found.bits >= 9) == (repetitions > 0)


def test_exposure_needs_no_torch() -> None:
    modules = "deniable.audit.exposure, deniable.audit.planted"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
