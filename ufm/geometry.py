"""The frames that features collapse to, and how far a Gram matrix is from theirs."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ufm._checks import integer


def simplex_etf(num_classes: int, dim: int, seed: int | None = 0) -> Float[np.ndarray, "K d"]:
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
    K, d = _shape("simplex ETF", num_classes, dim, least_dim=num_classes - 1)
    return _rotated(np.sqrt(K / (K - 1)) * _centred_basis(K), d, seed)


def orthogonal_frame(
    num_classes: int, dim: int, seed: int | None = 0, centred: bool = False
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
    K, d = _shape("orthogonal frame", num_classes, dim, least_dim=num_classes - 1 if centred else num_classes)
    return _rotated(_centred_basis(K) if centred else np.eye(K), d, seed)


def general_orthogonal_frame(norms, dim: int, seed: int | None = 0) -> Float[np.ndarray, "K d"]:
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
    norms = np.asarray(norms, np.float64)
    if norms.ndim != 1 or not np.all(np.isfinite(norms)) or np.any(norms < 0):
        raise ValueError(f"norms = {norms!r}: a vector of finite, non-negative numbers is needed")
    alive = np.flatnonzero(norms)
    _shape("general orthogonal frame", len(norms), dim, least_dim=len(alive))
    rows = np.zeros((len(norms), max(len(alive), 1)))
    rows[alive, np.arange(len(alive))] = norms[alive]
    return _rotated(rows, dim, seed)


def gram_distance(X: Any, Y: Any) -> float:
    """Scale-free distance of Grams: ‖XXᵀ/‖XXᵀ‖ − YYᵀ/‖YYᵀ‖‖ in Frobenius norm.

    X is (K, d) and Y (K, e). Blind to rotation and scale of either; a zero matrix counts as
    a zero Gram.

    Returns:
        A dimensionless number from 0 (same shape) to √2.

    Raises:
        ValueError: where the numbers of rows differ.
    """
    X, Y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        raise ValueError(f"X, Y of shapes {X.shape}, {Y.shape}: matrices with equally many rows are needed")
    return float(np.linalg.norm(_unit(X @ X.T) - _unit(Y @ Y.T)))


def _unit(G):
    norm = np.linalg.norm(G)
    return G / norm if norm > 0 else G


def _centred_basis(K: int) -> np.ndarray:
    """Helmert's basis: (K, K−1), orthonormal columns that sum to zero, in closed form so that it is exact."""
    i, j = np.indices((K, K - 1))
    column = np.where(i <= j, 1.0, np.where(i == j + 1, -(j + 1.0), 0.0))
    return column / np.sqrt((j + 1.0) * (j + 2.0))


def _rotated(rows: np.ndarray, dim: int, seed: int | None) -> np.ndarray:
    """`rows` embedded isometrically into `dim` coordinates, uniformly at random where there is a seed."""
    r = rows.shape[1]
    if seed is None:
        return np.pad(rows, ((0, 0), (0, dim - r))) if dim >= r else rows[:, :dim]
    Q, R = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, r)))
    return rows @ (Q * np.sign(np.diag(R))).T


def _shape(frame: str, num_classes: int, dim: int, least_dim: int) -> tuple[int, int]:
    integer("num_classes", num_classes, least=2)
    integer("dim", dim, least=1)
    if dim < least_dim:
        raise ValueError(
            f"dim = {dim}: a {frame} of {num_classes} rows spans {least_dim} dimensions, so dim ≥ {least_dim} is needed"
        )
    return num_classes, dim
