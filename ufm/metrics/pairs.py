"""What pairs of class means say: cosines, distances and their logarithms, a block of rows of one Gram at a time."""

import functools as ft
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, namespace, namespace_of, silent
from ufm._core.blocks import cut, fits, scan_blocks
from ufm._core.side_by_side import side_by_side
from ufm.metrics.arithmetic import norm, over, ratio, root

TILE = 256  # classes, so that a tile of pairs stays in a core's own cache
CLOSE = 1e-6  # of squared lengths: nearer to one another than this, of a Gram too few digits are left


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


@silent()
def pairs_of(C: Float[Array, "groups d"], variances: Float[Array, " groups"] | None = None, noise: Any = 0.0) -> Pairs:
    """Statistics of pairs of centred means.

    Args:
        C: centred means; K are the groups.
        variances: σ_k² of each class.
        noise: a squared length that variances of nothing but rounding don't exceed.
    """
    xp, K = namespace(C, variances), C.shape[0]
    pairs, norms = K * (K - 1), norm(C, axis=1)
    inverse = over(1.0, norms)
    M = C * inverse[:, None]
    # of all ordered pairs ⟨m_k, m_l⟩ adds up to ‖Σ m_k‖², of which Σ ‖m_k‖² are those with themselves
    cosine = (xp.sum(xp.sum(M, axis=0) ** 2) - xp.sum(M**2)) / pairs
    simplex = 0.5 * np.log(2 * K / (K - 1))  # log distances of a simplex, about which the others' moments are taken
    of_class = {"C": C, "inverse": inverse, "squares": norms**2, "present": (norms > 0).astype(C.dtype)}
    of_class |= {} if variances is None else {"variances": variances}
    of_class |= {"M": M} if xp is np else {}

    def of_pairs(some, others):
        # (some k, others l): a Gram, from which are cosines and ‖c_k‖² + ‖c_l‖² − 2⟨c_k, c_l⟩
        def sums(name):
            return some[name][:, None] + others[name][None]

        def apart(name, squares, products):
            distances = xp.maximum(squares - 2.0 * products, 0.0)
            return _close_anew(distances, squares, some[name], others[name]) if xp is np else distances

        gram = some["C"] @ others["C"].T
        cosines = gram * some["inverse"][:, None] * others["inverse"][None]
        found = {"deviations": (cosines - cosine) ** 2, "angles": xp.abs(cosines + 1.0 / (K - 1))}
        if variances is not None:
            distances = apart("C", sums("squares"), gram)
            found["cdnv"] = 0.5 * ratio(sums("variances"), distances, 2.0 * noise)
        if xp is np:
            logs = 0.5 * np.log(apart("M", sums("present"), cosines)) - simplex
            found |= {"logs": logs, "log_squares": logs**2}
        return found

    names = ["deviations", "angles"] + ["cdnv"] * (variances is not None) + ["logs", "log_squares"] * (xp is np)
    sums = (_over_tiles if xp is np else _over_rows)(of_pairs, of_class, K, dict.fromkeys(names, cosine))
    found = {name: total / pairs for name, total in sums.items()}
    logs, spread = None, None
    if xp is np:
        logs, spread = found["logs"] + simplex, root(found["log_squares"] - found["logs"] ** 2)
    return Pairs(cosine, root(found["deviations"]), found["angles"], logs, spread, found.get("cdnv"))


def _close_anew(distances, squares, X, Y):
    """Squared distances between rows of X and Y of which a Gram left few digits, from the rows' differences."""
    close = distances < CLOSE * squares
    for k in np.flatnonzero(close.any(axis=1)):
        difference = Y[close[k]] - X[k]
        distances[k, close[k]] = np.einsum("ij,ij->i", difference, difference)
    return distances


class Neighbours(NamedTuple):
    """Of each class (K,): the other class whose mean is nearest, and its distance."""

    nearest: Int[np.ndarray, " K"]
    distance: Float[np.ndarray, " K"]


def neighbours(C: Float[np.ndarray, "K d"]) -> Neighbours:
    """The nearest other mean of each; in NumPy."""
    squares = np.einsum("ij,ij->i", C, C)

    def nearest_of(rows):
        distances = squares[rows, None] + squares - 2.0 * (C[rows] @ C.T)
        distances[np.arange(len(rows)), rows] = np.inf
        return np.argmin(distances, axis=1)

    blocks = np.split(np.arange(len(C)), range(TILE, len(C), TILE))
    nearest = np.concatenate(list(side_by_side(nearest_of, blocks)))
    return Neighbours(nearest, norm(C - C[nearest], axis=1))


def _over_rows(of_pairs, of_class, K, like):
    """Sums over ordered pairs k ≠ l of matrices (k, l), whole or by blocks of rows k, as a program forms them.

    `of_pairs` makes matrices of the arrays of some classes k and of others l; `like` has their structure.
    """
    xp = namespace_of(like)

    def summed(distinct, k):
        return jax.tree.map(lambda matrix: xp.sum(xp.where(distinct, matrix, 0.0)), of_pairs(k, of_class))

    def step(totals, first, is_new):
        k = first + xp.arange(is_new.shape[0], dtype=first.dtype)
        distinct = is_new[:, None] & (k[:, None] != xp.arange(K, dtype=first.dtype)[None])
        some = jax.tree.map(lambda array: cut(array, first, is_new), of_class)
        return jax.tree.map(xp.add, totals, summed(distinct, some))

    if fits(K, K):
        return summed(~xp.eye(K, dtype=bool), of_class)
    return scan_blocks(step, jax.tree.map(xp.zeros_like, like), K, K)


def _over_tiles(of_pairs, of_class, K, like):
    """The same in NumPy, of tiles on and above the diagonal, for the matrices are symmetric."""
    blocks = [slice(first, first + TILE) for first in range(0, K, TILE)]
    tiles = [(row, column) for row in range(len(blocks)) for column in range(row, len(blocks))]

    def summed(tile):
        found = of_pairs(*({name: array[blocks[at]] for name, array in of_class.items()} for at in tile))
        if tile[0] < tile[1]:
            return {name: 2.0 * np.sum(matrix) for name, matrix in found.items()}
        distinct = ~np.eye(len(of_class["squares"][blocks[tile[0]]]), dtype=bool)
        return {name: np.sum(matrix[distinct]) for name, matrix in found.items()}

    def total(sums, others):
        return {name: sums[name] + others[name] for name in sums}

    return ft.reduce(total, side_by_side(summed, tiles), dict.fromkeys(like, 0.0))
