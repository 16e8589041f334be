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

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm._core.linalg import ROWS_AT_ONCE, triangle
from ufm._core.precision import allowance
from ufm._core.side_by_side import side_by_side
from ufm._core.thresholding import Branches, branches, fold_price, geometric_mean, jump_price, least_size


class Factors(NamedTuple):
    """Group means H (M, r_0), hidden layers W_j (r_{j+1}, r_j), classifier A (K, r_last), bias b (K,)."""

    H: np.ndarray
    W: tuple[np.ndarray, ...]
    A: np.ndarray
    b: np.ndarray


class Minimum(NamedTuple):
    """The global minimum.

    Attributes:
        factors: balanced, in as many coordinates as their columns can use, r_j = min(columns, M, K).
        value: of the objective there.
        grad_norm: of the gradient there, of the problem as posed: with a row of H for each sample.
        lower_bound: a number that the objective is nowhere below.
        branches: both minima along each direction of the targets, largest first, in units of the weight.
        lives: (min(M, K),) which directions do.
        local_values: of all local minima, by how many of the largest directions live, from none: the first is that of
            the zero point; of two factors only the global one's. Where s are equal, other choices of as many are as
            good.
        price: C over the weight.
    """

    factors: Factors
    value: float
    grad_norm: float
    lower_bound: float
    branches: Branches
    lives: np.ndarray
    local_values: np.ndarray
    price: float

    @property
    def jump(self) -> float:
        """The s of a direction above which it lives, if there is room for it."""
        L = 2 + len(self.factors.W)
        return least_size(self.price, jump_price(L), factors=L)

    @property
    def fold(self) -> float:
        """The s above which a direction has a local minimum away from zero: metastable up to the jump."""
        L = 2 + len(self.factors.W)
        return least_size(self.price, fold_price(L), factors=L)


class Posed(NamedTuple):
    """A problem: targets (M, K), counts (M,), one weight, decays of all L factors in order, bias or none.

    `columns` are the numbers of columns of all factors but the features, in order: d, and the widths.
    """

    rows: Float[np.ndarray, "M K"]
    counts: Int[np.ndarray, " M"]
    weight: float
    decays: Sequence[float]
    columns: Sequence[int]
    free_bias: bool


def minimum(posed: Posed) -> Minimum:
    """The global minimum, in float64, its lower bound and how it comes about."""
    N, L = int(np.sum(posed.counts)), len(posed.decays)
    shares = posed.counts / N
    mean = shares @ posed.rows if posed.free_bias else np.zeros(posed.rows.shape[1])
    s, V = _spectrum(posed.rows, np.sqrt(shares), mean)
    decays = np.array([N * posed.decays[0], *posed.decays[1:]])  # of the features weighted by shares
    scale = geometric_mean(decays)
    price, has_room = scale / posed.weight, np.arange(len(s)) < min(posed.columns)
    found = branches(s, price, factors=L)
    lives = found.lives & has_room
    to_H, W, A = _balanced(s, V, np.where(lives, found.x, 0.0), scale, decays, posed.columns)
    H, value, grad_norm = at(posed, to_H, W, A, mean)
    # singular values are found to rounding of the largest and of the mean
    surely = np.maximum(s - allowance() * (np.linalg.norm(s) + np.linalg.norm(mean)), 0.0)
    least = np.where(has_room, branches(surely, price, factors=L).least, 0.5 * surely**2)
    bound = (1.0 - allowance()) * posed.weight * float(np.sum(least))
    factors, values = Factors(H, W, A, mean), posed.weight * _local_values(found, has_room, L)
    return Minimum(factors, value, grad_norm, bound, found, lives, values, price)


def _local_values(found: Branches, has_room: np.ndarray, factors: int) -> np.ndarray:
    """Of weight one: none of the largest directions live, one, … all that can; a dead one costs the zero point's."""
    there = has_room & (found.x > 0)
    gains = (found.at_zero - np.where(there, found.value, found.at_zero))[there]
    values = np.sum(found.at_zero) - np.concatenate([[0.0], np.cumsum(gains)])
    return values if factors > 2 else values[-1:]


def _balanced(s, V, x, scale, decays, columns):
    """What maps targets to features (K, r_0), hidden layers, and classifier, of singular values √(C x^{2/L}/λ_j).

    `scale` is C; the features' are those of Π^{1/2}H.
    """
    sizes = [min(number, len(s)) for number in columns]
    values = [np.sqrt(scale / decay) * x ** (1.0 / len(decays)) for decay in decays]
    to_H = V * (values[0] / np.where(x > 0, s, 1.0))
    W = tuple(np.diag(v)[:rows, :cols] for v, cols, rows in zip(values[1:-1], sizes, sizes[1:], strict=False))
    return to_H[:, : sizes[0]], W, (V * values[-1])[:, : sizes[-1]]


def _blocks(rows: int) -> list[slice]:
    return [slice(first, first + ROWS_AT_ONCE) for first in range(0, rows, ROWS_AT_ONCE)]


def _spectrum(T, roots, mean):
    """Singular values (K' ≤ K,) and right singular vectors (K, K') of the centred rows, each times its root."""

    def of(block):
        return np.linalg.qr(roots[block, None] * (T[block] - mean), mode="r")

    triangles = np.concatenate(list(side_by_side(of, _blocks(len(T)))))
    _, s, Vt = np.linalg.svd(triangle(triangles), full_matrices=False)
    return s, Vt.T


def at(posed: Posed, to_H: Any, W: tuple, A: Any, b: Any) -> tuple[np.ndarray, float, float]:
    """Group means (T − b) to_H, the objective there, and the norm of its gradient.

    A sample's gradient is the n_m-th part of its group's.
    """
    T, decay, weight = posed.rows, posed.decays[0], posed.weight / np.sum(posed.counts)
    H, layers = np.empty((len(T), to_H.shape[1])), (*W, A)
    product = _product(layers, to_H.shape[1])

    def of(block):
        mine, n = (T[block] - b) @ to_H, posed.counts[block, None]
        H[block] = mine
        residual = mine @ product.T + b - T[block]
        slopes = residual * (weight * n)
        twice = np.vdot(slopes, residual) + decay * np.vdot(n * mine, mine)
        squares = np.sum((slopes @ product + decay * n * mine) ** 2 / n)
        return twice, squares, slopes.T @ mine, slopes.sum(axis=0)

    twice, squares, along_product, along_b = map(sum, zip(*side_by_side(of, _blocks(len(T))), strict=True))
    for j, (layer, decay_of_it) in enumerate(zip(layers, posed.decays[1:], strict=True)):
        after, before = _product(layers[j + 1 :], layer.shape[0]), _product(layers[:j], to_H.shape[1])
        twice += decay_of_it * np.sum(layer**2)
        squares += np.sum((after.T @ along_product @ before.T + decay_of_it * layer) ** 2)
    squares += posed.free_bias * np.sum(along_b**2)
    return H, 0.5 * float(twice), float(np.sqrt(squares))


def _product(layers, size):
    """… W_2 W_1 of layers in the order in which they are applied; of none the identity."""
    product = np.eye(size)
    for layer in layers:
        product = layer @ product
    return product
