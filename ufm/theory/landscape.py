"""Strict saddles: every critical point that isn't global can be left along a known direction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.precision import float64
from ufm.model.constraints import Free
from ufm.model.losses import facts_of, per_sample
from ufm.model.params import Params
from ufm.model.problem import Problem, relaxed_rank
from ufm.theory.registry import Prediction, theorem


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
    sigma = float(np.linalg.norm(_pull(problem, params), ord=2))
    mean, half = (problem.lambda_A + problem.lambda_H) / 2, (problem.lambda_A - problem.lambda_H) / 2
    return mean - float(np.hypot(half, sigma))


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
    weight = problem.class_weights
    share = weight[problem.labels] / problem.num_samples
    with float64():

        def risk(Z: Any) -> Any:
            return jnp.sum(jnp.asarray(share) * per_sample(problem.loss, Z, jnp.asarray(problem.labels)))

        return -np.asarray(jax.grad(risk)(jnp.asarray(logits.T))).T


def _applies(problem: Problem) -> bool:
    free = isinstance(problem.features, Free) and isinstance(problem.classifier, Free)
    decayed = problem.lambda_A > 0 and problem.lambda_H > 0
    return (
        free and decayed and facts_of(problem.loss).convex and problem.balanced and problem.dim >= relaxed_rank(problem)
    )


@theorem(
    "strict saddles",
    paper="Zhu et al. 2021 (d > K; here from the relaxed rank on)",
    assumes="convex loss, balanced, free factors with decay, d ≥ K − 1 (cross-entropies or free bias) or d ≥ K",
    applies=_applies,
)
def strict_saddles(problem: Problem) -> Prediction:
    """Every critical point that is not a global minimum has negative curvature, known in closed form.

    `escape_curvature` derives it; at the zero point it is the threshold named here.
    """
    return Prediction(thresholds={"curvature at the zero point": escape_curvature(problem, zero_point(problem))})
