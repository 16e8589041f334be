"""The frames that features collapse to, how far a Gram matrix is from theirs, and how far apart a code's rows are."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ufm._core.checks import Integer, doubles, flag, integer, room_for


def simplex_etf(num_classes: Integer, dim: Integer, *, seed: Integer | None = 0) -> Float[np.ndarray, "K d"]:
    """Simplex equiangular tight frame: K unit rows with cosines −1/(K−1), randomly rotated.

    Args:
        num_classes: K ≥ 2 rows.
        dim: d ≥ K − 1, the dimension of the simplex they span.
        seed: of the rotation; `None` leaves the frame in the first K − 1 coordinates.

    Returns:
        (K, d) float64, dimensionless; M Mᵀ = K/(K−1) · (I − J/K) to 1e-14.

    Raises:
        ValueError: where `dim` is less than K − 1.
    """
    K, d = _shape("a simplex ETF", num_classes, dim, lambda K: K - 1)
    return _rotated(np.sqrt(K / (K - 1)) * _centred_basis(K), d, seed)


def orthogonal_frame(
    num_classes: Integer, dim: Integer, *, seed: Integer | None = 0, centred: bool = False
) -> Float[np.ndarray, "K d"]:
    """Orthogonal frame: K orthonormal rows, randomly rotated.

    Args:
        num_classes: K ≥ 2 rows.
        dim: d ≥ K, or d ≥ K − 1 when centred.
        seed: of the rotation; `None` leaves the frame along the first coordinates.
        centred: subtract the mean row. The result is a simplex ETF of norms √((K−1)/K): metrics that
            subtract the global mean cannot tell the two frames apart.

    Returns:
        (K, d) float64, dimensionless; F Fᵀ = I, or I − J/K when centred, to 1e-14.

    Raises:
        ValueError: where `dim` is too small for K independent rows.
    """
    centred = flag("centred", centred)
    K, d = _shape("an orthogonal frame", num_classes, dim, lambda K: K - centred)
    return _rotated(_centred_basis(K) if centred else np.eye(K), d, seed)


def general_orthogonal_frame(norms: ArrayLike, dim: Integer, *, seed: Integer | None = 0) -> Float[np.ndarray, "K d"]:
    """Mutually orthogonal rows of the given norms; a zero norm is a class that died (Dang et al. 2023).

    Args:
        norms: (K,) non-negative numbers.
        dim: d, at least the number of non-zero norms.
        seed: of the rotation; `None` leaves the frame along the first coordinates.

    Returns:
        (K, d) float64 in the unit of `norms`.

    Raises:
        ValueError: where a norm is negative or not finite, or `dim` is too small.
    """
    norms = doubles("norms", norms, (None,), "finite numbers of at least zero, one a class,")
    if len(norms) < 2 or np.any(norms < 0):
        raise ValueError(f"norms = {norms!r}: at least two numbers, none negative, are needed")
    alive = np.flatnonzero(norms)
    _, dim = _shape("a general orthogonal frame", len(norms), dim, lambda K: len(alive))
    rows = np.zeros((len(norms), max(len(alive), 1)))
    rows[alive, np.arange(len(alive))] = norms[alive]
    return _rotated(rows, dim, seed)


def orthoplex(num_classes: Integer, dim: Integer, *, seed: Integer | None = 0) -> Float[np.ndarray, "K d"]:
    """Rows of an orthoplex (cross-polytope), e₁, −e₁, e₂, −e₂, … up to the K-th, randomly rotated.

    From K = 4 on two antipodal pairs are among them, and `one_vs_rest_distance` is 1: the largest there is for
    d + 2 ≤ K ≤ 2d unit rows (Jiang et al. 2023), though other codes reach it too.

    Args:
        num_classes: 2 ≤ K ≤ 2d rows.
        dim: d ≥ K/2.
        seed: of the rotation; `None` leaves the rows along the first coordinates.

    Returns:
        (K, d) float64, dimensionless.

    Raises:
        ValueError: where `dim` is less than K/2.
    """
    K, d = _shape("an orthoplex", num_classes, dim, lambda K: -(-K // 2))
    rows = np.repeat(np.eye(-(-K // 2)), 2, axis=0)
    rows[1::2] *= -1
    return _rotated(rows[:K], d, seed)


def polygon(num_classes: Integer, dim: Integer = 2, *, seed: Integer | None = None) -> Float[np.ndarray, "K d"]:
    """Regular polygon: K rows equally spaced on a unit circle, in order.

    Args:
        num_classes: K ≥ 2 rows.
        dim: d ≥ 2.
        seed: of a random rotation; `None` leaves the circle in the first two coordinates and the first row at (1, 0).

    Returns:
        (K, d) float64, dimensionless.

    Raises:
        ValueError: where `dim` is less than 2.
    """
    K, d = _shape("a polygon", num_classes, dim, lambda K: 2)
    angles = 2 * np.pi * np.arange(K) / K
    return _rotated(np.stack([np.cos(angles), np.sin(angles)], axis=1), d, seed)


def gram_distance(X: ArrayLike, Y: ArrayLike) -> float:
    """Scale-free distance of Grams: ‖XXᵀ/‖XXᵀ‖ − YYᵀ/‖YYᵀ‖‖ in Frobenius norm.

    X is (K, d) and Y (K, e). Blind to rotation and scale of either; a zero matrix counts as
    a zero Gram.

    Returns:
        A dimensionless number from 0 (same shape) to √2.

    Raises:
        ValueError: where one is no finite matrix, or the numbers of rows differ.
    """
    X, Y = (doubles(name, rows, (None, None), "rows of finite numbers") for name, rows in (("X", X), ("Y", Y)))
    if len(X) != len(Y):
        raise ValueError(f"X, Y of shapes {X.shape}, {Y.shape}: matrices with equally many rows are needed")
    return float(np.linalg.norm(_unit(X @ X.T) - _unit(Y @ Y.T)))


def one_vs_rest_distance(W: ArrayLike) -> float:
    """The least distance of a row from the convex hull of the others.

    It is the worst class's margin where features are chosen best: the maximum over unit h of min_j ⟨h, w_k − w_j⟩ is
    the distance of w_k from the others' hull. Softmax codes maximise it as the temperature grows (Jiang et al. 2023).

    With u_j = w_j − w_k and weights λ = s p, p on the simplex, ‖Σ λ_j u_j‖² + (Σ λ_j − 1)² = s²‖Σ p_j u_j‖² + (s − 1)²
    is least where Σ p_j u_j is, so non-negative least squares give the hull's nearest point exactly (Lawson & Hanson
    1974, chapter 23).

    Args:
        W: (K, d) rows, K ≥ 2.

    Returns:
        A number in the unit of the rows, to about 1e-15 of the largest difference between them.

    Raises:
        ValueError: where `W` is no finite matrix of at least two rows.
    """
    W = _rows("W", W)
    return min(_distance_from_hull(np.delete(W, k, axis=0) - W[k]) for k in range(len(W)))


def minimal_angle(W: ArrayLike) -> float:
    """The least angle between two rows, in radians: what Tammes's problem asks to maximise.

    Args:
        W: (K, d) rows of any norms but zero, K ≥ 2.

    Returns:
        A number from 0 to π, to 1e-15.

    Raises:
        ValueError: where `W` is no finite matrix of at least two rows, or a row is zero.
    """
    W = _rows("W", W)
    norms = np.linalg.norm(W, axis=1, keepdims=True)
    if not np.all(norms > 0):
        raise ValueError(f"W has a zero row, {int(np.argmin(norms))}: rows with a direction are needed")
    U = W / norms
    # Kahan's formula, since a cosine near ±1 would lose half of the digits
    halves = [np.arctan2(_norms(U[k + 1 :] - U[k]), _norms(U[k + 1 :] + U[k])) for k in range(len(U) - 1)]
    return 2.0 * float(np.min(np.concatenate(halves)))


def _norms(rows):
    return np.linalg.norm(rows, axis=1)


def _rows(name: str, W: Any) -> np.ndarray:
    needed = "finite numbers of shape (K, d), at least two rows,"
    W = doubles(name, W, (None, None), needed)
    if len(W) < 2:
        raise ValueError(f"{name} of shape {W.shape}: {needed} are needed")
    return W


def _distance_from_hull(points: np.ndarray) -> float:
    """Distance of the origin from the convex hull of the rows."""
    from scipy.optimize import nnls  # slow to import, and most never need it

    scale = float(np.max(_norms(points)))
    if scale == 0:
        return 0.0
    weights, _ = nnls(np.concatenate([points.T / scale, np.ones((1, len(points)))]), np.eye(points.shape[1] + 1)[-1])
    return float(np.linalg.norm(weights @ points) / np.sum(weights))


def _unit(G):
    norm = np.linalg.norm(G)
    return G / norm if norm > 0 else G


def _centred_basis(K: int) -> np.ndarray:
    """Helmert's basis: (K, K−1), orthonormal columns that sum to zero, in closed form so that it is exact."""
    i, j = np.indices((K, K - 1))
    column = np.where(i <= j, 1.0, np.where(i == j + 1, -(j + 1.0), 0.0))
    return column / np.sqrt((j + 1.0) * (j + 2.0))


def _rotated(rows: np.ndarray, dim: int, seed: Any) -> np.ndarray:
    """`rows` embedded isometrically into `dim` coordinates, uniformly at random where there is a seed."""
    r = rows.shape[1]
    if seed is None:
        return np.pad(rows, ((0, 0), (0, dim - r))) if dim >= r else rows[:, :dim]
    Q, R = np.linalg.qr(np.random.default_rng(integer("seed", seed, least=0)).normal(size=(dim, r)))
    return rows @ (Q * np.sign(np.diag(R))).T


def _shape(frame: str, num_classes: Any, dim: Any, least: Callable[[int], int]) -> tuple[int, int]:
    """K and d, where d is at least the number of dimensions that K rows span."""
    K, d = integer("num_classes", num_classes, least=2), integer("dim", dim, least=1)
    spanned = least(K)
    if d < spanned:
        raise ValueError(
            f"num_classes = {K}, dim = {d}: {frame} of K rows spans {spanned} dimensions, so dim ≥ {spanned} is needed"
        )
    room_for(f"num_classes = {K}, dim = {d}: {frame}", (K + spanned) * d)
    return K, d
