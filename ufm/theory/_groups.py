"""Groups of samples with any targets, as the theorems about them read a problem."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ufm._core.arrays import silent
from ufm._core.linalg import triangle
from ufm._core.precision import float64
from ufm.model.losses import CrossEntropy, LabelSmoothing, SquaredError, closed, per_sample_slope
from ufm.model.problem import Problem, relaxed_rank, told
from ufm.model.targets import Targets
from ufm.theory.formulas import decay_scale, is_plain, smoothing
from ufm.theory.registry import Found

CROSS_ENTROPIES = (CrossEntropy, LabelSmoothing)
ZERO = 1e-9  # of the largest singular value: one that would be zero but for rounding
LOSSES = (*CROSS_ENTROPIES, SquaredError)


class Groups(NamedTuple):
    """M groups: targets T (M, K), weights w (M,) of a sample's loss, shares π (M,), and ĉ = √(N λ_A λ_H).

    The minimum over Z = H Aᵀ is that of Σ π_m w_m ℓ(z_m + b, T_m) + ĉ‖Π^{1/2}Z‖_* + λ_b/2 ‖b‖².
    """

    T: np.ndarray
    w: np.ndarray
    share: np.ndarray
    price: float

    @property
    def root(self) -> np.ndarray:
        """(M, 1) the diagonal of Π^{1/2}."""
        return np.sqrt(self.share)[:, None]


def is_told(problem: Problem, *losses: type) -> bool:
    """Whether a problem has targets and one of these losses, and both factors are free and decayed."""
    return problem.targets is not None and is_plain(problem, *losses)


def targets_of(problem: Problem) -> Targets:
    """The targets of a problem that `is_told` them."""
    assert problem.targets is not None
    return problem.targets


def is_relaxed(problem: Problem) -> bool:
    """Whether there are dimensions enough for the convex form to be attained."""
    return problem.dim >= relaxed_rank(problem)


def groups_of(problem: Problem) -> Groups:
    """The groups of a problem, with class labels its classes.

    Rows of cross-entropies are smoothed and sum to one: a row's mass goes into the weight, as the loss is
    proportional to it.
    """
    K = problem.num_classes
    T = np.eye(K) if problem.targets is None else np.asarray(problem.targets.rows, np.float64)
    w, share = np.asarray(problem.group_weights, np.float64), problem.group_counts / problem.num_samples
    if is_plain(problem, *CROSS_ENTROPIES):
        mass = np.sum(T, axis=1)
        alpha = smoothing(problem)
        T, w = (1 - alpha) * T / mass[:, None] + alpha / K, w * mass
    return Groups(T, w, share, float(np.sqrt(problem.num_samples) * decay_scale(problem)))


def slopes(problem: Problem, logits: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """∇ℓ (n, K) at logits (n, K) of samples of these groups (n,), by default one of each."""
    wanted = np.asarray(told(problem, problem.group_labels if groups is None else groups))
    with float64(), silent():
        given = (logits.T, wanted) if closed(problem.loss) else (jnp.asarray(logits.T), jnp.asarray(wanted))
        return np.asarray(per_sample_slope(problem.loss, *given)).T


def logits_of(problem: Problem, found: Found) -> np.ndarray:
    """(M, K) logits of group means, with the bias."""
    return found.penultimate @ found.classifier.T + (found.bias if problem.bias else 0.0)


def operator_norm(X: np.ndarray) -> float:
    """Of a matrix that may be long, with all its digits."""
    return float(np.linalg.norm(triangle(X) if len(X) > 2 * X.shape[1] else X, 2))


def polar(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The polar factor of a matrix, and its singular values and right singular vectors, those that aren't zero."""
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    there = s > ZERO * max(float(s[0]), np.finfo(float).tiny)
    return U[:, there] @ Vt[there], s[there], Vt[there]


def log_softmax(Z: np.ndarray) -> np.ndarray:
    """Of rows."""
    return Z - np.logaddexp.reduce(Z, axis=1, keepdims=True)


def of_features(problem: Problem, found: Found, predicted: np.ndarray) -> float:
    """Distance of group means from predicted ones (M, r), √(λ_H Σ n_m‖·‖²) in units of √f.

    So are distances of parameters that a relative gap g leaves at most of the order √g.
    """
    off = problem.group_counts @ np.sum((found.means - predicted) ** 2, axis=1)
    return in_units(found, np.sqrt(problem.lambda_H * off))


def in_units(found: Found, size: float) -> float:
    """A size with the unit √f in units of √f."""
    return float(size / np.sqrt(max(abs(found.value), np.finfo(float).tiny)))
