"""Private principal components: sensitivity, noise, record and use."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import deniable
from deniable.accounting import spent
from deniable.data import load
from deniable.errors import BudgetError, LedgerError, SettingsError
from deniable.events import ComposedEvent, GaussianEvent, singles
from deniable.ledger import Ledger
from deniable.pca import PrivatePCA, PublicPCA
from deniable.units import Neighbouring

ALPHA = 1e-6
SPECIAL = [0.0, 5e-324, 1e-160, 1.0, -1.0, 1e160, -1.7e308, math.inf, -math.inf, math.nan]
values = st.one_of(st.floats(-10, 10), st.sampled_from(SPECIAL))
one_row = st.lists(values, min_size=3, max_size=3)
rows = st.lists(one_row, min_size=0, max_size=4)


def released(data: list[list[float]]) -> np.ndarray:
    """What is released without noise: a matrix whose Frobenius norm the noise is scaled to."""
    table = np.array(data, dtype=np.float64).reshape(len(data), 3)
    return PrivatePCA(1, noise_multiplier=0.0).fit(table).covariance_


@given(before=rows, row=one_row)
@settings(max_examples=200, deadline=None)
def test_a_row_more_or_less_moves_the_release_by_at_most_1(
    before: list[list[float]], row: list[float]
) -> None:
    """Infinite, NaN, huge and denormal rows included. Pitfall: privacy 9."""
    assert np.linalg.norm(released([*before, row]) - released(before)) <= 1 + 1e-12


@given(before=rows, old=one_row, new=one_row)
@settings(max_examples=200, deadline=None)
def test_another_row_in_the_place_of_one_moves_it_by_at_most_the_root_of_2(
    before: list[list[float]], old: list[float], new: list[float]
) -> None:
    moved = np.linalg.norm(released([*before, old]) - released([*before, new]))
    assert moved <= math.sqrt(2) + 1e-12


def test_both_limits_are_reached() -> None:
    assert np.linalg.norm(released([[3.0, 4.0, 0.0]])) == pytest.approx(1)
    turned = released([[1e300, 0, 0]]) - released([[0, 0, 1e-300]])
    assert np.linalg.norm(turned) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_counts_as_absent(bad: float) -> None:
    """Pitfall: privacy 9."""
    assert np.array_equal(released([[1, 2, 3], [0, bad, 1]]), released([[1, 2, 3]]))


def test_what_is_released_is_the_sum_of_outer_products_of_unit_rows() -> None:
    """Against a loop over the rows."""
    table = np.random.default_rng(0).normal(size=(50, 3)) * [100, 1, 0.01]
    unit = [row / math.sqrt(sum(row**2)) for row in table]
    assert np.allclose(released(table.tolist()), sum(np.outer(row, row) for row in unit))


def noise_of(seed: int, **options: object) -> np.ndarray:
    empty = np.zeros((1, 200))
    found = PrivatePCA(1, noise_multiplier=1.7, seed=seed, **options).fit(empty)  # type: ignore[arg-type]
    return found.covariance_


def is_normal(drawn: np.ndarray, deviation: float) -> bool:
    return bool(stats.kstest(drawn, "norm", (0, deviation)).pvalue > ALPHA)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(("relation", "sensitivity"), [("add-or-remove", 1.0), ("replace", 2**0.5)])
def test_the_noise_is_that_of_an_isotropic_gaussian_among_symmetric_matrices(
    relation: str, sensitivity: float, secure: bool
) -> None:
    """Kolmogorov-Smirnov at level 1e-6 twice, on fixed seeds; 1.1 times the noise is rejected."""
    drawn = [noise_of(seed, neighbouring=relation, secure=secure) for seed in range(10)]
    assert all(np.array_equal(each, each.T) for each in drawn)
    above = np.concatenate([each[np.triu_indices(200, 1)] for each in drawn]) * math.sqrt(2)
    diagonal = np.concatenate([each.diagonal() for each in drawn])
    assert is_normal(above, 1.7 * sensitivity)
    assert is_normal(diagonal, 1.7 * sensitivity)
    assert not is_normal(1.1 * above, 1.7 * sensitivity)


def test_noise_in_a_direction_has_the_variance_that_the_guarantee_counts_on() -> None:
    """<N, v v^T> has deviation sigma for every unit v, so a neighbour is hidden in all directions.

    z of the deviation of 20,000 draws below 5: false failure 6e-7; 1.1 times is rejected.
    """
    v = np.linspace(-1, 2, 4)
    v /= np.linalg.norm(v)
    drawn = np.array(
        [
            v @ PrivatePCA(1, noise_multiplier=3.0, seed=seed).fit(np.zeros((1, 4))).covariance_ @ v
            for seed in range(2000)
        ]
    )
    z = (drawn.var() / 9 - 1) / math.sqrt(2 / len(drawn))
    assert abs(z) < 5
    assert abs((1.21 * drawn.var() / 9 - 1) / math.sqrt(2 / len(drawn))) > 5, "negative control"


def test_noise_is_fresh_unless_seeded() -> None:
    table = np.eye(3)

    def once(seed: int | None) -> np.ndarray:
        return PrivatePCA(1, noise_multiplier=1.0, seed=seed).fit(table).covariance_

    assert not np.array_equal(once(None), once(None))
    assert np.array_equal(once(7), once(7))


def test_components_are_the_leading_eigenvectors() -> None:
    table = np.random.default_rng(1).normal(size=(500, 6)) * [5, 3, 1, 1, 1, 1]
    pca = PrivatePCA(3, noise_multiplier=1.0, seed=0).fit(table)
    assert np.allclose(pca.components_ @ pca.components_.T, np.eye(3))
    assert np.allclose(pca.covariance_ @ pca.components_.T, pca.components_.T * pca.eigenvalues_)
    assert np.allclose(pca.eigenvalues_, np.linalg.eigvalsh(pca.covariance_)[:-4:-1])


def test_the_event_stands_in_the_ledger_before_noise_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall: privacy 10."""
    path = tmp_path / "ledger.sqlite"
    seen = []

    def add(self: object, bounded: object, generator: object) -> None:
        with Ledger(path) as ledger:
            seen.append(ledger.event("pca"))
        raise KeyboardInterrupt

    monkeypatch.setattr("deniable.pca.Gaussian.add", add)
    with pytest.raises(KeyboardInterrupt):
        PrivatePCA(1, noise_multiplier=2.0, ledger=path).fit(np.eye(3))
    assert list(singles(seen[0])) == [(GaussianEvent(2.0), 1)]


def test_a_replacement_is_recorded_as_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    pca = PrivatePCA(1, noise_multiplier=2.0, ledger=path, neighbouring="replace").fit(np.eye(3))
    assert pca.event_ == GaussianEvent(2.0, Neighbouring.REPLACE)
    with Ledger(path) as ledger:
        assert spent(ledger.event(), 1e-5).neighbouring is Neighbouring.REPLACE


def test_one_claim_covers_the_components_and_the_training_on_them() -> None:
    table = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    ledger = Ledger(None, data="table")
    pca = PrivatePCA(2, noise_multiplier=5.0, ledger=ledger).fit(table)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = deniable.Plan(100, 10, steps=5, noise_multiplier=1.0, delta=1e-5)
    private = deniable.attach(model, optimizer, plan, ledger=ledger)
    inputs = torch.from_numpy(pca.transform(table))
    for batch, labels in private.batches((inputs, torch.zeros(100).long())):
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    private.detach()
    whole = spent(ledger.event(), 1e-5).epsilon
    assert whole == spent(ComposedEvent((GaussianEvent(5.0), plan.event)), 1e-5).epsilon
    assert whole > private.plan.epsilon


def test_a_release_beyond_the_budget_is_not_made() -> None:
    ledger = Ledger(None, data="table")
    ledger.set_budget(epsilon=1.0, delta=1e-5)
    pca = PrivatePCA(2, noise_multiplier=1.0, ledger=ledger)
    with pytest.raises(BudgetError):
        pca.fit(np.eye(3))
    assert not hasattr(pca, "components_")


def test_a_ledger_of_other_data_refuses(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    PrivatePCA(1, noise_multiplier=1.0, ledger=path).fit(np.eye(3))
    with pytest.raises(LedgerError, match="belongs to the data set"):
        PrivatePCA(1, noise_multiplier=1.0, ledger=path).fit(2 * np.eye(3))


def test_public_components_cost_nothing_and_are_those_of_the_rows() -> None:
    """Centred rows of equal norm: scikit-learn finds the same subspace."""
    table = np.random.default_rng(0).normal(size=(300, 5)) * [4, 2, 1, 1, 1]
    table = np.concatenate([table, -table])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    mine, theirs = PublicPCA(2).fit(table), PCA(2).fit(table)
    assert np.allclose(np.abs(mine.components_ @ theirs.components_.T), np.eye(2), atol=1e-6)
    assert not hasattr(mine, "event_")


def test_it_is_an_estimator_like_any_other() -> None:
    pca = PrivatePCA(3, noise_multiplier=2.0, seed=0)
    assert clone(pca).get_params() == pca.get_params()
    digits = load("digits").train
    images = digits.inputs.reshape(len(digits.inputs), -1)
    pipeline = make_pipeline(pca, LogisticRegression(max_iter=2000)).fit(images, digits.targets)
    assert pipeline[:-1].get_feature_names_out().tolist() == [f"privatepca{i}" for i in range(3)]
    assert pca.transform(digits.inputs).dtype == np.float32, "images are flattened"


def test_components_of_digits_stay_useful_at_epsilon_1() -> None:
    """Accuracy on 20 private components, against random ones as the negative control."""
    data = load("digits")
    train, test = (
        each.inputs.reshape(-1, 64).astype(np.float64) for each in (data.train, data.test)
    )

    def accuracy(components: np.ndarray) -> float:
        fitted = LogisticRegression(max_iter=2000).fit(train @ components.T, data.train.targets)
        return float(fitted.score(test @ components.T, data.test.targets))

    pca = PrivatePCA(20, noise_multiplier=3.73, seed=0).fit(train)
    assert spent(pca.event_, 1e-5).epsilon < 1.01
    random = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 20)))[0].T
    best = accuracy(PublicPCA(20).fit(train).components_)
    assert accuracy(pca.components_) > best - 0.03
    assert accuracy(pca.components_) > accuracy(random)


@pytest.mark.parametrize("count", [0, 4, -1, 1.5, None])
def test_an_impossible_number_of_components_is_refused(count: object) -> None:
    with pytest.raises(SettingsError, match="from 1 to the 3 features"):
        PrivatePCA(count, noise_multiplier=1.0).fit(np.eye(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": -1.0}, {"noise_multiplier": math.nan}, {"neighbouring": "near"}]
)
def test_impossible_settings_are_refused_before_anything_is_recorded(
    change: dict[str, object],
) -> None:
    ledger = Ledger(None)
    with pytest.raises(SettingsError):
        PrivatePCA(1, **{"noise_multiplier": 1.0, "ledger": ledger, **change}).fit(np.eye(3))  # type: ignore[arg-type]
    assert ledger.runs() == []


def test_rows_of_another_kind_are_refused() -> None:
    pca = PublicPCA(1).fit(np.eye(3))
    with pytest.raises(SettingsError, match="Rows of 3 numbers were fitted, got 4"):
        pca.transform(np.eye(4))
    with pytest.raises(SettingsError, match="one row an example"):
        pca.fit(np.zeros(3))
