"""Squared error on balanced classes: orthogonal frame without bias, simplex ETF with one, and what lies between."""

from typing import Any

import numpy as np

from ufm.model.losses import SquaredError
from ufm.model.problem import Problem
from ufm.theory.formulas import TOTAL, balanced_shape, common_weight, factor_norms, is_plain, margin_price, near
from ufm.theory.registry import Prediction, theorem


@theorem(
    "orthogonal frame to simplex ETF",
    paper="Zhou et al. 2022 (MSE); Tirer & Bruna 2022; Dang et al. 2023",
    family="balanced classes",
    assumes="squared error, balanced classes, weight decay on A and H, any bias, any d",
    applies=lambda problem: is_plain(problem, SquaredError) and problem.balanced,
)
def squared_error(problem: Problem) -> Prediction:
    """Value, norms and frame: orthogonal without bias, simplex ETF with a free one, in between with a decayed one.

    Minimising over the bias leaves (1/2K)‖(P + μJ/K)^{1/2}(Z̄ − I)‖² + κ‖Z̄‖_* for the class means Z̄ of H Aᵀ, with
    κ = c√n, P = I − J/K and μ = λ_b/(1+λ_b): 1 without bias, 0 for a free one. P and J/K decouple,

        f = r(κ − Kκ²/2) + (K−1−r)/(2K) + [κ − Kκ²/(2μ) if d ≥ K and μ > Kκ, else μ/(2K)],   r = min(d, K−1),

    the singular values being √n(1−Kκ), r times, and √n(1−Kκ/μ) for the common mode: the frame has the Gram s₀P + s₁J/K,
    and b = (1 − s₁/√n)/(K(1+λ_b)). Kκ ≥ 1: all is zero. For d < K let V (K, d) span the rows of Z̄ and y = tr(VᵀJV)/K:
    the dual point (κP + min(κ, μ/K)J/K)V bounds f from below by an increasing affine function of y, so the common
    mode goes first. Traps: without bias and d < K, or d < K−1, the frame is any d-dimensional one (value and norms
    only); a mean over N·K entries is 2/K times this loss.
    """
    K, d, n, w = problem.num_classes, problem.dim, problem.class_counts[0], problem.group_weights[0]
    scale = np.sqrt(n)
    kappa = margin_price(problem)
    mu = common_weight(problem)
    thresholds = {TOTAL: float(w / (K * scale)), "c at loss of the common mode": float(mu * w / (K * scale))}
    known: dict[str, Any] = {"thresholds": thresholds}
    if K * kappa >= 1:
        sure = {} if near(K * kappa, 1.0) else {"degenerate": True, **_bias(problem, 0.0)}
        return Prediction(value=float(w * (K - 1 + mu) / (2 * K)), **sure, **known)
    joint, r = d >= K and mu > K * kappa, min(d, K - 1)
    common = kappa - K * kappa**2 / (2 * mu) if joint else mu / (2 * K)
    value = float(w * (r * (kappa - K * kappa**2 / 2) + (K - 1 - r) / (2 * K) + common))
    if near(K * kappa, 1.0) or (d >= K and near(K * kappa, mu)):
        return Prediction(value=value, **known)
    s0, s1 = float(scale * (1 - K * kappa)), float(scale * (1 - K * kappa / mu)) if joint else 0.0
    unique = d >= K or (d == K - 1 and mu < 1)
    shape = balanced_shape(problem, s0, s1) if unique else factor_norms(problem, [s0] * r)
    return Prediction(value=value, degenerate=False, **shape, **_bias(problem, s1 / scale), **known)


def _bias(problem: Problem, done: float) -> dict:
    """The bias takes on 1/(1+λ_b) of what the factors have not done of the mean target 1/K."""
    if problem.bias_kind == "none":
        return {}
    K, decay = problem.num_classes, problem.lambda_b / problem.group_weights[0]
    return {"bias": np.full(K, (1 - done) / (K * (1 + decay)))}
