"""Neural collapse of regression: NRC1–NRC3 of anybody's features, real targets and last layer."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm._core.checks import Real, numeric, real
from ufm._core.linalg import right_svd, triangle
from ufm._core.repr import call
from ufm.metrics.arguments import check_untraced
from ufm.metrics.arithmetic import norm, over, power_of_two
from ufm.metrics.rows import all_finite

Matrix = Float[np.ndarray, "_ _"]


class RegressionMetrics(NamedTuple):
    """Measures of regression collapse (Andriopoulos et al. 2024): dimensionless but for gamma, and 0 at collapse.

    With h̃ = h/‖h‖, K outputs, and Σ (K, K) the covariance of the targets over samples (1/N). A zero vector or matrix
    normalises to zero. Their NRC3 is over γ in (0, least eigenvalue of Σ), where nothing is clipped.

    Attributes:
        nrc1: mean over samples of ‖h̃ − its projection onto the first K principal components of H, about the origin‖².
        nrc2: mean over samples of ‖h̃ − its projection onto the rows of A‖².
        nrc3: ‖AAᵀ/‖AAᵀ‖ − S/‖S‖‖², S = Σ^{1/2} − √γ I without its negative eigenvalues.
        gamma: γ ≥ 0, in squared units of the targets: the one that was given, or the best up to Σ's least eigenvalue.
    """

    nrc1: float
    nrc2: float
    nrc3: float
    gamma: float

    def __repr__(self) -> str:
        return call("RegressionMetrics", self._asdict())


def measure_regression(H: ArrayLike, Y: ArrayLike, A: ArrayLike, *, gamma: Real | None = None) -> RegressionMetrics:
    """NRC1–NRC3 of features, targets and the last layer of a regression, in float64 (Andriopoulos et al. 2024).

    At minima of squared error with weight decay λ_A and, per sample, λ_H, all three are 0 at γ = N λ_A λ_H, where that
    is below Σ's least eigenvalue.

    Args:
        H: (N, d) features, one sample a row: NumPy, JAX or torch, or what NumPy makes an array of.
        Y: (N, K) targets, or (N,) of one output.
        A: (K, d) weights of the last layer.
        gamma: γ ≥ 0 of nrc3, in squared units of the targets; where absent the best in [0, least eigenvalue of Σ].

    Returns:
        Python floats, dimensionless but for γ.

    Raises:
        ValueError: for wrong shapes, a NaN or an infinity, a negative γ, and inside jit, grad or vmap.
    """
    check_untraced(H=H, Y=Y, A=A)
    given = None if gamma is None else real("gamma", gamma, least=0.0)
    with one_thread(), silent():
        return _measured(*_matching(_matrix("H", H), _matrix("Y", Y), _matrix("A", A)), given)


def _measured(
    H: Float[np.ndarray, "N d"], Y: Float[np.ndarray, "N K"], A: Float[np.ndarray, "K d"], gamma: float | None
) -> RegressionMetrics:
    """NRC1–NRC3 at γ, or at the best one; H and A are scaled by powers of two, which changes nothing."""
    H, A = H * power_of_two(H), A * power_of_two(A)
    units = over(H, norm(H, axis=1)[:, None])
    of_H, of_A = right_svd(H)[1][: len(A)], _row_space(A)
    S, Vt = right_svd(triangle((Y - Y.mean(axis=0)) / np.sqrt(len(Y))))
    gram = over(A @ A.T, norm(A @ A.T))
    price = _best_price(gram, S, Vt) if gamma is None else math.sqrt(gamma)
    nrc3, best = _distance(gram, S, Vt, price), price * price
    return RegressionMetrics(_left(units, of_H), _left(units, of_A), nrc3, best if gamma is None else gamma)


def _matching(H: Matrix, Y: Matrix, A: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Matrices that go together, or which one doesn't."""
    (N, d), K = H.shape, Y.shape[1]
    if len(Y) != N:
        raise ValueError(f"Y of shape {Y.shape}: a row for each of the {N} rows of H is needed")
    if A.shape != (K, d):
        raise ValueError(f"A of shape {A.shape}: ({K}, {d}), outputs and features, is needed")
    return H, Y, A


def _matrix(name: str, value: Any) -> Matrix:
    array = np.asarray(numeric(name, value), np.float64)
    array = array[:, None] if array.ndim == 1 and name == "Y" else array
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} of shape {array.shape}: a matrix, one row a sample or an output, is needed")
    if not all_finite(array):
        raise ValueError(f"{name}: a NaN or an infinity among it; finite numbers are needed")
    return array


def _row_space(A):
    """(r, d) orthonormal rows that A's are combinations of, up to rounding."""
    S, Vt = right_svd(A)
    return Vt[max(A.shape) * np.finfo(float).eps * S[0] < S]


def _left(units, axes) -> float:
    """Mean squared norm of what a projection leaves of unit vectors."""
    return float(np.mean(norm(units - (units @ axes.T) @ axes, axis=1) ** 2))


def _distance(gram, S, Vt, price) -> float:
    """‖gram − [Σ^{1/2} − price]₊/‖·‖‖²."""
    lowered = np.maximum(S - price, 0.0)
    return float(norm(gram - (Vt.T * over(lowered, norm(lowered))) @ Vt) ** 2)


def _best_price(gram, S, Vt) -> float:
    """√γ in [0, s_min] at which nrc3 is least: the best of some, refined."""
    from scipy.optimize import minimize_scalar  # half a second, which most never need

    trials = np.linspace(0.0, S[-1], 65)
    values = [_distance(gram, S, Vt, price) for price in trials]
    at = int(np.argmin(values))
    low, high = trials[max(at - 1, 0)], trials[min(at + 1, 64)]
    found: Any = minimize_scalar(
        lambda price: _distance(gram, S, Vt, price),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-10 * S[0]},
    )
    return float(min((trials[at], found.x), key=lambda price: _distance(gram, S, Vt, price)))
