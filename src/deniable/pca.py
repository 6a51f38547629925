"""Principal components under differential privacy, or of public data for nothing.

The noisy covariance of Abadi et al. (2016, "Deep Learning with Differential Privacy", section 4) is
the algorithm of Dwork, Talwar, Thakurta & Zhang (2014, "Analyze Gauss", algorithm 1).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from deniable.data import fingerprint
from deniable.errors import SettingsError
from deniable.events import GaussianEvent
from deniable.ledger import Ledger
from deniable.noise import Gaussian, noise_generator
from deniable.numeric import is_whole
from deniable.randomness import Streams
from deniable.units import BoundedSum, Neighbouring, Sensitivity

Floats = npt.NDArray[np.float64]


class _Projection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What a matrix of second moments becomes: its leading eigenvectors, and a projection."""

    n_components: int

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Project rows, as they are, onto the components.

        Args:
            X: `(rows, n_features_in_)`; what follows the first dimension is flattened.

        Returns:
            `(rows, n_components)`, in the precision of `X`.

        Raises:
            SettingsError: the rows have another size than those that were fitted.
        """
        check_is_fitted(self)
        rows = _rows(X)
        if rows.shape[1] != self.n_features_in_:
            raise SettingsError(
                f"Rows of {self.n_features_in_} numbers were fitted, got {rows.shape[1]}. Give "
                "rows of the same kind."
            )
        projected: npt.NDArray[Any] = rows @ self.components_.T.astype(rows.dtype)
        return projected

    def _project_on(self, covariance: Floats) -> Self:
        values, vectors = np.linalg.eigh(covariance)
        leading = slice(None, -self.n_components - 1, -1)
        self.components_ = np.ascontiguousarray(vectors[:, leading].T)
        self.eigenvalues_ = values[leading]
        self.covariance_, self.n_features_in_ = covariance, len(covariance)
        self._n_features_out = self.n_components
        return self

    def _checked(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        rows = _rows(X)
        count = self.n_components
        if not (is_whole(count) and 1 <= count <= rows.shape[1]):
            raise SettingsError(
                f"n_components must be a whole number from 1 to the {rows.shape[1]} features, got "
                f"{count!r}."
            )
        return rows


class PrivatePCA(_Projection):
    """Principal components of rows that are protected.

    Every row is scaled to norm 1, `A^T A` is summed, a symmetric matrix of Gaussian noise is added,
    and the leading eigenvectors of the sum are kept (Abadi et al., 2016, section 4; Dwork et al.,
    2014, "Analyze Gauss", algorithm 1). Rows are not centred: the mean is private as well.

    Symmetric matrices are summed as vectors of their diagonal and sqrt(2) times what is above it,
    which keeps the Frobenius norm. So the noise has variance `(noise_multiplier * sensitivity)^2`
    on the diagonal and half of that elsewhere, for the same guarantee as if it had all of it.

    Formal guarantee: one row moves the sum by `|v v^T|_F = |v|^2 = 1` when it is added or removed,
    and by at most `|u u^T - v v^T|_F = sqrt(2 - 2 (u.v)^2) <= sqrt(2)` when it is replaced. A row
    that is not finite, or zero, contributes zero. The release is a `GaussianEvent`, which stands in
    the ledger before the noise is drawn; eigenvectors, and whatever else is made of the noisy
    matrix, cost nothing more.

    Args:
        n_components: how many components to keep.
        noise_multiplier: the deviation of the noise, over the sensitivity; 0 is NOT private.
        ledger: where the release is recorded: a file, an open ledger, or None for memory only, in
            which case `event_` must be counted by you. Training on the projected rows is another
            form of the same data: a ledger for both is named, `Ledger(path, data="...")`.
        run_id: the name of the release in the ledger.
        neighbouring: which data sets are compared, "add-or-remove" or "replace".
        seed: makes the noise reproducible, and known to whoever knows the seed.
        secure: draw noise from an AES-256-CTR keystream in float64.

    Attributes:
        components_: `(n_components, features)`, orthonormal rows, the leading one first.
        eigenvalues_: of the noisy matrix, `(n_components,)`.
        covariance_: the noisy matrix itself, `(features, features)`: it is private, and may leave.
        event_: what was released.
        n_features_in_: how many numbers a row has.

    Raises:
        SettingsError: an argument is out of range; raised by `fit`.
        BudgetError: the release does not fit the ledger's budget; raised by `fit`.

    >>> rows = np.random.default_rng(0).normal(size=(2000, 8)) * [9, 6, 1, 1, 1, 1, 1, 1]
    >>> ledger = Ledger(None, data="measurements")
    >>> pca = PrivatePCA(2, noise_multiplier=4.0, ledger=ledger).fit(rows)
    >>> pca.transform(rows).shape
    (2000, 2)
    >>> from deniable.accounting import spent
    >>> round(spent(ledger.event(), delta=1e-5).epsilon, 2)
    0.93
    """

    def __init__(
        self,
        n_components: int,
        *,
        noise_multiplier: float,
        ledger: Ledger | Path | str | None = None,
        run_id: str = "pca",
        neighbouring: Neighbouring | str = Neighbouring.ADD_OR_REMOVE,
        seed: int | None = None,
        secure: bool = False,
    ) -> None:
        self.n_components = n_components
        self.noise_multiplier = noise_multiplier
        self.ledger = ledger
        self.run_id = run_id
        self.neighbouring = neighbouring
        self.seed = seed
        self.secure = secure

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Record the release, then make it: one noisy matrix, whatever is asked of it later.

        Args:
            X: `(rows, features)`; what follows the first dimension is flattened.
            y: not read.
        """
        rows = self._checked(X)
        relation = _relation(self.neighbouring)
        try:
            noise = Gaussian(self.noise_multiplier, relation)
        except (TypeError, ValueError) as problem:
            raise SettingsError(f"This release cannot be made: {problem}") from problem
        bounded = BoundedSum(
            {"covariance": torch.from_numpy(_vector(_second_moments(rows)))}, _sensitivity(relation)
        )
        # A stream of its own: the same seed given to `attach` must not draw the same noise again.
        key = Streams(self.seed).key("components")
        generator = noise_generator(key, torch.device("cpu"), self.secure)
        self._record(noise.event, fingerprint(np.asarray(X)))
        noisy = noise.add(bounded, generator)["covariance"].numpy()
        self.event_ = noise.event
        return self._project_on(_matrix(noisy, rows.shape[1]))

    def _record(self, event: GaussianEvent, found: str) -> None:
        ledger = self.ledger if isinstance(self.ledger, Ledger) else Ledger(self.ledger)
        ledger.recognise(found)
        ledger.release(
            self.run_id,
            event,
            description={
                "release": "covariance",
                "components": int(self.n_components),
                "noise": {"secure": self.secure, "seeded": self.seed is not None},
            },
        )
        if ledger is not self.ledger:
            ledger.close()


class PublicPCA(_Projection):
    """Principal components of public rows: no noise, no event, no cost.

    The same projection as `PrivatePCA`, of rows that nobody needs protection for: another data set,
    or synthetic rows. **Fitted to private rows it is not private.**

    Args:
        n_components: how many components to keep.

    Attributes:
        components_: `(n_components, features)`, orthonormal rows, the leading one first.
        eigenvalues_: of the sum over unit-norm rows, `(n_components,)`.
        covariance_: that sum, `(features, features)`.
        n_features_in_: how many numbers a row has.

    Raises:
        SettingsError: an argument is out of range; raised by `fit`.

    >>> PublicPCA(1).fit([[3.0, 0.0], [2.0, 0.1], [0.0, 0.5]]).transform([[1.0, 0.0]]).shape
    (1, 1)
    """

    def __init__(self, n_components: int) -> None:
        self.n_components = n_components

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Find the components.

        Args:
            X: `(rows, features)`; what follows the first dimension is flattened.
            y: not read.
        """
        return self._project_on(_second_moments(self._checked(X)))


def _rows(X: npt.ArrayLike) -> npt.NDArray[Any]:
    given = np.asarray(X)
    if given.ndim < 2 or given.dtype.kind not in "fiub":
        raise SettingsError(
            "A PCA expects real numbers with one row an example, got shape "
            f"{given.shape} of {given.dtype}."
        )
    rows = given.reshape(len(given), math.prod(given.shape[1:]))
    return rows if rows.dtype.kind == "f" else rows.astype(np.float64)


def _second_moments(rows: npt.NDArray[Any]) -> Floats:
    """`A^T A` of unit-norm rows, in float64; a row without a norm contributes zero."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), 4096):
        unit = _unit_norm(rows[start : start + 4096].astype(np.float64))
        total += unit.T @ unit
    return (total + total.T) / 2


def _unit_norm(rows: Floats) -> Floats:
    # By the largest entry first: squares of huge or tiny numbers leave the range of float64.
    largest = np.abs(rows).max(axis=1, initial=0.0)
    usable = np.isfinite(largest) & (largest > 0)
    scaled = np.where(usable[:, None], rows, 0.0) / np.where(usable, largest, 1.0)[:, None]
    norms = np.linalg.norm(scaled, axis=1)
    unit: Floats = scaled / np.where(usable, norms, 1.0)[:, None]
    return unit


def _sensitivity(relation: Neighbouring) -> Sensitivity:
    replaced = relation is Neighbouring.REPLACE
    return Sensitivity(math.sqrt(2) if replaced else 1.0, relation)


def _relation(given: Neighbouring | str) -> Neighbouring:
    try:
        return Neighbouring(given)
    except ValueError:
        known = ", ".join(each.value for each in Neighbouring)
        raise SettingsError(f"neighbouring must be one of {known}, got {given!r}.") from None


def _vector(matrix: Floats) -> Floats:
    """A symmetric matrix as a vector of the same norm."""
    above = np.triu_indices(len(matrix), 1)
    return np.concatenate([matrix.diagonal(), math.sqrt(2) * matrix[above]])


def _matrix(vector: npt.NDArray[Any], size: int) -> Floats:
    """What `_vector` wrote."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 1)] = vector[size:] / math.sqrt(2)
    matrix += matrix.T
    np.fill_diagonal(matrix, vector[:size])
    return matrix
