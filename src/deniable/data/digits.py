"""The 8 x 8 digits that come with scikit-learn: nothing to download."""

from __future__ import annotations

import numpy as np

from deniable.data.dataset import Arrays


def read() -> tuple[Arrays, Arrays]:
    """Train and test arrays: 1,437 and 360 images of shape (1, 8, 8), values in [0, 1].

    The test split takes 20% of every class and is the same for every run: a test set that moved
    with the training seed would measure other images each time.
    """
    # Imported here: scikit-learn takes a second, which the commands without data must not pay.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = (raw.data / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = raw.target.astype(np.int64)
    train_inputs, test_inputs, train_targets, test_targets = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return Arrays(train_inputs, train_targets), Arrays(test_inputs, test_targets)
