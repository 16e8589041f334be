"""Features after a ReLU: non-negative entries keep classes on separate coordinates, and orthogonal."""

import dataclasses
from typing import Any

import numpy as np

from ufm.model.constraints import Free, Nonnegative
from ufm.model.losses import CrossEntropy, LabelSmoothing, SquaredError
from ufm.model.problem import Problem
from ufm.theory._margins import margin_loss
from ufm.theory.formulas import COLLAPSED, TOTAL, WITHIN, decay_scale, is_about, is_decayed, near, unused_bias
from ufm.theory.imbalanced_squared_error import general_orthogonal_frame
from ufm.theory.registry import Prediction, theorem
from ufm.theory.squared_error import squared_error


def _applies(problem: Problem, *losses: type) -> bool:
    known = is_about(problem, *losses, features=Nonnegative, classifier=Free) and is_decayed(problem)
    return known and problem.dim >= problem.num_classes


@theorem(
    "non-negative orthogonal frame",
    paper="Tirer & Bruna 2022; Súkeník et al. 2023; Dang et al. 2024",
    family="constraints",
    assumes="squared error, non-negative features, no bias, d ≥ K, decay on A and H; any counts and class weights",
    applies=lambda problem: _applies(problem, SquaredError) and problem.bias_kind == "none",
)
def non_negative_frame(problem: Problem) -> Prediction:
    """What holds without the constraint: value, orthogonal features and classifier, norms, and which classes die.

    The constraint can only raise the minimum. Without it features of different classes are orthogonal at an optimum,
    and a rotation lays them along coordinate axes, where they are non-negative and cost the same: so the minima agree,
    and every constrained minimiser is one of those, with its Grams and norms. Trap: a decayed bias, whose frame has
    negative cosines.
    """
    free = dataclasses.replace(problem, features=Free())
    return squared_error(free) if problem.balanced else general_orthogonal_frame(free)


@theorem(
    "non-negative orthogonal frame with a free bias",
    paper="Tirer & Bruna 2022; Súkeník et al. 2023; Dang et al. 2024",
    family="constraints",
    assumes="squared error, non-negative features, free bias, balanced classes, d ≥ K, weight decay on A and H",
    applies=lambda problem: _applies(problem, SquaredError) and problem.bias_kind == "free" and problem.balanced,
)
def non_negative_frame_with_bias(problem: Problem) -> Prediction:
    """Value, norms, orthogonal features, and a simplex ETF for the classifier.

    The best bias leaves (1/2K)‖P(M Aᵀ − I)‖² of the class means M, P = I − J/K. For any v ≥ 0 it is at least
    (K−1)(v − Kv²/2) − v⟨P, M Aᵀ⟩, and ⟨PM, A⟩ ≤ ‖PM‖‖A‖ where entries without sign cost a factor: ‖1ᵀM‖² ≥ ‖M‖², hence
    ‖PM‖² = ‖M‖² − ‖1ᵀM‖²/K ≤ (1 − 1/K)‖M‖², with equality iff no two classes share a coordinate. The decay pays for
    v = κ/√(1−1/K), κ = c√n, so that with c' = Kκ√(1−1/K) and m = 1 − 1/K

        f = c' − c'²/(2m),    P M Aᵀ = s P,  s = 1 − c'/m;    f = m/2 and all is zero for c' ≥ m.

    M = h·(K orthonormal non-negative rows), A ∝ PM: the metrics, which centre the means, see an ETF. b = 1/K. Traps:
    all is zero from Kκ = √(1−1/K) on, where free features live; for K = 2 a bias trades with the two means' norms, of
    which only the sum of squares is known.
    """
    K, n, w = problem.num_classes, problem.class_counts[0], problem.group_weights[0]
    m = 1 - 1 / K
    price = K * decay_scale(problem) * np.sqrt(n * m) / w
    known: dict[str, Any] = {"thresholds": {TOTAL: float(w * np.sqrt(m / n) / K)}}
    if price >= m:
        sure = {} if near(price, m) else {"degenerate": True, "bias": np.full(K, 1 / K)}
        return Prediction(value=float(w * m / 2), **sure, **known)
    s = 1 - price / m
    value = float(w * (price - price**2 / (2 * m)))
    if near(price, m):
        return Prediction(value=value, **known)
    paid = w * price * s  # λ_A ‖A‖² = λ_H ‖H‖²
    norm_A, norm_H = np.sqrt(paid / problem.lambda_A), np.sqrt(paid / problem.lambda_H)
    known |= {"norm_A": norm_A, "norms_A": np.full(K, norm_A / np.sqrt(K)), "gram_A": np.eye(K) - 1 / K}
    if K > 2:
        known |= {"gram_H": np.eye(K), "norms_H": np.full(K, norm_H / np.sqrt(K * n)), "bias": np.full(K, 1 / K)}
        known |= {"singular_values": np.full(K - 1, np.sqrt(n) * s), "metrics": COLLAPSED}
    return Prediction(value=value, degenerate=False, norm_H=norm_H, **known)


def _decouples(problem: Problem) -> bool:
    known = _applies(problem, CrossEntropy, LabelSmoothing)
    return known and (problem.bias_kind == "none" or (problem.balanced and problem.num_classes > 2))


@theorem(
    "non-negative features decouple classes",
    paper="Dang et al. 2024",
    family="constraints",
    assumes="cross-entropy or label smoothing, non-negative features, d ≥ K, weight decay on A and H; any counts and "
    "class weights without bias, balanced classes and K > 2 with any",
    applies=_decouples,
)
def decoupled_classes(problem: Problem) -> Prediction:
    """Value, orthogonal class means, norms, and which classes lose their features, each class by itself.

    Class k's loss is at least φ(m_k), m_k = K/(K−1) ⟨Pe_k, A h̄_k⟩ its mean margin over the wrong classes, P = I − J/K.
    Let φ_k = w_kπ_kφ and s_k ≥ 0 minimise φ_k(s) + β_k s, β_k = c√(n_k(K−1)/K), and v_k = −φ_k'(s_k) ≤ β_k. Convexity
    leaves Σ φ_k(s_k) + v_k s_k − ⟨A, PVM⟩, V = K/(K−1) diag(v). As VM ≥ 0 has ‖1ᵀVM‖² ≥ ‖VM‖², ‖PVM‖² ≤ (1 − 1/K)‖VM‖²
    ≤ c²Σ n_k‖h̄_k‖², which the decay pays for. So, with equality iff no two classes share a coordinate,

        f = Σ_k min_{s ≥ 0} w_kπ_k φ(s) + c√(n_k(K−1)/K) s,

    and class k has no features iff c ≥ (1−α)w_k √(n_k(K−1)/K)/N, whatever the others are (n_k ≤ N²c²K/(K−1) for w = 1,
    α = 0: at a smaller c than minorities of free features merge). Gradients in A give A = PVM/λ_A, and so ‖h̄_k‖² =
    λ_A s_k/V_k and AAᵀ = P diag(V_k s_k) P/λ_A. A bias shifts margins by what averages out if classes are balanced.
    Traps: classifier rows of classes without features are not zero, but −1/K of the sum of all that live, and so one
    vector; a free bias with K = 2 leaves norms open.
    """
    K, n, w, N = problem.num_classes, problem.class_counts, problem.group_weights, problem.num_samples
    c, phi = decay_scale(problem), margin_loss(problem)
    beta, share = c * np.sqrt(n * (K - 1) / K), w * n / N
    s = phi.at_price(beta / share)
    value = float(np.sum(share * phi(s) + beta * s))
    reach = (1 - phi.alpha) * w * np.sqrt(n * (K - 1) / K) / N
    dying = {"w_k √n_k at which class k dies": float(N * c * np.sqrt(K / (K - 1)) / (1 - phi.alpha))}
    known: dict[str, Any] = {"thresholds": {TOTAL: float(np.max(reach)), **dying}, **unused_bias(problem)}
    if any(near(c, at) for at in reach):
        return Prediction(value=value, **known)
    alive = c < reach
    if not np.any(alive):
        return Prediction(value=value, degenerate=True, **known)
    s, V = np.where(alive, s, 0.0), K / (K - 1) * beta
    simplex = np.eye(K) - 1 / K
    squares, gram_A = problem.lambda_A * s / V, simplex * (V * s) @ simplex / problem.lambda_A
    dead = np.flatnonzero(~alive)
    return Prediction(
        value=value,
        degenerate=False,
        gram_H=np.diag(squares),
        gram_A=gram_A,
        norm_H=float(np.sqrt(n @ squares)),
        norm_A=float(np.sqrt(np.trace(gram_A))),
        norms_H=np.sqrt(squares),
        norms_A=np.sqrt(np.diag(gram_A)),
        singular_values=np.linalg.svd((np.sqrt(n) * s)[:, None] * simplex, compute_uv=False)[:-1],
        merged=(tuple(int(k) for k in dead),) if len(dead) > 1 else (),
        metrics=COLLAPSED if problem.balanced else WITHIN,
        **known,
    )
