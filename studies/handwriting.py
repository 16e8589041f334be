"""Scikit-learn's handwritten digits, 8 by 8 pixels, as studies use them: split at random and standardised.

Needs scikit-learn: `pip install -e '.[studies]'`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    missing = "this study needs scikit-learn: pip install -e '.[studies]' from the project's root"
    raise ModuleNotFoundError(missing, name=error.name) from None

NUM_CLASSES = 10
SIDE = 8
DIGITS = 1797


class Digits(NamedTuple):
    """Standardised pixels (n, 64) and labels (n,), to train on and to test on."""

    X: np.ndarray
    labels: np.ndarray
    X_test: np.ndarray
    labels_test: np.ndarray


def split(samples: int, seed: int) -> Digits:
    """The digits in random order, `samples` of them to train on, which the pixels are standardised by."""
    X, labels, order = shuffled(seed)
    return standardised(X, labels, order[:samples], order[samples:])


def split_by_class(counts: Sequence[int], seed: int) -> Digits:
    """The digits below len(counts), counts[k] samples of digit k to train on, maybe none, and the others to test on.

    Raises:
        ValueError: where there are not that many, and one to test on.
    """
    X, labels, order = shuffled(seed)
    members = [order[labels[order] == k] for k in range(len(counts))]
    for k, (rows, count) in enumerate(zip(members, counts, strict=True)):
        if not 0 <= count < len(rows):
            raise ValueError(f"counts[{k}] = {count}: from 0 to {len(rows) - 1} samples of digit {k} are needed")
    train = np.concatenate([rows[:count] for rows, count in zip(members, counts, strict=True)])
    test = np.concatenate([rows[count:] for rows, count in zip(members, counts, strict=True)])
    return standardised(X, labels, train, test)


def shuffled(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, labels, and a random order of the samples."""
    X, labels = map(np.asarray, load_digits(return_X_y=True))
    return X, labels.astype(np.int32), np.random.default_rng([seed, 0]).permutation(len(X))


def standardised(X: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> Digits:
    """Pixels of mean 0 and deviation 1 over the training samples; those constant there become 0."""
    scale = X[train].std(axis=0)
    X = np.where(scale > 0, (X - X[train].mean(axis=0)) / np.where(scale > 0, scale, 1.0), 0.0).astype(np.float32)
    return Digits(X[train], labels[train], X[test], labels[test])
