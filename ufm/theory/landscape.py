"""Strict saddles: every critical point that isn't global can be left along a known direction."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ufm._core.precision import allowance
from ufm.model.losses import facts_of
from ufm.model.params import Params
from ufm.model.problem import Problem, relaxed_rank
from ufm.theory._groups import slopes
from ufm.theory.formulas import is_plain
from ufm.theory.registry import GEOMETRY, Check, Found, Prediction, theorem

CRITICAL = 1e-9  # of a gradient, relative: rounding of solvers and of training in float64


def escape_curvature(problem: Problem, params: Params) -> float:
    """Smallest Hessian eigenvalue at a critical point whose classifier leaves a dimension of the features unused.

    With U = −∂(risk)/∂Z (N, K), stationarity reads UA = λ_H H and UᵀH = λ_A A. For a unit a in ker A and the top
    singular pair (x, y, σ) of U, the plane of dH ∝ x aᵀ and dA ∝ y aᵀ is invariant under the Hessian, which acts on it
    as [[λ_H, −σ], [−σ, λ_A]]: to first order the logits don't move, and only the product dH dAᵀ meets U. Its smaller
    eigenvalue, (λ_A + λ_H)/2 − √(((λ_A − λ_H)/2)² + σ²), is negative iff σ > √(λ_A λ_H), that is unless the point is a
    global minimum.

    Args:
        problem: with free, decayed factors and a loss convex in the logits.
        params: a critical point.

    Returns:
        The eigenvalue, in the unit of the objective over the squared unit of the parameters.
    """
    U = _pull(problem, params)
    return _escape(problem, U.T @ U)


def _escape(problem: Problem, squares: np.ndarray) -> float:
    """The same from UᵀU (K, K), whose largest eigenvalue is σ²."""
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(squares)[-1], 0.0))
    return _mean_decay(problem) - float(np.hypot((problem.lambda_A - problem.lambda_H) / 2, sigma))


def zero_point(problem: Problem) -> Params:
    """A = H = 0 with the bias that balanced classes share: none."""
    return Params(
        np.zeros((problem.num_samples, problem.dim)),
        np.zeros((problem.num_classes, problem.dim)),
        np.zeros(problem.num_classes),
    )


def _pull(problem: Problem, params: Params) -> np.ndarray:
    """U = −∂(risk)/∂Z, (N, K)."""
    H, A, b = (np.asarray(x, np.float64) for x in params[:3])
    logits = H @ A.T + (b if problem.bias else 0.0)
    share = np.repeat(problem.group_weights, problem.group_counts) / problem.num_samples
    return -share[:, None] * slopes(problem, logits, problem.labels)


def _squares_at_zero(problem: Problem) -> np.ndarray:
    """UᵀU (K, K) at the zero point, whose samples of a group are alike."""
    weights = problem.group_weights / problem.num_samples
    U = weights[:, None] * slopes(problem, np.zeros((problem.num_groups, problem.num_classes)))
    return (U.T * problem.group_counts) @ U


def _is_critical(problem: Problem, params: Params, value: float) -> bool:
    """Whether the gradient is rounding beside √(decay · objective), which has its unit."""
    U = _pull(problem, params)
    H, A, b = (np.asarray(x, np.float64) for x in params[:3])
    gradient = [problem.lambda_H * H - U @ A, problem.lambda_A * A - U.T @ H]
    gradient += [problem.lambda_b * b - np.sum(U, axis=0)] if problem.bias else []
    return bool(sum(np.sum(part**2) for part in gradient) <= CRITICAL**2 * _mean_decay(problem) * abs(value))


def _mean_decay(problem: Problem) -> float:
    """The unit of curvatures."""
    return (problem.lambda_A + problem.lambda_H) / 2


def _rounding(found: Found) -> float:
    """What rounding leaves of an eigenvalue that is zero, in the unit of the largest."""
    return 0.0 if found.spectrum is None else allowance() * float(found.spectrum.values[-1])


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """At a minimum no direction falls; at another critical point one does, by as much as predicted.

    What is neither certified to be a minimum nor critical is undecided, and so is a critical point that is predicted to
    be a minimum, for lack of a certificate.
    """
    if found.curvature is None:
        return
    measured, unit = found.curvature, _mean_decay(problem)
    if found.certified:
        quantity, error = "smallest Hessian eigenvalue is at least", max(0.0, -measured) / unit
        check = found.of_minimiser(quantity, predicted=0.0, measured=measured, error=error)
        yield replace(check, doubt=check.doubt + _rounding(found) / unit)
        return
    predicted = escape_curvature(problem, found.params)
    saddle = predicted < -GEOMETRY * unit and _is_critical(problem, found.params, found.value)
    error, doubt = abs(measured - predicted) / unit, 0.0 if saddle else np.inf
    quantity = "smallest Hessian eigenvalue"
    yield Check(quantity, predicted=predicted, measured=measured, error=error, certain=saddle, doubt=doubt)


def _applies(problem: Problem) -> bool:
    convex = is_plain(problem) and bool(facts_of(problem.loss).convex)
    return convex and problem.balanced and problem.dim >= relaxed_rank(problem)


@theorem(
    "strict saddles",
    paper="Zhu et al. 2021 (d > K; here from the relaxed rank on)",
    family="landscape and dynamics",
    assumes="convex loss, balanced, free factors with decay, d ≥ K − 1 (cross-entropies or free bias) or d ≥ K",
    applies=_applies,
    checks=_checks,
)
def strict_saddles(problem: Problem) -> Prediction:
    """Every critical point that is not a global minimum has negative curvature, known in closed form.

    `escape_curvature` derives it; at the zero point it is the threshold named here. Verified where the Hessian can be
    formed: at a certified minimum nothing falls; a critical point that isn't one has the predicted curvature.
    """
    return Prediction(thresholds={"curvature at the zero point": _escape(problem, _squares_at_zero(problem))})
