"""The two passes over features that people hold, in rows: blocks of samples in float64, side by side, by NumPy alone.

Whatever their precision, features become float64 a block at a time, so that the rounding of what is measured is that of
the features alone. Blocks are a function of shapes and are added up in their order: results are the same bits on any
number of cores. Nothing of JAX is called, no program is compiled and no device is taken.
"""

import functools as ft
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm.metrics.passes import Centres, Judges, Spreads, second_pass

NUMBERS_AT_ONCE = 2**18  # of features: what a core's own cache holds
LOGITS_AT_ONCE = 2**24  # of a block: fewer rows make the products slower, by more than the argmax gains
ROWS_SUMMED = 1024  # at once, so that of a class there are several
MULTIPLIED_TO = 64  # classes up to which a product with the one-hot matrix is the fastest sum


class Part(NamedTuple):
    """Samples of the classes that a block has: which (p,), how many of each (p,) and their sums (p, d)."""

    classes: Int[np.ndarray, " p"]
    count: Float[np.ndarray, " p"]
    features: Float[np.ndarray, "p d"]


class Totals:
    """Samples of each class (K,), and the sum of their features (K, d), added up in place."""

    def __init__(self, num_classes: int, dim: int):
        self.count = np.zeros(num_classes)
        self.features = np.zeros((num_classes, dim))

    def add(self, X: Any, labels: Int[np.ndarray, " n"]) -> None:
        """Another batch of rows (n, d), which are finite."""
        for part in _in_blocks(_part_of, X, labels, ROWS_SUMMED):
            self.count[part.classes] += part.count
            self.features[part.classes] += part.features


def spreads_of(X: Any, labels: Int[np.ndarray, " n"], about: Centres, judges: Judges | None) -> Spreads:
    """The second pass over rows (n, d), whose labels name rows of the means."""
    outputs = 1 if judges is None else len(judges.given.rows)
    rows = min(NUMBERS_AT_ONCE // X.shape[1], LOGITS_AT_ONCE // outputs)

    def spreads(block, labels):
        return second_pass(block.T, labels, about, judges)

    return ft.reduce(added, _in_blocks(spreads, X, labels, rows))


def all_finite(X: Any) -> bool:
    """Whether no entry of rows is a NaN or an infinity."""
    return all(_in_blocks(lambda block, _: bool(np.all(np.isfinite(block))), X, np.zeros(len(X), int), ROWS_SUMMED))


def added(spreads: Spreads, others: Spreads) -> Spreads:
    """Spreads about the same means, together."""
    return Spreads(*(None if one is None else one + other for one, other in zip(spreads, others, strict=True)))


def _in_blocks(work: Callable, X: Any, labels: np.ndarray, rows: int) -> Iterator[Any]:
    """`work` of blocks of rows and their labels, in order; a core has a block at a time, and few wait to be taken."""
    rows = max(rows, 1)
    blocks = [slice(first, first + rows) for first in range(0, len(X), rows)]

    def one(block):
        with silent():  # which is a thread's own
            return work(np.ascontiguousarray(np.asarray(X[block])), labels[block])

    with one_thread():
        if len(blocks) == 1:
            yield one(blocks[0])
            return
        workers = min(os.cpu_count() or 1, len(blocks))
        with ThreadPoolExecutor(workers) as pool:
            for first in range(0, len(blocks), 8 * workers):
                yield from pool.map(one, blocks[first : first + 8 * workers])


def _part_of(X: np.ndarray, labels: np.ndarray) -> Part:
    """Sums over the samples of each class."""
    classes, groups, count = np.unique(labels, return_inverse=True, return_counts=True)
    sums = _multiplied if len(classes) <= MULTIPLIED_TO else _in_turn
    return Part(classes, count.astype(np.float64), sums(X, groups, count))


def _multiplied(X, groups, count):
    """(p, d) by a product with the one-hot matrix."""
    one_hot = (groups == np.arange(len(count))[:, None]).astype(np.float64)
    return one_hot @ X.astype(np.float64)


def _in_turn(X, groups, count):
    """(p, d) by adding the first sample of each class, then the second of those that have one, and so on."""
    by_size = np.argsort(-count, kind="stable")
    order, first = np.argsort(groups, kind="stable"), np.cumsum(count) - count
    sums = np.zeros((len(count), X.shape[1]))
    for turn in range(count[by_size[0]]):
        some = by_size[: np.count_nonzero(count > turn)]
        sums[: len(some)] += X[order[first[some] + turn]]
    ordered = np.empty_like(sums)
    ordered[by_size] = sums
    return ordered
