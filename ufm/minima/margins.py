"""The hard-margin problem in logits, and its dual: which outputs each group wants, and what margins of 1 cost.

Groups m of n_m samples want outputs S_m. Of logits Z (M, K), bias included, equal on S_m and higher there by at least 1
than elsewhere, the cheapest factors H Aᵀ = Z − 1bᵀ have ½(‖A‖² + ‖H‖²) = ‖D^{1/2}(Z − 1bᵀ)‖_*, D = diag n. With
multipliers U (M, K) of the margins, y_mv = −U_mv ≥ 0 off the support, whose rows sum to zero, and with a free bias its
columns too,

    min ‖D^{1/2}(Z − 1bᵀ)‖_* = max Σ y_mv subject to ‖D^{-1/2} U‖_op ≤ 1.

- Constants of rows cost nothing either: centring rows projects, and lowers the norm. So does the best b, the mean of Z
  over samples.
- Groups of equal support have equal logits: their average, by a projection, costs no more. Counts add. Likewise
  outputs that the same groups want: c_k of them make a column of weight √c_k, and D^{1/2} Z C^{1/2} is what is priced.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ufm._core.checks import shown
from ufm._core.distinct import distinct_rows
from ufm._core.linalg import operator_norm
from ufm._core.precision import allowance
from ufm.model.losses import facts_of
from ufm.model.problem import Problem

NO_DIRECTION = 1e-13  # relative to the largest: a singular value that would be zero but for rounding


class Supports(NamedTuple):
    """Which outputs groups want; no two groups want the same ones, and no two outputs are wanted by the same groups.

    Attributes:
        wanted: the supports.
        counts: samples of each group, D.
        copies: outputs that each column stands for, C.
        free_bias: whether there is a bias that costs nothing.
        group: which of these groups each of the problem's is.
        column: which of these columns each of the problem's outputs is.
    """

    wanted: Bool[np.ndarray, "M K"]
    counts: Float[np.ndarray, " M"]
    copies: Float[np.ndarray, " K"]
    free_bias: bool
    group: Int[np.ndarray, " groups"]
    column: Int[np.ndarray, " outputs"]

    @property
    def roots(self) -> tuple[np.ndarray, np.ndarray]:
        """The diagonals of D^{1/2}, (M, 1), and of C^{1/2}, (K,)."""
        return np.sqrt(self.counts)[:, None], np.sqrt(self.copies)

    @property
    def share(self) -> np.ndarray:
        """(M,) of samples."""
        return self.counts / np.sum(self.counts)

    def bias_of(self, Z: np.ndarray) -> np.ndarray:
        """(K,) the bias that leaves logits cheapest."""
        return self.share @ Z if self.free_bias else np.zeros(Z.shape[1])

    def projected(self, B: np.ndarray) -> np.ndarray:
        """What of D^{1/2} Z C^{1/2} (M, K) costs something: neither constants of rows nor, if it is free, a bias."""
        left, right = self.roots
        B = B - np.outer(B @ right, right / np.sum(self.copies))
        return B - np.outer(left, left[:, 0] @ B / np.sum(self.counts)) if self.free_bias else B

    def priced(self, Z: np.ndarray) -> np.ndarray:
        """(M, K) the same of logits Z."""
        left, right = self.roots
        return self.projected(left * Z * right)

    def margin(self, Z: np.ndarray) -> float:
        """The least that a wanted output's logit leads one by that isn't; infinite where all are wanted."""
        lowest = np.min(np.where(self.wanted, Z, np.inf), axis=1)
        highest = np.max(np.where(self.wanted, -np.inf, Z), axis=1)
        return float(np.min(lowest - highest))

    def spread(self, Z: np.ndarray) -> float:
        """The most that logits of one support differ by."""
        lowest = np.min(np.where(self.wanted, Z, np.inf), axis=1)
        return float(np.max(np.max(np.where(self.wanted, Z, -np.inf), axis=1) - lowest))


def supports_of(problem: Problem) -> Supports:
    """The supports of a problem's targets; with class labels one output each."""
    rows = np.eye(problem.num_classes) if problem.targets is None else np.asarray(problem.targets.rows)
    table = (rows > 0).astype(np.float64)
    first, group = distinct_rows(table)
    counts = np.bincount(group, weights=problem.group_counts)
    first_column, column = distinct_rows(np.ascontiguousarray(table[first].T))
    return Supports(
        wanted=table[first][:, first_column] > 0,
        counts=counts,
        copies=np.bincount(column).astype(np.float64),
        free_bias=problem.bias_kind == "free",
        group=group,
        column=column,
    )


class Priced(NamedTuple):
    """Logits Z (M, K) whose least margin is 1, what they cost, and D^{1/2} Z C^{1/2} = X diag(s) Vᵀ without zeros."""

    logits: np.ndarray
    value: float
    X: np.ndarray
    s: np.ndarray
    Vt: np.ndarray


def priced(supports: Supports, Z: np.ndarray) -> Priced:
    """Of logits that are equal on each support, with a margin above zero."""
    Z = Z / supports.margin(Z)
    X, s, Vt = np.linalg.svd(supports.priced(Z), full_matrices=False)
    there = s > NO_DIRECTION * s[0]
    return Priced(Z, float(np.sum(s)), X[:, there], s[there], Vt[there])


def lower_bound(supports: Supports, U: np.ndarray) -> float:
    """What multipliers prove that no logits cost less than, with an allowance for rounding; 0 where they prove nothing.

    With sums of rows r and of columns c that rounding leaves, r moved to a wanted output of each row,
    Σ y ≤ ⟨U, Z⟩ = ⟨U, Z − 1bᵀ⟩ + cᵀb at the cheapest logits, of value V. Each output v is wanted by a group m, so that
    b_k − b_v ≤ (Z − 1bᵀ)_mv − (Z − 1bᵀ)_mk ≤ 2V/√(n c) with the least n and c: what is left adds to the norm of U.
    """
    left, right = supports.roots
    if supports.free_bias:
        U = U - np.outer(supports.share, np.sum(U, axis=0))
    size = float(np.max(np.abs(U))) or 1.0
    if np.max(U[~supports.wanted]) > allowance() * size:
        return 0.0
    U = np.where(supports.wanted, U, np.minimum(U, 0.0))
    rows, columns = (np.abs(sums(U, axis)) for axis in (1, 0))
    off = float(np.linalg.norm(rows / left[:, 0]) / np.min(right))
    if supports.free_bias:
        off += 2.0 * float(np.sum(rows) + np.sum(columns)) / float(np.min(left) * np.min(right))
    norm = (1.0 + allowance()) * operator_norm(U / left / right) + off
    return float((1.0 - allowance()) * -np.sum(U[~supports.wanted]) / norm)


def sums(terms: np.ndarray, axis: int) -> np.ndarray:
    """Of what may cancel, in extended precision."""
    return np.asarray(np.sum(terms, axis=axis, dtype=np.longdouble), np.float64)


def centred_supports(supports: Supports) -> tuple[Priced, float]:
    """The supports themselves as logits, 1 on them and 0 off them, and what their polar factor proves.

    W = polar(D^{1/2} Z C^{1/2}) has ⟨W, D^{1/2} Z C^{1/2}⟩ = ‖·‖_*. Where it isn't positive off the supports,
    U = D^{1/2} W C^{1/2} are multipliers, and ⟨U, Z⟩ = Σ y, since every margin is 1: these logits are the cheapest. So
    it is of class labels, whatever the counts (Thrampoulidis et al. 2022), and of many supports, not of all.
    """
    best = priced(supports, supports.wanted.astype(np.float64))
    left, right = supports.roots
    return best, lower_bound(supports, left * (best.X @ best.Vt) * right)


def has_margins(problem: Problem) -> bool:
    """Whether a problem is one that `check_margins` lets pass."""
    try:
        check_margins(problem)
    except ValueError:
        return False
    return True


def check_margins(problem: Problem) -> None:
    """Refuse a problem without margins to widen.

    Raises:
        ValueError: naming the argument, its value and what is legal.
    """
    facts, said = facts_of(problem.loss), shown(problem.loss)
    if not (facts.convex and facts.falls_exponentially and facts.one_rate):
        raise ValueError(
            f"loss = {said}: a convex loss that falls exponentially with the margin, at one rate in all margins, such "
            "as ufm.CrossEntropy(), is needed; of others logits have no such direction, or none is known here"
        )
    if problem.widths:
        raise ValueError(f"widths = {problem.widths}: a problem without hidden layers, widths=(), is needed")
    for factor in problem.factors():
        if factor.constraint.bounds or factor.constraint.fixed or not factor.constraint.rotatable:
            raise ValueError(f"{factor.side} = {shown(factor.constraint)}: ufm.Free() is needed, rows that can grow")
    if problem.targets is not None:
        _check_targets(problem, facts.conjugate_on_simplex, said)


def _check_targets(problem: Problem, on_simplex: bool, said: str) -> None:
    """Refuse targets without outputs that nobody wants."""
    if not on_simplex:
        raise ValueError(
            f"loss = {said} with targets: a loss whose conjugate is finite on the simplex about a row, such as "
            "ufm.CrossEntropy(), is needed"
        )
    if problem.targets is not None and np.all(np.asarray(problem.targets.rows) > 0):
        raise ValueError(
            "targets: every entry of their rows is positive, so that all log-odds stay finite, and there is no margin; "
            "a row with a zero is needed"
        )
