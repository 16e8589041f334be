"""Targets that papers train towards, each built in one line: noise, many labels, mixup, next tokens, real rows.

Rows, probabilities, λ and weights are dimensionless, but for real targets, which are in the units of the outputs.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ufm._core.checks import Integer, Real, doubles, entries, flag, instance, integer, real, room_for, shown
from ufm._core.distinct import distinct_rows
from ufm.model.targets import MOST_SAMPLES, Targets, counts_of, is_one_number

MOST_SETS = 10**6  # of labels, each of which is a group
LEAST_A, MOST_A = 1e-6, 1e6  # beyond which λ is 0 or 1, or ½
SUMS_TO_ONE = 1e-6  # what a row of probabilities may lack, as float32 does


def classes(num_classes: Integer, per_class: Integer | Sequence[int] | np.ndarray) -> Targets:
    """Class labels: a group for each class, with rows e_k, the K unit vectors.

    As targets of a problem they are the same as `num_classes` and `per_class` (Papyan, Han & Donoho 2020).

    Args:
        num_classes: K ≥ 2.
        per_class: samples of each class, one positive integer or K of them.

    Returns:
        K groups of K outputs, rows I (K, K), weights one.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    K = _num_classes(num_classes)
    return Targets(np.eye(K), counts_of("per_class", per_class, K))


def noisy(
    num_classes: Integer, confusion: Real | ArrayLike, per_class: Integer | Sequence[int] | np.ndarray
) -> Targets:
    """Label noise where features belong to the clean class: its samples share features and are labelled at random.

    The mean cross-entropy to the random labels is that to the row of their probabilities, and so is the squared error
    but for the labels' variance. Noise whose features are free for each sample is no matter of targets: there samples
    group by their noisy label. Noise that is one number ε is label smoothing with α = ε K/(K−1). A confusion matrix as
    in Patrini et al. (2017); neural collapse under it, Nguyen et al. (2023).

    Args:
        num_classes: K ≥ 2.
        confusion: (K, K), the probability that a sample of class i is labelled j, rows that sum to one within 1e-6,
            which are kept as they are; or a number ε in [0, 1], the probability of a wrong label, each equally likely.
        per_class: samples of each clean class, one positive integer or K of them.

    Returns:
        K groups of K outputs, a group for each clean class, with its row of the confusion matrix; weights one.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    K = _num_classes(num_classes)
    return Targets(_confusion(confusion, K), counts_of("per_class", per_class, K))


def multilabel(num_classes: Integer, samples: Mapping[Any, Integer]) -> Targets:
    """Sets of labels, pick-all-label: the loss of a set is the sum of its labels' losses, so its row is 1_S.

    A row's mass is |S|; a loss averaged over a sample's labels is the same with weights 1/|S|, as
    `dataclasses.replace(targets, weights=1 / targets.masses)` says. Li et al. (2024).

    Args:
        num_classes: K ≥ 2 labels, 0 to K − 1.
        samples: positive integers, how many samples each set has. By a size from 1 to K: of every set of so many
            labels. By a set, as a tuple or a frozenset of labels: of that one. No set may be named twice.

    Returns:
        A group of K outputs for each set, by size, and of one size in lexicographic order; at most a million. Rows are
        0 or 1, weights one.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    K = integer("num_classes", num_classes, least=2)
    by_size, by_set = _sets(_mapping(samples, "samples by sizes, or by sets of labels,"), K)
    total = len(by_set) + sum(_subsets(K, size) for size in by_size)
    if total > MOST_SETS:
        raise ValueError(f"num_classes = {K}, samples = {shown(samples)}: at most {MOST_SETS:,} sets are possible")
    room_for(f"num_classes = {K}, samples = {shown(samples)}: rows of {total:,} sets (sets, K)", total * K)
    sizes = sorted(by_size.keys() | {len(labels) for labels in by_set})
    rows, counts = zip(*(_of_size(K, size, by_size, by_set) for size in sizes), strict=True)
    counts = np.concatenate(counts)
    return Targets(np.concatenate(rows), counts_of("samples", counts, len(counts)))


def mixup(
    num_classes: Integer, samples: Mapping[Real, Integer], per_class: Integer | Sequence[int] | np.ndarray
) -> Targets:
    """Mixup: samples mixed of two classes, λ of one and 1−λ of the other, with targets λ e_i + (1−λ) e_j.

    Every ordered pair i ≠ j has equally many samples at each λ. What is mixed within a class has the target e_i and is
    one group with its unmixed samples. Equal rows are one group: the pairs (i, j) at λ and (j, i) at 1−λ, and so both
    orders at λ = ½. Zhang et al. (2018); the geometry of its features, Fisher et al. (2024).

    Args:
        num_classes: K ≥ 2.
        samples: positive integers by λ in [0, 1]: samples of each ordered pair. `ufm.targets.beta` gives those of a λ
            from a Beta distribution.
        per_class: samples of each class alone, one positive integer or K of them.

    Returns:
        Groups of K outputs with weights one: first the classes', in order; then, for each λ ≥ ½ as they first appear,
        those of the pairs in lexicographic order, i < j at λ = ½.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    K = _num_classes(num_classes)
    grid = _grid(_mapping(samples, "samples of each ordered pair by λ"))
    alone = counts_of("per_class", per_class, K)
    room_for(f"num_classes = {K}, samples = {shown(samples)}: rows of mixed pairs (groups, K)", len(grid) * K**3)
    rows = np.concatenate([np.eye(K), *(_pairs(K, lam) for lam in grid)])
    counts = np.concatenate([alone, np.repeat(list(grid.values()), K * (K - 1))])
    mixed = Targets(rows, counts_of("samples and per_class", counts, len(rows)))
    return mixed.merged()[0]


def beta(a: Real, samples: Integer, *, points: Integer = 32) -> dict[float, int]:
    """λ from Beta(a, a) for `mixup`: the Gauss–Jacobi rule, exact for polynomials of degree below twice its points.

    Each λ has its share of the samples, as feature decay is per sample: a group's weight would multiply its loss alone,
    and the minimum would be another. Shares are rounded to whole samples, so that the more samples there are, the more
    exact the rule is. For a fresh λ at every step N has no meaning, but the decay of all samples N λ_H has: take many,
    and `lambda_H = decay / targets.num_samples`.

    λ and 1−λ, with the pair in the other order, are one target; so only those from ½ are named, with the samples of
    both. Beta(a, a) as in Zhang et al. (2018), the rule as in Golub & Welsch (1969).

    Args:
        a: of both of the distribution's parameters, from 1e-6 to 1e6; 1 is the uniform distribution, and from 0.1 to
            0.4 is usual.
        samples: of each ordered pair in all, a positive integer. Two classes drawn independently are the same class as
            often as any ordered pair: then `per_class` is as many.
        points: of the rule, from 1 to 1,000. Near λ = 1 features turn within O(ĉ), which a small decay resolves with
            more points only.

    Returns:
        Samples by λ, ascending from ½, that add up to `samples`; λ that would have none are left out.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    a = real("a", a, least=LEAST_A)
    if a > MOST_A:
        raise ValueError(f"a = {a!r}: a number from {LEAST_A:g} to {MOST_A:g} is needed")
    samples = integer("samples", samples, least=1, most=MOST_SAMPLES)
    lams, shares = _gauss_jacobi(a, integer("points", points, least=1, most=1000))
    counts = _apportioned(samples, shares)
    return {float(lam): int(count) for lam, count in zip(lams, counts, strict=True) if count}


def next_token(counts: ArrayLike, per_context: bool = False) -> Targets:
    """Next tokens: how often each token followed each context, as rows of frequencies.

    Thrampoulidis (2024) and Zhao et al. (2024) decay each distinct context once, which is `per_context=True`.

    Args:
        counts: (contexts, tokens) whole numbers of at least zero, how often a token followed a context; each context
            at least once. A token that never occurs is a column of zeros, which a cross-entropy with a free bias can't
            have.
        per_context: False for n_m occurrences of the context, each with features that decay; True for each distinct
            context decayed once, n_m = 1 with weights M π_m, π_m the share of the context's occurrences. Loss and
            frequencies are the same.

    Returns:
        A group for each context, in order, with a row counts/Σ counts of as many outputs as tokens.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    needed = "whole numbers of at least zero of shape (contexts, tokens), with a positive sum in each row,"
    table = doubles("counts", counts, (None, None), needed)
    if np.any(table < 0) or np.any(table > MOST_SAMPLES) or np.any(table % 1 != 0):
        raise ValueError(f"counts = {shown(counts)}: {needed} are needed")
    occurrences = table.sum(axis=1)
    if not np.all(occurrences > 0):
        raise ValueError(f"counts = {shown(counts)}: {needed} are needed")
    rows = table / occurrences[:, None]
    if flag("per_context", per_context):
        return Targets(rows, 1, weights=len(rows) * occurrences / occurrences.sum())
    return Targets(rows, occurrences.astype(np.int64))


def of_samples(Y: ArrayLike) -> Targets:
    """Targets of a data set, one row a sample: a regression's, soft labels, or a teacher's probabilities.

    `Targets(Y, 1)` keeps the samples apart instead, in their order; the minimum is the same. For regression,
    Andriopoulos et al. (2024); for a teacher's probabilities, Hinton, Vinyals & Dean (2015).

    Args:
        Y: (N, K) finite numbers, in the units of the outputs; one output is `Y[:, None]`.

    Returns:
        A group for each distinct row, in the order in which they first appear, with as many samples as have it; weights
        one.

    Raises:
        ValueError: where Y has another shape, a NaN or an infinity.
    """
    rows = doubles("Y", Y, (None, None), "finite numbers of shape (samples, outputs)") + 0.0
    first, index = distinct_rows(rows)
    return Targets(rows[first], np.bincount(index))


def _num_classes(value: Any) -> int:
    K = integer("num_classes", value, least=2)
    room_for(f"num_classes = {K}: rows (K, K)", K**2)
    return K


def _mapping(samples: Any, needed: str) -> Mapping[Any, Any]:
    """`samples` where it says anything by keys."""
    if len(instance("samples", samples, Mapping, f"a mapping of {needed}")) == 0:
        raise ValueError(f"samples = {samples!r}: {needed} is needed, one at least")
    return samples


def _probability(name: str, value: Any, needed: str) -> float:
    found = real(name, value, least=0.0)
    if found > 1:
        raise ValueError(f"{name} = {shown(value)}: {needed} is needed")
    return found


def _confusion(confusion: Any, K: int) -> np.ndarray:
    """The matrix (K, K) of a matrix or of one probability of an error."""
    needed = f"a probability, or {K} rows of {K} that sum to one,"
    if is_one_number(confusion):
        wrong = _probability("confusion", confusion, needed)
        return np.where(np.eye(K, dtype=bool), 1.0 - wrong, wrong / (K - 1))
    rows = doubles("confusion", confusion, (K, K), needed)
    if np.any(rows < 0) or not np.allclose(rows @ np.ones(K), 1.0, rtol=0.0, atol=SUMS_TO_ONE):
        raise ValueError(f"confusion = {shown(confusion)}: {needed} is needed")
    return rows


def _sets(samples: Mapping[Any, Any], K: int) -> tuple[dict[int, int], dict[tuple[int, ...], int]]:
    """Samples by size, and by sorted tuple of labels."""
    by_size, by_set = {}, {}
    for key, value in samples.items():
        count = integer(f"samples[{shown(key)}]", value, least=1, most=MOST_SAMPLES)
        if is_one_number(key):
            by_size[integer("samples: a size", key, least=1, most=K)] = count
            continue
        labels = _labels(key, K)
        if labels in by_set:
            raise ValueError(f"samples = {shown(samples)}: the set {labels} is named twice")
        by_set[labels] = count
    for labels in by_set:
        if len(labels) in by_size:
            raise ValueError(f"samples = {shown(samples)}: the set {labels} is one of those of size {len(labels)} too")
    return by_size, by_set


def _labels(key: Any, K: int) -> tuple[int, ...]:
    """The labels of a set, ascending."""
    found = entries(key, ordered=False)
    if not found:
        raise ValueError(f"samples: {shown(key)}: a size, or a tuple or frozenset of labels, is needed")
    labels = sorted(integer(f"samples: a label of {shown(key)}", label, least=0, most=K - 1) for label in found)
    if len(set(labels)) < len(labels):
        raise ValueError(f"samples: {shown(key)}: a set of different labels is needed")
    return tuple(labels)


def _subsets(K: int, size: int) -> int:
    """How many sets of so many labels there are; where it is above a million, another number above it."""
    return math.comb(K, min(size, K - size, 12))  # C(24, 12) is 2.7 million, and more labels only have more


def _of_size(K: int, size: int, by_size: dict, by_set: dict) -> tuple[np.ndarray, np.ndarray]:
    """Rows and counts of the sets of one size, in lexicographic order."""
    if size in by_size:
        sets: Any = itertools.combinations(range(K), size)
        counts = np.full(math.comb(K, size), by_size[size])
    else:
        sets = sorted(labels for labels in by_set if len(labels) == size)
        counts = np.array([by_set[labels] for labels in sets])
    labels = np.fromiter(itertools.chain.from_iterable(sets), np.intp, len(counts) * size).reshape(-1, size)
    rows = np.zeros((len(counts), K))
    np.put_along_axis(rows, labels, 1.0, axis=1)
    return rows, counts


def _grid(samples: Mapping[Any, Any]) -> dict[float, int]:
    """Samples of each ordered pair by λ ≥ ½, where λ and 1−λ are together; 1 − λ is exact there."""
    grid: dict[float, int] = {}
    for key, value in samples.items():
        lam = _probability("samples: λ", key, "a number from 0 to 1")
        lam = max(lam, 1.0 - lam)
        grid[lam] = grid.get(lam, 0) + integer(f"samples[{shown(key)}]", value, least=1, most=MOST_SAMPLES)
    return grid


def _pairs(K: int, lam: float) -> np.ndarray:
    """Rows of the ordered pairs at one λ, in lexicographic order."""
    first, second = np.nonzero(~np.eye(K, dtype=bool))
    unit = np.eye(K)
    return lam * unit[first] + (1.0 - lam) * unit[second]


def _gauss_jacobi(a: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes λ ≥ ½, ascending, and what the rule for Beta(a, a) gives each and its reflection together.

    By the Jacobi matrix of Gegenbauer's polynomials (Golub & Welsch 1969), whose errors stay at rounding for any a.
    """
    k = np.arange(2, points)
    later = k * (k + 2 * a - 2) / ((2 * k + 2 * a - 1) * (2 * k + 2 * a - 3))
    squares = np.concatenate([[1 / (2 * a + 1)], later])[: points - 1]  # the first would be 0/0 at a = ½
    nodes, vectors = np.linalg.eigh(np.diag(np.sqrt(squares), -1))
    lams, shares = 0.5 + 0.5 * nodes, vectors[0] ** 2
    upper = points // 2
    shares = (shares + shares[::-1])[upper:]
    if points % 2:  # the middle is its own reflection
        lams[upper], shares[0] = 0.5, 0.5 * shares[0]
    return lams[upper:], shares / shares.sum()


def _apportioned(total: int, shares: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to the total, each within one of its share."""
    ends = np.minimum(np.rint(total * np.cumsum(shares)), total)
    ends[-1] = total
    return np.diff(ends, prepend=0.0).astype(np.int64)
