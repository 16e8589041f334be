"""Class labels' cheapest logits with margins of 1, and their proof, on the different counts of classes.

The logits I − 1wᵀ, w = 1/K or with a free bias n/N, treat the m_g classes of one count n_g alike (see
`ufm.minima.sectors`): D^{1/2}(I − 1wᵀ) is T_gh = √n_g (δ_gh − √m_g w_h √m_h) on what is constant on each size, and √n_g
on each size's m_g − 1 other directions. So is its polar factor, P of T and 1, whose entries off the diagonal are
(P_gg − 1)/m_g within a size and P_gh/√(m_g m_h) between sizes: the multipliers, but for √n_g and the sign. Everything
takes a decomposition of G × G numbers, whatever K is.
"""

from typing import NamedTuple

import numpy as np

from ufm._core.linalg import operator_norm
from ufm._core.precision import allowance
from ufm.minima.margins import NO_DIRECTION, sums
from ufm.minima.sectors import Sectors
from ufm.model.problem import Problem


class Labelled(NamedTuple):
    """Balanced factors with margins of 1, what they cost, a bound on what any cost, and the dimensions they take."""

    sectors: Sectors
    value: float
    lower_bound: float
    rank: int


def labelled(problem: Problem) -> Labelled:
    """Simplex-encoded labels (Thrampoulidis et al. 2022) of a problem with class labels."""
    K, free = problem.num_classes, problem.bias_kind == "free"
    counts, size_of, m = np.unique(problem.class_counts, return_inverse=True, return_counts=True)
    n, m, several = counts.astype(np.float64), m.astype(np.float64), m > 1
    w = n / (m @ n) if free else np.full(len(n), 1.0 / K)
    root = np.sqrt(n)
    T = root[:, None] * (np.eye(len(n)) - np.sqrt(m)[:, None] * w * np.sqrt(m))
    X, s, Vt = np.linalg.svd(T)
    alive = s > NO_DIRECTION * np.max(root)
    X, s, V = X[:, alive], s[alive], Vt[alive].T
    sectors = Sectors(
        size_of=size_of,
        trivial_H=X * np.sqrt(s) / root[:, None],
        trivial_A=V * np.sqrt(s),
        standard_H=np.where(several, n**-0.25, 0.0),
        standard_A=np.where(several, n**0.25, 0.0),
        b=w - 1.0 / K if free else np.zeros(len(n)),
    )
    value = float(np.sum(s) + (m - 1.0) @ root)
    return Labelled(sectors, value, _lower_bound(X @ V.T, n, m, free), int(np.sum(alive) + np.sum(m - 1.0)))


def _lower_bound(P: np.ndarray, n: np.ndarray, m: np.ndarray, free: bool) -> float:
    """What P proves, with an allowance for rounding, as `ufm.minima.margins.lower_bound` does; 0 for a wrong sign."""
    root, alike = np.sqrt(n), np.sqrt(m)
    if free:
        P = P - np.outer(root * alike, (root * alike) @ P) / (m @ n)
    own = np.diagonal(P)
    between = P - np.diag(own)
    if max(np.max(between), np.max(own) - 1.0) > allowance():
        return 0.0
    own, between = np.minimum(own, 1.0), np.minimum(between, 0.0)
    P = between + np.diag(own)
    total = (m - 1.0) @ (root * (1.0 - own)) - alike * root @ between @ alike
    rows, columns = (
        np.abs(sums(P.astype(np.longdouble) * alike, 1)),
        np.abs(sums((root * alike)[:, None] * P.astype(np.longdouble), 0)),
    )
    off = float(np.linalg.norm(rows))
    off += 2.0 * float(root * alike @ rows + alike @ columns) / float(np.min(root)) if free else 0.0
    norm = (1.0 + allowance()) * max(operator_norm(P), float(np.max(m) > 1)) + off
    return float((1.0 - allowance()) * total / norm)
