"""How far from optimal anything can be: rigorous lower bounds by duality, and the curvature of the landscape.

Weak duality over the logits. Let L(Z) = Σ_k ω_k ℓ_k(z_k) be the risk of K class samples with weights ω_k, U any K × K
matrix, and D₁ = diag(n_k (λ_H + μ_k)), D₂ = diag(λ_A + ν_k) with multipliers of the constraints ‖m_k‖ ≤ R_H and
‖a_k‖ ≤ R_A. Fenchel's inequality bounds the risk below by −⟨U, Z⟩ plus conjugates; the decay and the multipliers give
at least ‖D₁^{1/2} M Aᵀ D₂^{1/2}‖_* minus what the multipliers cost; and ⟨U, M Aᵀ⟩ is at most that nuclear norm where
‖D₁^{−1/2} U D₂^{−1/2}‖_op ≤ 1. So, for every d,

    f* ≥ −Σ_k ω_k ℓ_k*(−u_k/ω_k) − ‖1ᵀU‖²/(2λ_b) − ½ R_H² Σ n_k μ_k − ½ R_A² Σ ν_k,

with 1ᵀU = 0 instead of its term for a free bias, and nothing for none (Zhu et al. 2021 for the unconstrained case; the
multipliers extend it). U = −s ∇L at a candidate, s chosen so that the norm is at most 1, is optimal at an optimum.

A fixed classifier leaves a problem that is convex in M: its term is ½ Σ ‖(UA)_k‖²/(n_k (λ_H + μ_k)), without condition.
Non-negative features weaken the condition to one on max(G, 0), G = (D₁^{−1/2} U D₂^{−1/2})(…)ᵀ.
"""

import dataclasses
import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ufm._core.blocks import fits
from ufm._core.interrupts import interruptible
from ufm._core.lanes import by_batches
from ufm._core.linalg import largest_eigenvalue, operator_norm
from ufm._core.precision import ALLOWANCE, float64
from ufm._core.programs import kept
from ufm.minima.bias import best_bias, risk_of_lane
from ufm.minima.focal_bound import focal_bound
from ufm.minima.reduction import Reduced, reduce, row_space
from ufm.minima.streamed_bound import Dual, norm_bound
from ufm.model.losses import facts_of, infimum, per_sample, per_sample_conjugate
from ufm.model.params import Params
from ufm.model.problem import Problem, as_problem, class_means

SCALES = np.linspace(0.125, 1.0, 8)  # of the dual point, tried away from an optimum
LEAST_UNIT = 1e-4  # of the risk at zero logits: the unit of values where the minimum may be an attained infimum
LEAST_KNOWN = 1e-290  # below, the terms that a value and its bound add up underflow, and digits are lost


def relative_gap(problem: Problem, value: float, bound: float) -> float:
    """How far from the minimum a value can be, by a lower bound, in its `unit`: what `certified` and `verify` judge by.

    Infinite where the value's digits are lost. A value below its bound is as far off, since rounding put it there.
    """
    if not keeps_digits(problem, value):
        return np.inf
    gap, size = abs(float(value) - float(bound)), float(unit(problem, value))
    return gap / size if size > 0 else 0.0 if gap == 0 else np.inf


def unit(problem: Problem, value: float) -> float:
    """What differences of values are relative to: |value|, however small.

    A bound that is only the loss's infimum thus proves nothing of what lies above it. Where the minimum may be that
    infimum, since the loss attains it and factors cost nothing, rounding leaves values that mean nothing: there the
    unit is at least 10⁻⁴ of the risk at zero logits above the infimum, which doesn't vanish with the value.
    """
    priced = problem.lambda_A > 0 or problem.lambda_H > 0
    return abs(value) if priced or not _attained(problem) else max(abs(value), LEAST_UNIT * _height_of_zero(problem))


def keeps_digits(problem: Problem, value: float) -> bool:
    """Whether float64 tells a value from others: a tail of exponentials underflows before it is zero."""
    return _attained(problem) or not abs(value) < LEAST_KNOWN


def _attained(problem: Problem) -> bool:
    """Whether the loss declares that its infimum is a value of it."""
    return bool(facts_of(problem.loss).attained)


def _height_of_zero(problem: Problem) -> float:
    """The risk at zero logits above the loss's infimum."""
    K, reduced = problem.num_classes, reduce([problem])
    with float64():
        heights = _losses_of_zero(problem.loss, jnp.arange(K)) - infimum(problem.loss, K)
        return float(np.asarray(heights) @ reduced.weights[:, 0])


@kept
def _losses_of_zero(loss, labels):
    """Loss of each label at zero logits, a label at a time."""
    zeros = jnp.zeros((labels.shape[0], 1))
    return jax.lax.map(lambda label: per_sample(loss, zeros, label[None])[0], labels)


@interruptible
def lower_bound(problem: Problem | Any, params: Params | Any) -> float:
    """A number that the objective is nowhere below, found from a candidate; tight where the candidate is optimal.

    Valid for any parameters, with an allowance for rounding. It needs a loss that declares itself convex, and its
    infimum; with a free bias, its conjugate too. For any other loss it is −∞, except on balanced classes for the focal
    loss, and others that declare their line, where the bound is one of a single variable (Zhou et al. 2022). Where K² > 2²⁴ no K × K matrix is held, and
    an operator norm is bounded with probability 1 − 10⁻¹² over a random draw, the same at each call.

    Args:
        problem: any problem.
        params: H (N, d), A (K, d), b (K,), feasible or not.

    Returns:
        A float in the unit of the objective.

    Raises:
        ValueError: where a shape is not the problem's, or a parameter is NaN or infinite.
    """
    params = as_problem(problem).finite_params(params)
    means = class_means(problem, params.H)
    if problem.classifier.fixed:
        axes = row_space(problem)
        means, params = means @ axes.T, params._replace(A=problem.classifier.matrix @ axes.T)
    return float(
        lower_bounds([problem], reduce([problem]), means[..., None], params.A[..., None], params.b[..., None])[0]
    )


def lower_bounds(problems: list[Problem], reduced: Reduced, means: Any, A: Any, b: Any) -> np.ndarray:
    """`lower_bound` of many problems side by side, from class means and classifiers (K, d, L) and biases (K, L)."""
    if not facts_of(reduced.loss).convex:
        return np.array([focal_bound(problem) for problem in problems])
    with float64():
        if fits(reduced.num_classes, reduced.num_classes):
            return by_batches(_bounds, reduced, means, A, b, held=reduced.held)
        trees = (reduced, means, A, b)
        lanes = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[..., i], trees) for i in range(len(problems))]
        return np.array([_streamed(*lane) for lane in lanes])


@kept
def _bounds(reduced, means, A, b):
    return jax.vmap(_bound, in_axes=-1)(reduced, means, A, b)


def _bound(reduced: Reduced, means: Float[Array, "K d"], A: Float[Array, "K d"], b: Float[Array, " K"]):
    """The bound for one lane."""
    risk, labels, weights = risk_of_lane(reduced), jnp.arange(reduced.num_classes), reduced.weights
    lane, reduced = reduced, _without_lanes(reduced)
    products = A @ means.T  # logits are (class, sample)
    logits = products
    if reduced.bias_kind != "none":
        logits = products + best_bias(lane, products, b)[:, None]
    slopes = jax.grad(risk)(logits) / weights[None]
    surplus = slopes @ weights
    if reduced.bias_kind == "free":
        slopes = slopes - (surplus / jnp.sum(weights))[:, None]
    U = -(slopes * weights[None]).T  # (sample, class)

    def norm(rows, columns):
        return _norm(reduced.features, U / jnp.sqrt(rows)[:, None] / jnp.sqrt(columns)[None, :])

    scales, costs = _scales_and_costs(reduced, means, A, (U @ A, U.T @ means), norm, surplus)
    found, sizes = jax.lax.map(lambda scale: _conjugates(scale, slopes, logits, labels, reduced), scales)
    return _best_dual(reduced, scales, found @ weights, sizes @ weights, costs)


def _streamed(reduced: Reduced, means: np.ndarray, A: np.ndarray, b: np.ndarray) -> float:
    """The bound for one lane whose K × K matrices are not held."""
    reduced = _without_lanes(reduced)
    dual = Dual(reduced, means, A, b)

    def norm(rows, columns):
        return norm_bound(ft.partial(dual.gram, rows, columns), reduced.num_classes)

    factors = jnp.asarray(means), jnp.asarray(A)
    scales, costs = _scales_and_costs(reduced, *factors, dual.pulls(), norm, dual.surplus)
    conjugates, sizes = dual.conjugates(_conjugates, scales)
    return float(_best_dual(reduced, scales, conjugates, sizes, costs))


def _without_lanes(reduced):
    """One lane with the leaves of its loss and constraints as a problem has them."""
    parts = {name: getattr(reduced, name) for name in ("loss", "features", "classifier")}
    return dataclasses.replace(reduced, **jax.tree.map(lambda leaf: leaf[0], parts))


def _scales_and_costs(reduced, means, A, pulls, norm, surplus):
    """Scales of the dual point, and what multipliers, a fixed classifier and a bias take off the bound.

    `pulls` are U A and UᵀM, and `norm(rows, columns)` bounds the norm of D₁^{−1/2} U D₂^{−1/2}.
    """
    along_A, along_means = pulls
    counts = jnp.asarray(reduced.counts)
    rows, row_cost = reduced.features.multiplied(means, along_A, reduced.lambda_H, counts)
    bias_cost = 0.5 * jnp.sum(surplus**2) / reduced.lambda_b if reduced.bias_kind == "regularised" else jnp.zeros(())
    if reduced.classifier.fixed:
        priced = _fixed_price(reduced.features, along_A, rows)
        return _scales(jnp.ones(())), (row_cost, jnp.zeros(()), priced, bias_cost)
    columns, column_cost = reduced.classifier.multiplied(A, along_means, reduced.lambda_A, jnp.ones_like(counts))
    most = _most(norm(rows, columns), reduced.num_classes)
    return _scales(most), (row_cost, column_cost, jnp.zeros(()), bias_cost)


def _most(norm, num_classes):
    """The largest scale at which the norm is at most 1, whatever its rounding."""
    return 1.0 / jnp.maximum(norm * (1.0 + num_classes * ALLOWANCE), 1e-300)


def _scales(most):
    return jnp.concatenate([jnp.minimum(1.0, most)[None], most * jnp.asarray(SCALES)])


def _best_dual(reduced, scales, conjugates, sizes, costs):
    """The largest of the dual values at the scales, and of the loss's infimum.

    Multipliers cost the same at every scale; a fixed classifier and a bias cost its square.
    """
    rows, columns, priced, bias = costs
    penalty = rows + columns + scales**2 * (priced + bias)
    duals = -conjugates - penalty - ALLOWANCE * (sizes + jnp.abs(rows) + jnp.abs(columns) + scales**2 * priced)
    trivial = jnp.sum(reduced.weights) * infimum(reduced.loss, reduced.num_classes)
    trivial = trivial - ALLOWANCE * jnp.abs(trivial)
    return jnp.maximum(jnp.max(jnp.where(jnp.isnan(duals), -jnp.inf, duals)), trivial)


def _norm(features, W):
    """Largest ⟨W, X Yᵀ⟩ where ½‖X‖² + ½‖Y‖² = 1 and X is what scaled features may be, or more.

    For any X the operator norm. The best Y leaves ½ Σ x_lᵀ G x_l over columns x_l of X, G = W Wᵀ, and where a constraint
    lets G be replaced by a matrix that is no smaller on its columns, the largest eigenvalue of that is a bound too.
    """
    norm, raised = operator_norm(W), features.raised(W @ W.T)
    return norm if raised is None else jnp.minimum(norm, jnp.sqrt(largest_eigenvalue(raised)))


def _fixed_price(features, pull, rows):
    """sup over features m of ⟨pull, m⟩ − ½ Σ d_k ‖m_k‖², the problem being convex in them alone.

    Over all m it is ½ Σ ‖pull_k‖²/d_k, and over a convex cone the same of the pull's projection onto it (Moreau).
    """
    pull = features.project(pull, axis=1) if features.cone else pull
    return 0.5 * jnp.sum(pull**2 / rows[:, None])


def _conjugates(scale, slopes, logits, labels, reduced):
    """Upper bounds on ℓ_k*(s g_k) at g_k = ∇ℓ_k(z_k), each class's, and how large the numbers are that they add up.

    Where no conjugate is known, convexity of ℓ* between g and 0 gives s ℓ*(g) − (1 − s) inf ℓ, and Fenchel's equality
    ℓ*(g) = ⟨g, z⟩ − ℓ(z). It can serve neither a scale above 1, which isn't between, nor a free bias, for which the
    slopes were shifted.
    """
    loss = reduced.loss
    if hasattr(loss, "conjugate"):
        found = per_sample_conjugate(loss, scale * slopes, labels)
    elif reduced.bias_kind == "free":
        found = jnp.full(labels.shape, jnp.inf)
    else:
        at_slope = jnp.sum(slopes * logits, axis=0) - per_sample(loss, logits, labels)
        between = scale * at_slope - (1.0 - scale) * infimum(loss, reduced.num_classes)
        found = jnp.where(scale <= 1.0, between, jnp.inf)
    sizes = jnp.abs(found) + scale * jnp.sum(jnp.abs(slopes) * (1.0 + jnp.abs(logits)), axis=0)
    if facts_of(loss).keeps_digits:
        return found, sizes
    return found, sizes + 1.0 + jnp.max(jnp.abs(logits), axis=0)
