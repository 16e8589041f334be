"""The objective's Hessian in closed form, where the loss declares its slope and curvature: products, in NumPy."""

from collections.abc import Callable

import numpy as np

from ufm._core.arrays import silent
from ufm._core.blocks import few
from ufm.model.losses import closed, declares, facts_of, per_sample_curvature, per_sample_slope
from ufm.model.params import Params
from ufm.model.problem import Problem, told


def has_closed_hessian(problem: Problem) -> bool:
    """Whether `hessian` serves: two factors, a loss that NumPy computes and whose curvature is known, few logits."""
    known = closed(problem.loss) and declares(problem.loss, "curvature")
    return known and len(problem.factors()) == 2 and few(problem.num_samples * (problem.num_classes + problem.dim))


def hessian(problem: Problem, params: Params) -> Callable[[Params], Params]:
    """The Hessian of the objective at parameters with values, as a function of moves (..., rows, columns).

    With weights ω_i = w_{y_i}/N, slopes G = ω ∇ℓ (N, K) and ∇²ℓ_i = diag q_i − p_i p_iᵀ, a move changes the logits by
    dZ = dH Aᵀ + H dAᵀ + 1dbᵀ and the slopes by dG_i = ω_i (q_i ∘ dZ_i − p_i ⟨p_i, dZ_i⟩), so that the gradient
    (G A, Gᵀ H, Gᵀ 1) changes by (dG A + G dA, dGᵀ H + Gᵀ dH, dGᵀ 1), beside the decay. Where a common shift of logits
    changes nothing, that of the likeliest one is taken off, lest its q − p² be the difference of two ones.
    """
    H, A, b, wanted = params.H, params.A, params.b if problem.bias else 0.0, told(problem, problem.labels)
    weights = np.repeat(problem.group_weights, problem.group_counts)[:, None] / problem.num_samples
    logits = (H @ A.T + b).T
    with silent():
        G = weights * per_sample_slope(problem.loss, logits, wanted).T
        q, p = (part.T for part in per_sample_curvature(problem.loss, logits, wanted))
    likeliest = np.arange(len(p)), np.argmax(p, axis=1)

    def product(move: Params) -> Params:
        dZ = move.H @ A.T + H @ np.swapaxes(move.A, -1, -2) + (move.b[..., None, :] if problem.bias else 0.0)
        if facts_of(problem.loss).ignores_shift:
            dZ = dZ - dZ[..., *likeliest][..., None]
        dG = weights * (q * dZ - p * np.sum(p * dZ, axis=-1, keepdims=True))
        return Params(
            H=dG @ A + G @ move.A + problem.lambda_H * move.H,
            A=np.swapaxes(dG, -1, -2) @ H + G.T @ move.H + problem.lambda_A * move.A,
            b=np.sum(dG, axis=-2) + problem.lambda_b * move.b,
        )

    return product
