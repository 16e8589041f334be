"""What pairs of class means say: cosines, distances and their logarithms, a block of rows of one Gram at a time."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, namespace, namespace_of
from ufm._core.blocks import cut, fits, scan_blocks
from ufm.metrics.arithmetic import norm, over, ratio, root


class Pairs(NamedTuple):
    """Of centred class means c_k, over ordered pairs k ≠ l; dimensionless.

    Attributes:
        cosine: mean cosine; −1/(K−1) at a simplex.
        equiangular: standard deviation of the cosines.
        simplex_angle: mean |cos + 1/(K−1)|.
        log_distance: mean of log ‖m_k − m_l‖ of m_k = c_k/‖c_k‖; as its spread None where JAX traces, −∞ where two are
            the same.
        log_distance_spread: standard deviation of the logarithms.
        cdnv: mean of σ_k²/‖c_k − c_l‖², which equals that of (σ_k² + σ_l²)/(2‖c_k − c_l‖²); None without variances.
    """

    cosine: Any
    equiangular: Any
    simplex_angle: Any
    log_distance: Any
    log_distance_spread: Any
    cdnv: Any


def pairs_of(C: Float[Array, "groups d"], variances: Float[Array, " groups"] | None = None, noise: Any = 0.0) -> Pairs:
    """Statistics of pairs of centred means.

    Args:
        C: centred means; K are the groups.
        variances: σ_k² of each class.
        noise: a squared length that variances of nothing but rounding don't exceed.
    """
    xp, K = namespace(C, variances), C.shape[0]
    pairs, norms = K * (K - 1), norm(C, axis=1)
    squares, M = norms**2, over(C, norms[:, None])
    # of all ordered pairs ⟨m_k, m_l⟩ adds up to ‖Σ m_k‖², of which Σ ‖m_k‖² are those with themselves
    cosine = (xp.sum(xp.sum(M, axis=0) ** 2) - xp.sum(M**2)) / pairs
    present = (norms > 0).astype(C.dtype)  # ‖m_k‖²
    simplex = 0.5 * np.log(2 * K / (K - 1))  # log distances of a simplex, about which the others' moments are taken

    def of_block(take):
        # (rows of the block, K): a Gram, from which are cosines and ‖c_k‖² + ‖c_l‖² − 2⟨c_k, c_l⟩
        gram = take(C) @ C.T
        cosines = over(over(gram, take(norms)[:, None]), norms)
        found = {"deviations": (cosines - cosine) ** 2, "angles": xp.abs(cosines + 1.0 / (K - 1))}
        if variances is not None:
            distances = xp.maximum(take(squares)[:, None] + squares - 2.0 * gram, 0.0)
            found["cdnv"] = ratio(take(variances)[:, None], distances, noise)
        if xp is np:
            logs = 0.5 * np.log(np.maximum(take(present)[:, None] + present - 2.0 * cosines, 0.0)) - simplex
            found |= {"logs": logs, "log_squares": logs**2}
        return found

    names = ["deviations", "angles"] + ["cdnv"] * (variances is not None) + ["logs", "log_squares"] * (xp is np)
    found = {name: total / pairs for name, total in _over_pairs(of_block, K, dict.fromkeys(names, cosine)).items()}
    logs, spread = None, None
    if xp is np:
        logs, spread = found["logs"] + simplex, root(found["log_squares"] - found["logs"] ** 2)
    return Pairs(cosine, root(found["deviations"]), found["angles"], logs, spread, found.get("cdnv"))


class Neighbours(NamedTuple):
    """Of each class (K,): the other class whose mean is nearest, and its distance."""

    nearest: Int[np.ndarray, " K"]
    distance: Float[np.ndarray, " K"]


def neighbours(C: Float[np.ndarray, "K d"]) -> Neighbours:
    """The nearest other mean of each; in NumPy."""
    K = len(C)
    squares = np.einsum("ij,ij->i", C, C)

    def step(found, first, new):
        rows = first + np.arange(len(new))
        distances = squares[rows, None] + squares - 2.0 * (C[rows] @ C.T)
        distances[np.arange(len(rows)), rows] = np.inf
        found[rows] = np.argmin(distances, axis=1)
        return found

    nearest = scan_blocks(step, np.zeros(K, np.int64), K, K)
    return Neighbours(nearest, norm(C - C[nearest], axis=1))


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
