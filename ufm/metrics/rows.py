"""The two passes over features that people hold, in rows: blocks of samples in float64, side by side, by NumPy alone.

Whatever their precision, features become float64 a block at a time, so that the rounding of what is measured is that of
the features alone. Blocks are a function of shapes and are added up in their order: results are the same bits on any
number of cores. Nothing of JAX is called, no program is compiled and no device is taken.
"""

import functools as ft
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm._core.side_by_side import side_by_side
from ufm.metrics.decisions import Rule, decide
from ufm.metrics.passes import Centres, Judges, Spreads, second_pass

NUMBERS_AT_ONCE = 2**18  # of features: what a core's own cache holds
LOGITS_AT_ONCE = 2**24  # of a block: fewer rows make the products slower, by more than the argmax gains
ROWS_SUMMED = 1024  # at once, so that of a class there are several
MULTIPLIED_TO = 64  # classes up to which a product with the one-hot matrix is the fastest sum


class Part(NamedTuple):
    """Samples of the classes that a block has: which (p,), how many of each (p,) and their sums (p, d)."""

    classes: Int[np.ndarray, " p"]
    counts: Float[np.ndarray, " p"]
    features: Float[np.ndarray, "p d"]


class Totals:
    """Samples of each class (K,), and the sum of their features (K, d), added up in place."""

    def __init__(self, num_classes: int, dim: int):
        self.count = np.zeros(num_classes)
        self.features = np.zeros((num_classes, dim))

    @classmethod
    def of(cls, count: Float[np.ndarray, " K"], features: Float[np.ndarray, "K d"]) -> "Totals":
        """Totals that are known; the arrays are its own from now on."""
        made = cls(0, 0)
        made.count, made.features = count, features
        return made

    def add(self, X: Any, labels: Int[np.ndarray, " n"]) -> None:
        """Another batch of rows (n, d), which are finite."""
        for part in _in_blocks(_part_of, ROWS_SUMMED, X, labels):
            self.count[part.classes] += part.counts
            self.features[part.classes] += part.features

    def join(self, other: "Totals") -> None:
        """Those of other samples too."""
        self.count += other.count
        self.features += other.features

    def copied(self) -> "Totals":
        """The same, to be added to without this being changed."""
        return Totals.of(self.count.copy(), self.features.copy())


def spreads_of(X: Any, labels: Int[np.ndarray, " n"], about: Centres, judges: Judges | None) -> Spreads:
    """The second pass over rows (n, d), whose labels name rows of the means."""
    rows = _rows_for(X, 1 if judges is None else len(judges.given.rows))
    decided = () if judges is None or judges.decisions is None else (judges.decisions,)

    def spreads(block, labels, decisions=None):
        judging = judges if decisions is None or judges is None else judges._replace(decisions=decisions)
        return second_pass(block.T, labels, about, judging)

    return ft.reduce(added, _in_blocks(spreads, rows, X, labels, *decided))


def decisions_of(X: Any, about: Centres, rules: tuple[Rule, ...]) -> list[Int[np.ndarray, " n"]]:
    """What each rule decides at rows (n, d)."""

    def decided(block):
        places = ((block - about.origin) * about.scale).T
        return [decide(rule, places) for rule in rules]

    found = _in_blocks(decided, _rows_for(X, max(len(rule.rows) for rule in rules)), X)
    return [np.concatenate(of_blocks) for of_blocks in zip(*found, strict=True)]


def all_finite(X: Any) -> bool:
    """Whether no entry of rows is a NaN or an infinity."""
    return all(_in_blocks(lambda block: bool(np.all(np.isfinite(block))), ROWS_SUMMED, X))


def added(spreads: Spreads, others: Spreads) -> Spreads:
    """Spreads about the same means, together."""
    return Spreads(*(None if one is None else one + other for one, other in zip(spreads, others, strict=True)))


def _rows_for(X: Any, outputs: int) -> int:
    """How many rows a block has of which logits of so many outputs are formed."""
    return max(1, min(NUMBERS_AT_ONCE // X.shape[1], LOGITS_AT_ONCE // outputs))


def _in_blocks(work: Callable, rows: int, *arrays: Any) -> Iterator[Any]:
    """`work` of blocks of so many rows of arrays, in order; of no rows it is that of an empty block."""
    blocks = [slice(first, first + rows) for first in range(0, max(len(arrays[0]), 1), rows)]
    return side_by_side(lambda block: work(*(np.ascontiguousarray(array[block]) for array in arrays)), blocks)


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
