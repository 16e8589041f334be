"""Neural collapse in numbers: NC1–NC4 and their relatives, from sums over samples in two passes.

With class means μ_k, the mean of class means μ_G (not the sample mean: the two differ where classes are
unbalanced), C the centred means μ_k − μ_G and M their rows normalised,

    Cov_W = (1/N) Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ,    Cov_B = (1/K) Σ_k (μ_k − μ_G)(μ_k − μ_G)ᵀ.

On balanced classes they add up to the total covariance; on unbalanced ones they do not. A covariance is never
formed: everything follows from the smaller of the K×K and d×d Grams of the centred means.

Classes are what labels name, and K is how many there are: of means, and where class labels are learned also of the
classifier's rows. Beside a classifier of another number of rows, what pairs a row with a mean (nc3, nc4, self_duality,
accuracy) is None; nothing else needs both numbers to be the same.

A zero vector or matrix normalises to zero. So where all means are equal NC2, NC3 and self-duality are 1,
equinorm and cosines are 0; and a ratio to a vanishing between-class spread is ∞, or 0 where the within-class
spread vanishes too. No metric is ever negative.
"""

import numbers
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace, namespace_of
from ufm._core.blocks import cut, fits, scan_blocks
from ufm._core.repr import call
from ufm.metrics.arithmetic import norm, over, ratio, root
from ufm.metrics.passes import Centres, Spreads, centres, first_pass, paired, second_pass, verdicts


@storable
class Metrics(NamedTuple):
    """Dimensionless measures of collapse; what needs a classifier is None where none was given.

    Attributes:
        nc1: (1/K) Tr(Cov_W Cov_B†), within-class over between-class variability.
        nc2: ‖MMᵀ/‖MMᵀ‖ − (I − J/K)/√(K−1)‖, the means' distance to a simplex ETF.
        nc3: ‖AMᵀ/‖AMᵀ‖ − (I − J/K)/√(K−1)‖, the classifier's misalignment with the means.
        nc4: share of samples on which the classifier and the nearest class centre disagree.
        equinorm: standard deviation over mean of the norms of the centred means.
        equinorm_A: the same of the classifier's rows.
        equiangular: standard deviation of the cosines between centred means.
        simplex_angle: mean |cos + 1/(K−1)| between centred means.
        self_duality: ‖A/‖A‖ − C/‖C‖‖ with A as it is and C the centred means, not row-normalised.
        trace_ratio: Tr Cov_W / Tr Cov_B.
        cdnv: class-distance normalised variance, mean over pairs of (σ_k² + σ_l²)/(2‖μ_k − μ_l‖²)
            (Galanti et al. 2022).
        accuracy: share of samples that the classifier gets right.
    """

    nc1: Any
    nc2: Any
    nc3: Any
    nc4: Any
    equinorm: Any
    equinorm_A: Any
    equiangular: Any
    simplex_angle: Any
    self_duality: Any
    trace_ratio: Any
    cdnv: Any
    accuracy: Any

    def __str__(self) -> str:
        """One line for a log: NC1–NC4 and the accuracy, those that are known."""
        values = dict(self.known())
        if not all(isinstance(value, numbers.Real) for value in values.values()):
            return repr(self)  # of traced numbers, or of a history's arrays
        formats = {"nc1": ".1e", "nc2": ".1e", "nc3": ".1e", "nc4": ".1e", "accuracy": ".4f"}
        return "  ".join(f"{name} {values[name]:{form}}" for name, form in formats.items() if name in values)

    def __repr__(self) -> str:
        return call("Metrics", dict(self.known()))

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(("metric", "value"), self.known())

    def known(self) -> list[tuple[str, Any]]:
        """Names and values of those that were measured."""
        return [(name, value) for name, value in self._asdict().items() if value is not None]


# What a label of a plot or of a variable says of each metric, and of what stands beside them in a history.
LONG_NAMES = {
    "step": "optimiser steps",
    "loss": "objective",
    "nc1": "NC1: within-/between-class variability Tr(Σ_W Σ_B†)/K",
    "nc2": "NC2: distance of the class means to a simplex ETF",
    "nc3": "NC3: misalignment of classifier and class means",
    "nc4": "NC4: disagreement with the nearest class centre",
    "equinorm": "spread of the class means' norms",
    "equinorm_A": "spread of the classifier's row norms",
    "equiangular": "spread of the cosines between class means",
    "simplex_angle": "mean |cos + 1/(K−1)| between class means",
    "self_duality": "distance of the classifier to the class means, each of norm 1",
    "trace_ratio": "within-/between-class variability Tr Σ_W / Tr Σ_B",
    "cdnv": "class-distance normalised variance",
    "accuracy": "accuracy on these samples",
}


def of_columns(
    H: Float[Array, "d N"],
    labels: Int[Array, " N"],
    num_groups: int,
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"] | None,
) -> Metrics:
    """All metrics of features in columns, as jitted code holds them; in their namespace, traceable."""
    sums = first_pass(H, labels, num_groups)
    about = centres(sums.count, sums.means())
    return summary(about, second_pass(H, labels, about, A, b), A)


def of_means(
    means: Float[Array, "groups d"], count: Float[Array, " groups"], A: Float[Array, "K d"], b: Float[Array, " K"]
) -> Metrics:
    """Metrics of features that have collapsed to their means, `count` of each class; in their namespace, traceable."""
    xp, about = namespace(means, count, A, b), centres(count, means)
    spreads = Spreads(xp.ones((), count.dtype), xp.zeros_like(count), xp.zeros((), count.dtype), None, None)
    if paired(A, about):
        share = count / xp.sum(count)
        judged = verdicts(means.T, xp.arange(len(count), dtype=np.int32), about, A, b)
        disagreements, right = (xp.sum(xp.where(verdict, share, 0.0)) for verdict in judged)
        spreads = spreads._replace(disagreements=disagreements, right=right)
    return summary(about, spreads, A)


def summary(about: Centres, spreads: Spreads | None, A: Float[Array, "K d"] | None) -> Metrics:
    """Metrics from the sums of the two passes; None for what a missing pass or classifier would tell."""
    values = dict.fromkeys(Metrics._fields) | _of_centres(about)
    if A is not None:
        values["equinorm_A"] = _relative_spread(norm(A, axis=1))
    if paired(A, about):
        values |= _of_pairs(about, A)
    if spreads is not None:
        values |= _of_spreads(about, spreads)
    return Metrics(**values)


def _of_centres(about: Centres) -> dict[str, Any]:
    """What the class means alone say."""
    norms = norm(about.centred, axis=1)
    M = over(about.centred, norms[:, None])
    spread_of_cosines, angle = _cosines(M)
    return {
        "nc2": _simplex_distance(M, M),
        "equinorm": _relative_spread(norms),
        "equiangular": spread_of_cosines,
        "simplex_angle": angle,
    }


def _of_pairs(about: Centres, A) -> dict[str, Any]:
    """What class means and a classifier with a row for each say of one another."""
    C = about.centred
    return {
        "nc3": _simplex_distance(A, over(C, norm(C, axis=1)[:, None])),
        "self_duality": norm(over(A, norm(A)) - over(C, norm(C))),
    }


def _of_spreads(about: Centres, spreads: Spreads) -> dict[str, Any]:
    """What samples about their means say, and how often the classifier agrees with them."""
    xp, C, noise = namespace_of(about, spreads), about.centred, about.rounding**2
    within = xp.sum(spreads.within) / spreads.samples  # Tr Cov_W
    between = xp.mean(norm(C, axis=1) ** 2)  # Tr Cov_B
    apart = xp.any(about.whitener != 0)
    values = {
        # with WᵀW = (CᵀC)† = Cov_B†/K, (1/K) Tr(Cov_W Cov_B†) is the mean over samples of ‖W(h − μ_y)‖²
        "nc1": xp.where(apart, spreads.whitened / spreads.samples, ratio(within, xp.zeros_like(within), noise)),
        "trace_ratio": ratio(within, between, noise),
        "cdnv": _cdnv(spreads.within / about.count, C, noise),
    }
    if spreads.disagreements is None:
        return values
    return values | {"nc4": spreads.disagreements / spreads.samples, "accuracy": spreads.right / spreads.samples}


def _relative_spread(norms):
    xp = namespace(norms)
    return over(root(xp.var(norms)), xp.mean(norms))


def _simplex_distance(X, Y):
    """‖XYᵀ/‖XYᵀ‖ − (I − J/K)/√(K−1)‖ for X and Y (K, d).

    The difference is formed where it can vanish (K ≤ d + 1, and as far as it costs little more). Beyond, with G = XYᵀ
    and the simplex's Gram T of norm 1, the square is [G ≠ 0] + 1 − 2⟨G, T⟩/‖G‖, of which ‖G‖² = Tr(XᵀX YᵀY) and
    ⟨G, T⟩ √(K−1) = Tr G − (sum of G's entries)/K take d×d Grams and sums.
    """
    xp, (K, d) = namespace(X, Y), X.shape
    scale = xp.sqrt(xp.asarray(K - 1, X.dtype))
    if 2 * d >= K:
        G = X @ Y.T
        T = (xp.eye(K, dtype=G.dtype) - 1.0 / K) / scale
        return norm(over(G, norm(G)) - T)
    norm_of_G = root(xp.sum((X.T @ X) * (Y.T @ Y)))
    trace, total = xp.sum(X * Y), xp.sum(xp.sum(X, axis=0) * xp.sum(Y, axis=0))
    present = (norm_of_G > 0).astype(X.dtype)
    cosine = over(trace - total / K, norm_of_G) / scale
    return root(1.0 + present - 2.0 * cosine)


def _cosines(M):
    """Standard deviation of the cosines between distinct rows of M (K, d), and their mean distance to −1/(K−1)."""
    xp, K = namespace(M), M.shape[0]
    pairs = K * (K - 1)
    # of all ordered pairs ⟨m_k, m_l⟩ adds up to ‖Σ m_k‖², of which Σ ‖m_k‖² are those with themselves
    mean = (xp.sum(xp.sum(M, axis=0) ** 2) - xp.sum(M**2)) / pairs

    def of_block(take):
        cosines = take(M) @ M.T  # (rows of the block, K)
        return (cosines - mean) ** 2, xp.abs(cosines + 1.0 / (K - 1))

    squares, distances = _over_pairs(of_block, K, (mean, mean))
    return root(squares / pairs), distances / pairs


def _cdnv(variances, C, noise):
    """Mean over ordered pairs k ≠ l of σ_k²/‖μ_k − μ_l‖², which equals the symmetric definition."""
    xp, K = namespace(variances, C, noise), C.shape[0]
    squares = xp.sum(C**2, axis=1)

    def of_block(take):
        # (rows of the block, K) of ‖c_k‖² + ‖c_l‖² − 2⟨c_k, c_l⟩
        distances = take(squares)[:, None] + squares[None, :] - 2.0 * (take(C) @ C.T)
        return ratio(take(variances)[:, None], xp.maximum(distances, 0.0), noise)

    return _over_pairs(of_block, K, noise) / (K * (K - 1))


def _over_pairs(of_block, K, like):
    """Sums over ordered pairs k ≠ l of matrices (k, l), whole or by blocks of rows k.

    `of_block(take)` makes the rows of the matrices that `take` cuts of an array of K rows; `like` has their structure.
    """
    xp = namespace_of(like)

    def summed(distinct, take):
        return jax.tree.map(lambda matrix: xp.sum(xp.where(distinct, matrix, 0.0)), of_block(take))

    def step(totals, first, is_new):
        k = first + xp.arange(is_new.shape[0], dtype=first.dtype)
        distinct = is_new[:, None] & (k[:, None] != xp.arange(K, dtype=first.dtype)[None])
        return jax.tree.map(xp.add, totals, summed(distinct, lambda x: cut(x, first, is_new)))

    if fits(K, K):
        return summed(~xp.eye(K, dtype=bool), lambda x: x)
    return scan_blocks(step, jax.tree.map(xp.zeros_like, like), K, K)
