"""NC1–NC4 and their relatives of a point that treats classes of one size alike, whatever the number of classes.

A K × K matrix that commutes with permutations of the classes of each size is a G × G block T on the trivial sector and
a number s_g on each standard sector, so that its squared norm is ‖T‖² + Σ (m_g − 1) s_g². The simplex's Gram
(I − J/K)/√(K−1) has T = (I − √m√mᵀ/K)/√(K−1) and s_g = 1/√(K−1). The mean of class means has no part in the standard
sectors. Definitions and conventions are those of `ufm.metrics.definitions`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from ufm.metrics.definitions import Metrics
from ufm.minima.sectors import Sectors

EPS = float(np.finfo(np.float64).eps)


class Rows(NamedTuple):
    """A row for each class, alike within sizes: row k is trivial[g]/√m_g ⊕ standard[g] q_k.

    Of m: (G,) the multiplicities, of trivial: (G, r), of standard: (G,).
    """

    m: Float[np.ndarray, " G"]
    trivial: Float[np.ndarray, "G r"]
    standard: Float[np.ndarray, " G"]

    def norms(self) -> Float[np.ndarray, " G"]:
        """The norm of a row of each size."""
        return np.sqrt((np.sum(self.trivial**2, axis=1) + (self.m - 1) * self.standard**2) / self.m)

    def norm(self) -> float:
        """Frobenius norm."""
        return float(np.sqrt(np.sum(self.trivial**2) + np.sum((self.m - 1) * self.standard**2)))

    def scaled(self, factors: Any) -> "Rows":
        """Rows times a number, or one for each size."""
        return Rows(self.m, self.trivial * np.reshape(factors, (-1, 1)), self.standard * factors)

    def normalised(self) -> "Rows":
        """All of them over their norm."""
        return self.scaled(_over(1.0, self.norm()))


def metrics_of(sectors: Sectors, counts: Num[np.ndarray, " K"]) -> Metrics:
    """What `ufm.metrics.definitions.of_means` says of the lifted point, in time and memory of order G² r + K.

    Args:
        sectors: the point.
        counts: samples of each class.
    """
    m = sectors.multiplicities
    means, A = Rows(m, sectors.trivial_H, sectors.standard_H), Rows(m, sectors.trivial_A, sectors.standard_A)
    C = _centred(means)
    M = C.scaled(_over(1.0, C.norms()))
    spread_of_cosines, angle = _cosines(M)
    decided, nearest = _decisions(sectors, A, means, sectors.b), _nearest(sectors, C, means)
    return Metrics(
        nc1=0.0,
        nc2=_simplex_distance(M, M),
        nc3=_simplex_distance(A, M),
        nc4=_share(counts, decided != nearest),
        equinorm=_relative_spread(C.norms(), m),
        equinorm_A=_relative_spread(A.norms(), m),
        equiangular=spread_of_cosines,
        simplex_angle=angle,
        self_duality=_distance(A.normalised(), C.normalised()),
        trace_ratio=0.0,
        cdnv=0.0,
        accuracy=_share(counts, decided == np.arange(len(counts))),
    )


def _mean_of_means(means: Rows) -> Float[np.ndarray, " r"]:
    """In the shared axes."""
    return np.sqrt(means.m) @ means.trivial / np.sum(means.m)


def _centred(means: Rows) -> Rows:
    """Centred means; what the rounding of the centring leaves is zero."""
    trivial = means.trivial - np.sqrt(means.m)[:, None] * _mean_of_means(means)
    centred = means._replace(trivial=trivial)
    return centred.scaled(np.where(centred.norms() <= 4 * EPS * means.norm(), 0.0, 1.0))


def _simplex_distance(X: Rows, Y: Rows) -> float:
    """‖XYᵀ/‖XYᵀ‖ − (I − J/K)/√(K−1)‖."""
    m, K = X.m, np.sum(X.m)
    product = Rows(m, X.trivial @ Y.trivial.T, X.standard * Y.standard)
    simplex = Rows(m, np.eye(len(m)) - np.sqrt(np.outer(m, m)) / K, np.ones(len(m)))
    return _distance(product.normalised(), simplex.scaled(1 / np.sqrt(K - 1)))


def _distance(X: Rows, Y: Rows) -> float:
    return Rows(X.m, X.trivial - Y.trivial, X.standard - Y.standard).norm()


def _relative_spread(norms: Float[np.ndarray, " G"], m: Float[np.ndarray, " G"]) -> float:
    mean = np.average(norms, weights=m)
    return float(_over(np.sqrt(np.average((norms - mean) ** 2, weights=m)), mean))


def _cosines(M: Rows) -> tuple[float, float]:
    """Standard deviation of the cosines between distinct classes, and their mean distance to −1/(K−1)."""
    between, _, within = _products(M, M)
    np.fill_diagonal(between, within)
    pairs = np.outer(M.m, M.m) - np.diag(M.m)
    mean, simplex = np.average(between, weights=pairs), -1 / (np.sum(M.m) - 1)
    spread = np.sqrt(np.average((between - mean) ** 2, weights=pairs))
    return float(spread), float(np.average(np.abs(between - simplex), weights=pairs))


def _products(X: Rows, Y: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """⟨x_k, y_l⟩ for k of size g and l of size h ≠ g (G, G), for k = l (G,), and for others of one size (G,)."""
    between = X.trivial @ Y.trivial.T / np.sqrt(np.outer(X.m, Y.m))
    siblings = np.diag(between) - X.standard * Y.standard / X.m
    return between, siblings + X.standard * Y.standard, siblings


def _nearest(sectors: Sectors, C: Rows, means: Rows) -> np.ndarray:
    """(K,) the class whose mean is nearest to each class mean: a classifier with the rows of C decides it."""
    offset = C.trivial @ _mean_of_means(means) / np.sqrt(C.m)
    return _decisions(sectors, C, means, -(offset + 0.5 * C.norms() ** 2))


def _decisions(sectors: Sectors, A: Rows, means: Rows, b: Float[np.ndarray, " G"]) -> np.ndarray:
    """(K,) the class with the largest logit at each class mean, of equal ones the first."""
    size_of, K = sectors.size_of, len(sectors.size_of)
    between, own, siblings = _products(means, A)
    logits = between + b
    np.fill_diagonal(logits, -np.inf)
    best, (first, second) = np.max(logits, axis=1), _first_two(size_of, len(b))
    first_of_best = np.min(np.where(logits == best[:, None], first, K), axis=1)
    k = np.arange(K)
    sibling = np.where(k == first[size_of], second[size_of], first[size_of])
    largest = np.stack([best[size_of], np.where(sibling < K, (siblings + b)[size_of], -np.inf), (own + b)[size_of]])
    candidates = np.stack([first_of_best[size_of], sibling, k])
    return np.min(np.where(largest == np.max(largest, axis=0), candidates, K), axis=0)


def _first_two(size_of: np.ndarray, num_sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """(G,) the first class of each size, and the second, K where there is none."""
    first, second = np.full((2, num_sizes), len(size_of))
    k = np.arange(len(size_of))
    np.minimum.at(first, size_of, k)
    others = k[k != first[size_of]]
    np.minimum.at(second, size_of[others], others)
    return first, second


def _share(counts, chosen) -> float:
    """Of the samples, exactly one where all are chosen."""
    return float(np.sum(counts[chosen]) / np.sum(counts))


def _over(x, norm):
    """X / norm, and zero where the norm is."""
    return np.where(np.equal(norm, 0), 0.0, x / np.where(np.equal(norm, 0), 1.0, norm))
