"""Squared error on imbalanced classes: a general orthogonal frame without bias, and its relative with a free one."""

from typing import Any

import numpy as np

from ufm.model.losses import SquaredError
from ufm.model.problem import Problem
from ufm.theory.formulas import NEAR, TOTAL, WITHIN, decay_scale, factor_norms, is_plain, near, same_weights
from ufm.theory.registry import Prediction, theorem


def _applies_without_bias(problem: Problem) -> bool:
    if not is_plain(problem, SquaredError) or problem.balanced or problem.bias_kind != "none":
        return False
    return same_weights(problem) or bool(np.count_nonzero(_shrunk(problem)) <= problem.dim)


@theorem(
    "general orthogonal frame",
    paper="Dang et al. 2023",
    family="imbalanced classes",
    assumes="squared error, any counts, no bias, weight decay on A and H; with unequal class weights d ≥ classes alive",
    applies=_applies_without_bias,
)
def general_orthogonal_frame(problem: Problem) -> Prediction:
    """Value, orthogonal features and classifier of predicted norms, and which classes die.

    Flipping the signs of class k's samples and of column k changes nothing, so by convexity Z is diagonal by class with
    entries s_k/√n_k, and with N samples and c = √(λ_A λ_H)

        f = Σ_k min_{s ≥ 0} w_k (s − √n_k)²/(2N) + c s,    s_k = (√n_k − Nc/w_k)₊.

    Class k dies iff w_k√n_k ≤ Nc; a living one has ‖a_k‖² = √(λ_H/λ_A) s_k and ‖h̄_k‖² = √(λ_A/λ_H) s_k/n_k, so that its
    features are largest at n_k = 4N²c², neither for few nor for many. For d < K and equal weights the d largest
    classes live (von Neumann's trace inequality). Traps: where the d-th and the next count are equal the frame is not
    unique; death is continuous, near its threshold rows are tiny.
    """
    n, w, N, c = problem.class_counts, problem.group_weights, problem.num_samples, decay_scale(problem)
    relaxed = _shrunk(problem)
    # classes that d dimensions have room for, the largest, and the others
    first, others = np.split(np.argsort(-w * np.sqrt(n), kind="stable"), [problem.dim])
    s = relaxed.copy()
    s[others] = 0.0
    value = float(np.sum(w * (s - np.sqrt(n)) ** 2) / (2 * N) + c * np.sum(s))
    thresholds = {TOTAL: float(np.max(w * np.sqrt(n)) / N), "w_k √n_k at which class k dies": N * c}
    known: dict[str, Any] = {"value": value, "thresholds": thresholds}
    if any(near(x, N * c) for x in (w * np.sqrt(n))[first]):
        return Prediction(**known)
    if not np.any(s):
        return Prediction(degenerate=True, **known)
    known |= {"degenerate": False, "metrics": WITHIN} | factor_norms(problem, s[s > 0])
    if others.size and relaxed[others[0]] > 0 and n[others[0]] > (1 - NEAR) * n[first[-1]]:
        return Prediction(**known)
    ratio = np.sqrt(problem.lambda_H / problem.lambda_A)
    shape = {"norms_A": np.sqrt(ratio * s), "norms_H": np.sqrt(s / (ratio * n)), "dead": s == 0}
    return Prediction(gram_A=np.diag(s), gram_H=np.diag(s / n), **shape, **known)


def _shrunk(problem: Problem) -> np.ndarray:
    """(K,) the singular values that d ≥ K allows."""
    price = problem.num_samples * decay_scale(problem) / problem.group_weights
    return np.maximum(np.sqrt(problem.class_counts) - price, 0.0)


@theorem(
    "centred frame of imbalanced classes",
    paper="Dang et al. 2023",
    family="imbalanced classes",
    assumes="squared error, any counts, free bias, equal class weights, weight decay on A and H",
    applies=lambda problem: (
        is_plain(problem, SquaredError)
        and not problem.balanced
        and problem.bias_kind == "free"
        and same_weights(problem)
    ),
)
def centred_frame(problem: Problem) -> Prediction:
    """Value, singular values, bias n/N, and Grams that are functions of D − nnᵀ/N.

    The best bias centres what is left, C = I − 11ᵀ/N: (1/2N)‖C(Z − Y)‖² + c‖Z‖_*. With YᵀCY = D − nnᵀ/N = Σ τ_j²v_jv_jᵀ
    the singular values of Z are s_j = (τ_j − Nc)₊, the d largest of them, Z = CY Σ (s_j/τ_j) v_jv_jᵀ, and

        f = Σ_alive (cτ_j − Nc²/2) + Σ_dead τ_j²/(2N).

    Hence AAᵀ ∝ Σ s_j v_jv_jᵀ; with E = I − 1nᵀ/N, the class rows of CY, H̄H̄ᵀ ∝ Σ (s_j/τ_j²) (Ev_j)(Ev_j)ᵀ. Samples of Z
    sum to zero, so b = n/N. Trap: for d < K − 1 and equal τ_j at the cut the Grams are not unique.
    """
    K, d, n, N = problem.num_classes, problem.dim, problem.class_counts, problem.num_samples
    w = problem.group_weights[0]
    c = decay_scale(problem) / w
    squares, V = np.linalg.eigh(np.diag(n) - np.outer(n, n) / N)
    squares, V = squares[:0:-1], V[:, :0:-1]  # (K−1,), (K, K−1): the largest first, without the zero of 1
    tau = np.sqrt(squares)
    s = np.where(np.arange(K - 1) < d, np.maximum(tau - N * c, 0.0), 0.0)
    value = float(w * (np.sum((s - tau) ** 2) / (2 * N) + c * np.sum(s)))
    known: dict[str, Any] = {"value": value, "bias": n / N, "thresholds": {TOTAL: float(w * tau[0] / N)}}
    if any(near(t, N * c) for t in tau[:d]):
        return Prediction(**known)
    if not np.any(s):
        return Prediction(degenerate=True, **known)
    known |= {"degenerate": False, "metrics": WITHIN} | factor_norms(problem, s[s > 0])
    if d < K - 1 and s[d - 1] > 0 and tau[d] > (1 - NEAR) * tau[d - 1]:
        return Prediction(**known)
    EV = V - n @ V / N  # E v_j, the mean over samples taken off
    gram_A, gram_H = V * s @ V.T, EV * (s / squares) @ EV.T
    ratio = np.sqrt(problem.lambda_H / problem.lambda_A)
    norms = {"norms_A": np.sqrt(ratio * np.diag(gram_A)), "norms_H": np.sqrt(np.diag(gram_H) / ratio)}
    return Prediction(gram_A=gram_A, gram_H=gram_H, **norms, **known)
