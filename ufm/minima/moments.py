"""Squared error of any real targets at once, from their mean and covariance: a spectral thresholding.

Let targets have mean T̄ and covariance Σ = V diag(s_j²) Vᵀ (or T̄ = 0 and second moments, without a bias), with decay on
both factors, no constraints and one weight w: f is w times that of weight one and decays over w. There, with
ĉ = √(N λ_A λ_H), logits are Z = X S' Vᵀ with s_j' = (s_j − ĉ)₊ of the d largest s_j, and

    f* = Σ_alive (ĉ s_j − ĉ²/2) + Σ_dead s_j²/2

(Andriopoulos et al. 2024 for the covariance of full rank; by von Neumann's inequality for any, and any d). So a million
samples cost their K × K moments and its eigenvectors, and the value is its own lower bound, up to rounding.
"""

from typing import Any, NamedTuple

import numpy as np

from ufm._core.linalg import ROWS_AT_ONCE, triangle
from ufm._core.precision import allowance
from ufm._core.side_by_side import side_by_side
from ufm.minima.reduction import LaneParams, least_dim
from ufm.minima.symmetry import unbound
from ufm.model.losses import SquaredError, is_one_of
from ufm.model.problem import Problem


class Thresholded(NamedTuple):
    """The minimum: group means (M, r), classifier (K, r), bias (K,); its value and slope there; and a lower bound.

    The slope is the norm of the gradient of the problem as posed; `alive` says how many directions live.
    """

    params: LaneParams
    value: float
    grad_norm: float
    lower_bound: float
    alive: int


def has_moments(problem: Problem) -> bool:
    """Whether the minimum follows from mean and covariance of the targets."""
    decayed = all(f.decay > 0 and unbound(f.constraint) for f in problem.factors())
    if problem.targets is None or not decayed or not is_one_of(problem.loss, SquaredError):
        return False
    return problem.bias_kind != "regularised" and bool(np.ptp(problem.group_weights) == 0)


def thresholded(problem: Problem) -> Thresholded:
    """The minimum of a problem that `has_moments`; in NumPy float64, and passes over blocks of groups on all cores."""
    targets: Any = problem.targets
    T, w = np.asarray(targets.rows), float(np.asarray(targets.weights)[0])
    mean = targets.shares @ T if problem.bias_kind == "free" else np.zeros(T.shape[1])
    s, V = _spectrum(T, np.sqrt(targets.shares), mean)
    lambda_A, N_lambda_H = problem.lambda_A / w, problem.num_samples * problem.lambda_H / w
    price = np.sqrt(problem.num_samples * lambda_A) * np.sqrt(problem.lambda_H / w)
    lives = (s > price) & (np.arange(len(s)) < problem.dim)
    left = np.where(lives, s - price, 0.0)
    r = min(least_dim(problem), len(s))
    missing = ((0, 0), (0, least_dim(problem) - r))
    A = np.pad(V[:, :r] * np.sqrt(np.sqrt(N_lambda_H / lambda_A) * left)[:r], missing)
    of_direction = np.sqrt(np.sqrt(lambda_A / N_lambda_H) * left) / np.where(lives, s, 1.0)
    H, there, grad_norm = _at(problem, np.pad(V[:, :r] * of_direction[:r], missing), A, mean)
    value = w * float(np.sum(np.where(lives, price * s - 0.5 * price**2, 0.5 * s**2)))
    # singular values are found to rounding of the largest and of the mean; the value's slope along one is ĉ or s
    size, slopes = np.linalg.norm(s) + np.linalg.norm(mean), np.sum(np.where(lives, price, s))
    doubt = allowance() * (w * float(slopes * size) + value)
    bound, alive = max(value - doubt, 0.0), int(np.count_nonzero(lives))
    return Thresholded(LaneParams(H, A, mean), there, grad_norm, bound, alive)


def _blocks(rows: int) -> list[slice]:
    return [slice(first, first + ROWS_AT_ONCE) for first in range(0, rows, ROWS_AT_ONCE)]


def _spectrum(T, roots, mean):
    """Singular values (K' ≤ K,) and right singular vectors (K, K') of the centred rows, each times its root."""

    def of(block):
        return np.linalg.qr(roots[block, None] * (T[block] - mean), mode="r")

    triangles = np.concatenate(list(side_by_side(of, _blocks(len(T)))))
    _, s, Vt = np.linalg.svd(triangle(triangles), full_matrices=False)
    return s, Vt.T


def _at(problem: Problem, to_H: Any, A: Any, b: Any) -> tuple[np.ndarray, float, float]:
    """Group means (T − b) to_H, the objective there, and the norm of its gradient.

    A sample's gradient is the n_m-th part of its group's.
    """
    targets: Any = problem.targets
    T, weight = np.asarray(targets.rows), float(np.asarray(targets.weights)[0]) / problem.num_samples
    H = np.empty((len(T), to_H.shape[1]))

    def of(block):
        mine, n = (T[block] - b) @ to_H, problem.group_counts[block, None]
        H[block] = mine
        residual = mine @ A.T + b - T[block]
        slopes = residual * (weight * n)
        twice = np.vdot(slopes, residual) + problem.lambda_H * np.vdot(n * mine, mine)
        squares = np.sum((slopes @ A + problem.lambda_H * n * mine) ** 2 / n)
        return twice, squares, slopes.T @ mine, slopes.sum(axis=0)

    twice, squares, along_A, along_b = map(sum, zip(*side_by_side(of, _blocks(len(T))), strict=True))
    squares += np.sum((along_A + problem.lambda_A * A) ** 2) + (problem.bias_kind == "free") * np.sum(along_b**2)
    return H, 0.5 * float(twice + problem.lambda_A * np.sum(A**2)), float(np.sqrt(squares))
