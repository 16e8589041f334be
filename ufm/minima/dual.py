"""A rigorous lower bound on one reduced problem, from a candidate, by duality.

Weak duality over the logits. Let L(Z) = Σ_m ω_m ℓ_m(z_m) be the risk of M group samples with weights ω_m, U any M × K
matrix, and D₁ = diag(n_m (λ_H + μ_m)), D₂ = diag(λ_A + ν_k) with multipliers of the constraints ‖h_m‖ ≤ R_H and
‖a_k‖ ≤ R_A. Fenchel's inequality bounds the risk below by −⟨U, Z⟩ plus conjugates; the decay and the multipliers give
at least ‖D₁^{1/2} H Aᵀ D₂^{1/2}‖_* minus what the multipliers cost; and ⟨U, H Aᵀ⟩ is at most that nuclear norm where
‖D₁^{−1/2} U D₂^{−1/2}‖_op ≤ 1. So, for every d,

    f* ≥ −Σ_m ω_m ℓ_m*(−u_m/ω_m) − ‖1ᵀU‖²/(2λ_b) − ½ R_H² Σ n_m μ_m − ½ R_A² Σ ν_k,

with 1ᵀU = 0 instead of its term for a free bias, and nothing for none (Zhu et al. 2021 for the unconstrained case; the
multipliers extend it). U = −s ∇L at a candidate, s chosen so that the norm is at most 1, is optimal at an optimum.

A fixed classifier leaves a problem that is convex in H: its term is ½ Σ ‖(UA)_m‖²/(n_m (λ_H + μ_m)), without condition.
Non-negative features weaken the condition to one on max(G, 0), G = (D₁^{−1/2} U D₂^{−1/2})(…)ᵀ.
"""

import functools as ft
from typing import Any, NamedTuple

import numpy as np

from ufm._core.arrays import mapped, namespace
from ufm._core.linalg import largest_eigenvalue, operator_norm
from ufm._core.precision import allowance
from ufm.minima.bias import best_bias, without_excess
from ufm.minima.reduction import LaneParams, Reduced
from ufm.minima.streamed_bound import Dual, norm_bound
from ufm.model.losses import (
    conjugate_sizes,
    declares,
    mass_losing_digits,
    per_sample,
    per_sample_conjugate,
    per_sample_slope,
)

SCALES = np.linspace(0.125, 1.0, 8)  # of the dual point, tried away from an optimum
SMALLEST_NORM = 1e8  # times the smallest number: by less nothing is divided


def bound_of_lane(lane: Reduced, params: LaneParams):
    """The bound for one lane, from group means (M, d), a classifier (K, d) and a bias (K,)."""
    logits = products = params.A @ params.H.T  # (K, M)
    if lane.bias_kind != "none":
        logits = products + best_bias(lane, products, params.b)[:, None]
    # the dual point: U = −Ω g for the slopes g of each group's loss, which a free bias has sum to zero
    slopes = per_sample_slope(lane.loss, logits, lane.targets)  # (K, M)
    surplus = slopes @ lane.weights  # (K,), −1ᵀU
    if lane.bias_kind == "free":
        slopes = without_excess(lane, slopes, logits)
    xp, U = namespace(slopes), -(slopes * lane.weights[None]).T  # (M, K)

    def norm(decays_H, decays_A):
        return _norm(lane.features, U / xp.sqrt(decays_H)[:, None] / xp.sqrt(decays_A)[None, :])

    scales, costs = _scales_and_costs(lane, params, LaneParams(U @ params.A, U.T @ params.H, surplus), norm)
    # of each group at each scale, (scales, M)
    of_groups = slopes, logits, lane.targets, lane.infima
    conjugates, sizes = mapped(lambda scale: _conjugates(lane, scale, *of_groups), scales)
    return _best_dual(lane, scales, conjugates @ lane.weights, sizes @ lane.weights, costs)


def streamed_bound_of_lane(lane: Reduced, params: LaneParams) -> float:
    """The bound for one lane whose M × K matrices are not held."""
    dual = Dual(lane, params)

    def norm(decays_H, decays_A):
        return norm_bound(ft.partial(dual.gram, decays_H, decays_A), lane.num_classes)

    scales, costs = _scales_and_costs(lane, dual.params, dual.pulls(), norm)
    conjugates, sizes = dual.conjugates(_conjugates, scales)
    return float(_best_dual(lane, scales, conjugates, sizes, costs))


class _Costs(NamedTuple):
    """What is taken off a dual value: by the constraints' multipliers, and, times the scale's square, by the others."""

    multipliers_H: Any
    multipliers_A: Any
    fixed: Any  # a fixed classifier
    bias: Any


def _scales_and_costs(lane, params, pulls, norm):
    """Scales (S,) of the dual point that are feasible, and what they cost.

    Args:
        lane: the problem.
        params: of the candidate.
        pulls: U A (M, d) on the features, Uᵀ H (K, d) on the classifier, −1ᵀU (K,) on the bias.
        norm: bounds the norm of D₁^{−1/2} U D₂^{−1/2} for the diagonals D₁ (M,) and D₂ (K,).
    """
    H, A = lane.factors()
    none = namespace(pulls.b).zeros((), pulls.b.dtype)
    decays_H, cost_H = H.constraint.multiplied(params.H, pulls.H, H.decay, H.row_counts)
    cost_b = 0.5 * (pulls.b**2).sum() / lane.lambda_b if lane.bias_kind == "regularised" else none
    if A.constraint.fixed:
        fixed = _fixed_price(H.constraint, pulls.H, decays_H)
        return _scales(none + 1.0), _Costs(cost_H, none, fixed, cost_b)
    decays_A, cost_A = A.constraint.multiplied(params.A, pulls.A, A.decay, A.row_counts)
    most = _most(norm(decays_H, decays_A), max(H.rows, A.rows), none.dtype)
    return _scales(most), _Costs(cost_H, cost_A, none, cost_b)


def _most(norm, size, dtype):
    """The largest scale at which the norm of a matrix of so many rows or columns is at most 1, rounded or not."""
    least = SMALLEST_NORM * float(np.finfo(dtype).tiny)
    return 1.0 / namespace(norm).maximum(norm * (1.0 + size * allowance(dtype)), least)


def _scales(most):
    """Scales (S,) to try where no more than `most` is feasible; the first is the candidate's own where that is."""
    xp = namespace(most)
    return xp.concatenate([xp.minimum(1.0, most)[None], most * xp.asarray(SCALES, most.dtype)])


def _best_dual(lane, scales, conjugates, sizes, costs):
    """The largest of the dual values at the scales (S,), and of the loss's infimum.

    `conjugates` (S,) are their weighted sums, and `sizes` (S,) how large the numbers are that those add up.
    """
    xp, spread = namespace(conjugates, scales), allowance(conjugates.dtype)
    taken = costs.multipliers_H + costs.multipliers_A + scales**2 * (costs.fixed + costs.bias)
    sizes = sizes + xp.abs(costs.multipliers_H) + xp.abs(costs.multipliers_A) + scales**2 * costs.fixed
    duals = -conjugates - taken - spread * sizes
    trivial = lane.weights @ lane.infima
    trivial = trivial - spread * xp.abs(trivial)
    return xp.maximum(xp.where(xp.isnan(duals), -np.inf, duals).max(), trivial)


def _norm(features, W):
    """Largest ⟨W, X Yᵀ⟩ of W (M, K) where ½‖X‖² + ½‖Y‖² = 1 and X is what scaled features may be, or more.

    For any X the operator norm. The best Y leaves ½ Σ x_lᵀ G x_l over columns x_l of X, G = W Wᵀ (M, M). Where a
    constraint lets G be raised to a matrix that is no smaller on its columns, that one's largest eigenvalue bounds too.
    """
    norm, raised = operator_norm(W), features.raised(W @ W.T)
    xp = namespace(W)
    return norm if raised is None else xp.minimum(norm, xp.sqrt(largest_eigenvalue(raised)))


def _fixed_price(features, pull, decays):
    """sup over features H of ⟨pull, H⟩ − ½ Σ d_m ‖h_m‖², the problem being convex in them alone.

    Over all H it is ½ Σ ‖pull_m‖²/d_m, and over a convex cone the same of the pull's projection onto it (Moreau).
    """
    pull = features.project(pull, axis=1) if features.cone else pull
    return 0.5 * (pull**2 / decays[:, None]).sum()


def _conjugates(lane, scale, slopes, logits, targets, infima):
    """Upper bounds (M,) on ℓ_m*(s g_m) at g_m = ∇ℓ_m(z_m), and how large the numbers are that they add up.

    Where no conjugate is known, convexity of ℓ* between g and 0 gives s ℓ*(g) − (1 − s) inf ℓ, and Fenchel's equality
    ℓ*(g) = ⟨g, z⟩ − ℓ(z). It can serve neither a scale above 1, which isn't between, nor a free bias, for which the
    slopes were shifted.
    """
    xp, loss = namespace(slopes, scale), lane.loss
    if declares(loss, "conjugate"):
        found = per_sample_conjugate(loss, scale * slopes, targets)
    elif lane.bias_kind == "free":
        found = xp.full(slopes.shape[1:], xp.inf, slopes.dtype)
    else:
        at_slope = (slopes * logits).sum(axis=0) - per_sample(loss, logits, targets)
        between = scale * at_slope - (1.0 - scale) * infima
        found = xp.where(scale <= 1.0, between, xp.inf)
    sizes = xp.abs(found) + scale * conjugate_sizes(loss, slopes, logits, targets)
    return found, sizes + mass_losing_digits(loss, targets) * (1.0 + xp.abs(logits).max(axis=0))
