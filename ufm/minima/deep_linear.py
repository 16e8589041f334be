"""Squared error of linear factors, any number of them, of any real targets: solved by singular values of the targets.

Targets T (M, K) in groups of n_m samples, shares π = n/N, one weight; L factors with decays λ_j: features, hidden
layers, classifier. A weight divides the decays and multiplies the value; a free bias is T̄ = Σ π T (else T̄ = 0 below).

- The least decay of factors of Z is (L/2) C Σ x_i^{2/L}, C = (N λ_H Π λ_W λ_A)^{1/L}, x singular values of Π^{1/2}Z.
- ½‖Π^{1/2}(Z − T + T̄)‖² ≥ ½ Σ (x_i − s_i)² with the singular values s of Π^{1/2}(T − T̄) (von Neumann; that the bias
  also centres Z only lowers its singular values).

Both are equalities at Z = (T − T̄) V diag(x/s) Vᵀ and balanced factors, λ_{j+1} W_{j+1}ᵀ W_{j+1} = λ_j W_j W_jᵀ. So

    f* = Σ_i min over x_i ≥ 0 of ½(s_i − x_i)² + (L/2) C x_i^{2/L}    (`ufm._core.thresholding`)

and, where the narrowest factor has r < min(M, K) columns, the r largest s_i only, which gain most: what a direction
gains rises with s. The value is its own lower bound, up to rounding; it rises with every s, so that s less its rounding
gives one. L = 2 is soft thresholding, x = (s − C)₊ (Andriopoulos et al. 2024).

For L ≥ 3 the k largest directions alone are a local minimum for every k from zero on, as long as each of them has one.
No other choice is: a dead direction of larger s' takes the place of a living one of s, downhill, through features and
classifier, where the decay's C + x^{2−2/L} = s x^{1−2/L} meets the slope s' x^{1−2/L}.

A million samples cost their K × K moments, by passes over blocks of groups on all cores.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

from ufm._core.linalg import ROWS_AT_ONCE
from ufm._core.precision import allowance
from ufm._core.side_by_side import side_by_side
from ufm._core.thresholding import Branches, branches, fold_price, geometric_mean, jump_price, least_size


class Posed(NamedTuple):
    """P problems of one shape, each with one weight.

    Attributes:
        rows: of targets.
        counts: samples of each group.
        weights: of each problem's samples.
        decays: of all L factors in the order in which they multiply: features, hidden layers, classifier.
        columns: of the L − 1 factors after the features, in order: d, and the widths.
        free_bias: whether there is a bias.
    """

    rows: Float[np.ndarray, "P M K"]
    counts: Real[np.ndarray, "P M"]
    weights: Float[np.ndarray, " P"]
    decays: Float[np.ndarray, "P L"]
    columns: tuple[int, ...]
    free_bias: bool


class Factors(NamedTuple):
    """Group means H (P, M, r_0), hidden layers W_j (P, r_{j+1}, r_j), classifier A (P, K, r_last), bias b (P, K)."""

    H: np.ndarray
    W: tuple[np.ndarray, ...]
    A: np.ndarray
    b: np.ndarray


class Minima(NamedTuple):
    """The global minima of P problems.

    Attributes:
        factors: balanced, in as many coordinates as their columns can use, r_j = min(columns, M, K).
        value: (P,) of the objective there.
        grad_norm: (P,) of the gradient there, of the problem as posed: with a row of H for each sample.
        lower_bound: (P,) numbers that the objectives are nowhere below.
        branches: (P, min(M, K)) both minima along each direction of the targets, largest first, of weight one.
        lives: (P, min(M, K)) which directions do.
        local_values: (P, min(columns, M, K) + 1) of the local minima in which none of the directions lives, the largest
            one, the two largest, …; infinite where this is none. The first is the zero point's, the least the value.
        price: (P,) C over the weight.
    """

    factors: Factors
    value: np.ndarray
    grad_norm: np.ndarray
    lower_bound: np.ndarray
    branches: Branches
    lives: np.ndarray
    local_values: np.ndarray
    price: np.ndarray

    @property
    def jump(self) -> np.ndarray:
        """(P,) s of a direction above which it lives, if there is room for it."""
        L = 2 + len(self.factors.W)
        return least_size(self.price, jump_price(L), factors=L)

    @property
    def fold(self) -> np.ndarray:
        """(P,) s above which a direction has a local minimum away from zero: metastable up to the jump."""
        L = 2 + len(self.factors.W)
        return least_size(self.price, fold_price(L), factors=L)


def minima(posed: Posed) -> Minima:
    """The global minima, in float64, lower bounds of them, and how they come about."""
    (P, _, K), L = posed.rows.shape, posed.decays.shape[1]
    N = posed.counts.sum(axis=1, dtype=np.float64)
    shares = posed.counts / N[:, None]
    mean = (shares[:, None] @ posed.rows)[:, 0] if posed.free_bias else np.zeros((P, K))
    s, V = spectrum(posed.rows, np.sqrt(shares), mean)
    decays = np.concatenate([N[:, None] * posed.decays[:, :1], posed.decays[:, 1:]], axis=1)  # of Π^{1/2}H
    scale = geometric_mean(decays)
    price, has_room = scale / posed.weights, np.arange(s.shape[1]) < min(posed.columns)
    found = branches(s, price[:, None], factors=L)
    lives = found.lives & has_room
    to_H, W, A = balanced(s, V, np.where(lives, found.x, 0.0), scale[:, None] / decays, posed.columns)
    H, value, grad_norm = at(posed, to_H, W, A, mean)
    # singular values are found to rounding of the largest and of the mean
    size = np.linalg.norm(s, axis=1, keepdims=True) + np.linalg.norm(mean, axis=1, keepdims=True)
    surely = np.maximum(s - allowance() * size, 0.0)
    least = np.where(has_room, branches(surely, price[:, None], factors=L).least, 0.5 * surely**2)
    bound = (1.0 - allowance()) * posed.weights * np.sum(least, axis=1)
    values = posed.weights[:, None] * _local_values(found, min(*posed.columns, s.shape[1]), L)
    return Minima(Factors(H, W, A, mean), value, grad_norm, bound, found, lives, values, price)


def _local_values(found: Branches, room: int, factors: int) -> np.ndarray:
    """(P, room + 1) of weight one, by how many of the largest directions live; dead ones are as at the zero point."""
    there = found.x[:, :room] > 0
    gains = np.where(there, found.at_zero[:, :room] - found.value[:, :room], -np.inf)
    none = np.zeros((len(gains), 1))
    values = np.sum(found.at_zero, axis=1, keepdims=True) - np.concatenate([none, np.cumsum(gains, axis=1)], axis=1)
    if factors > 2:
        return values
    return np.where(np.arange(room + 1) == np.sum(there, axis=1, keepdims=True), values, np.inf)


def balanced(s, V, x, ratios, columns):
    """What maps targets to features (P, K, r_0), hidden layers, and classifier.

    Factor j has singular values √(ratio x^{2/L}), with C/λ_j for ratios; the features' are those of Π^{1/2}H.
    """
    L, sizes = ratios.shape[1], [min(number, s.shape[1]) for number in columns]
    values = np.sqrt(ratios)[:, :, None] * (x ** (1.0 / L))[:, None]
    to_H = V * (values[:, 0] / np.where(x > 0, s, 1.0))[:, None]
    shapes = zip(sizes[1:], sizes, strict=False)
    W = tuple(np.eye(*shape) * values[:, 1 + j, None, : shape[1]] for j, shape in enumerate(shapes))
    return to_H[:, :, : sizes[0]], W, (V * values[:, -1, None])[:, :, : sizes[-1]]


def _blocks(rows: int) -> list[slice]:
    return [slice(first, first + ROWS_AT_ONCE) for first in range(0, rows, ROWS_AT_ONCE)]


def spectrum(T, roots, mean):
    """Singular values (P, K' ≤ K) and right singular vectors (P, K, K') of the centred rows, each times its root."""
    M, K = T.shape[1:]

    def weighted(block):
        return roots[:, block, None] * (T[:, block] - mean[:, None])

    def of(block):
        return np.linalg.qr(weighted(block), mode="r")

    short = M <= 2 * K
    whole = weighted(slice(None)) if short else np.concatenate(list(side_by_side(of, _blocks(M))), axis=1)
    _, s, Vt = np.linalg.svd(whole if whole.shape[1] <= 2 * K else np.linalg.qr(whole, mode="r"), full_matrices=False)
    return s, Vt.swapaxes(1, 2)


def at(posed: Posed, to_H: Any, W: tuple, A: Any, b: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group means (T − b) to_H, the objective there, and the norm of its gradient, of each problem.

    A sample's gradient is the n_m-th part of its group's.
    """
    T, decay, layers = posed.rows, posed.decays[:, :1, None], (*W, A)
    weight = (posed.weights / posed.counts.sum(axis=1))[:, None, None]
    before: list[Any] = [np.eye(to_H.shape[2])[None]]  # the product of all layers before each
    for layer in layers:
        before.append(layer @ before[-1])
    product, shift = before.pop(), b[:, None]
    H = np.empty((*T.shape[:2], to_H.shape[2]))

    def of(block):
        n = posed.counts[:, block, None]
        mine = H[:, block] = (T[:, block] - shift) @ to_H
        residual = mine @ product.swapaxes(1, 2) + shift - T[:, block]
        slopes, decayed = residual * (weight * n), decay * n * mine
        twice = _dot(slopes, residual) + _dot(decayed, mine)
        along_H = slopes @ product + decayed
        return twice, _dot(along_H, along_H / n), slopes.swapaxes(1, 2) @ mine, slopes.sum(axis=1)

    twice, squares, along, along_b = map(sum, zip(*side_by_side(of, _blocks(T.shape[1])), strict=True))
    squares += posed.free_bias * np.sum(along_b**2, axis=1)
    # `along` is that of the product of all layers from j on
    for j, layer in reversed(list(enumerate(layers))):
        decayed = posed.decays[:, 1 + j, None, None] * layer
        mine = along @ before[j].swapaxes(1, 2) + decayed
        along = layer.swapaxes(1, 2) @ along
        twice, squares = twice + _dot(decayed, layer), squares + _dot(mine, mine)
    return H, np.asarray(0.5 * twice), np.sqrt(squares)


def _dot(X, Y):
    """(P,) inner products of matrices."""
    return np.einsum("pij,pij->p", X, Y)
