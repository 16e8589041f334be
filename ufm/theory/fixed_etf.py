"""A classifier that is a simplex ETF from the start: features follow it whatever the counts."""

from typing import Any

import numpy as np

from ufm.model.constraints import Ball, Fixed, Free, Sphere
from ufm.model.losses import CrossEntropy, DotRegression, LabelSmoothing
from ufm.model.problem import Problem
from ufm.theory._margins import margin_loss
from ufm.theory._scalar import root
from ufm.theory.formulas import COLLAPSED, is_about, radius_of, same_weights
from ufm.theory.registry import Prediction, theorem

EQUIANGULAR = 1e-9  # relative distance of AAᵀ to a multiple of I − J/K that counts as none


def _is_simplex(matrix: Any) -> bool:
    K = len(matrix)
    gram = np.asarray(matrix, np.float64) @ np.asarray(matrix, np.float64).T
    simplex = np.trace(gram) / (K - 1) * (np.eye(K) - 1 / K)
    return bool(np.linalg.norm(gram - simplex) <= EQUIANGULAR * np.linalg.norm(simplex)) and bool(np.any(gram))


def _length(problem: Problem) -> float:
    """√E_A, the norm of the classifier's rows."""
    return float(np.linalg.norm(problem.classifier.matrix) / np.sqrt(problem.num_classes))


def _applies(problem: Problem, *losses: type) -> bool:
    if not is_about(problem, *losses, features=(Sphere, Ball, Free), classifier=Fixed) or problem.bias_kind != "none":
        return False
    return all(factor.bounded for factor in problem.factors()) and _is_simplex(problem.classifier.matrix)


def _applies_to_cross_entropy(problem: Problem) -> bool:
    if not _applies(problem, CrossEntropy, LabelSmoothing):
        return False
    K = problem.num_classes
    within = K / (K - 1) * _length(problem) * radius_of(problem.features) <= margin_loss(problem).best
    return bool(within) or problem.lambda_H > 0


def _shape(problem: Problem, q: np.ndarray) -> dict[str, Any]:
    """Everything about features h_i = q_{y_i} a_{y_i}/‖a‖."""
    K, n, length = problem.num_classes, problem.class_counts, _length(problem)
    simplex = np.eye(K) - 1 / K
    logits = length * K / (K - 1) * (np.sqrt(n) * q)[:, None] * simplex
    return {
        "degenerate": False,
        "gram_H": np.outer(q, q) * simplex,
        "gram_A": simplex,
        "norm_H": float(np.sqrt(n @ q**2)),
        "norm_A": float(np.sqrt(K) * length),
        "norms_H": q,
        "norms_A": np.full(K, length),
        "singular_values": np.linalg.svd(logits, compute_uv=False)[:-1],
        "metrics": COLLAPSED if same_weights(problem) else {"nc1": 0.0, "trace_ratio": 0.0, "equinorm_A": 0.0},
    }


@theorem(
    "fixed simplex ETF under cross-entropy",
    paper="Yang et al. 2022",
    family="constraints",
    assumes="cross-entropy (or label smoothing short of its targets), classifier fixed to a simplex ETF, no bias; "
    "features on a sphere, in a ball, or decayed; any counts and class weights",
    applies=_applies_to_cross_entropy,
)
def fixed_under_cross_entropy(problem: Problem) -> Prediction:
    """Value and norms, and class means that form the classifier's simplex ETF however imbalanced the classes.

    Samples decouple. As the rows sum to zero and have norm √E, sample i's mean margin over the wrong classes is K/(K−1)
    ⟨h_i, a_{y_i}⟩ ≤ K/(K−1) √E ‖h_i‖, its loss at least φ of that, and both are equalities at h_i ∥ a_{y_i}, where all
    margins are equal:

        f = Σ_k π_k min_q [w_k φ(K/(K−1) √E q) + ½ Nλ_H q²],    q ≤ R in a ball, q = R on a sphere.

    The decay counts N times: each sample's own is λ_H against a loss of 1/N. Counts don't enter q, so that without
    class weights all means have one norm; with them, heavier classes have longer ones, along the same directions.
    Traps: a bias breaks this where classes are imbalanced; smoothing without decay must not reach its targets within
    the radius.
    """
    K, w, phi = problem.num_classes, problem.group_weights, margin_loss(problem)
    gain, decay, radius = (
        K / (K - 1) * _length(problem),
        problem.num_samples * problem.lambda_H,
        radius_of(problem.features),
    )
    q = np.array([_norm(phi, weight, gain, decay, radius) for weight in w])
    share = problem.class_counts / problem.num_samples
    value = float(share @ (w * phi(gain * q) + 0.5 * decay * q**2))
    return Prediction(value=value, **_shape(problem, q))


def _norm(phi: Any, weight: float, gain: float, decay: float, radius: float) -> float:
    """The q ≤ radius that minimises weight · φ(gain · q) + decay · q²/2."""

    def slope(q: float) -> float:
        return decay * q - weight * gain * phi.descent(gain * q)

    worthwhile = np.sqrt(2 * weight * phi(0.0) / decay) if decay > 0 else np.inf  # beyond, decay alone costs φ(0)
    high = min(radius, worthwhile)
    return float(high) if slope(high) <= 0 else root(slope, 0.0, float(high))


@theorem(
    "fixed simplex ETF under dot regression",
    paper="Yang et al. 2022",
    family="constraints",
    assumes="dot regression, classifier fixed to a simplex ETF, no bias; features in a ball, on a sphere (d ≥ 2), or "
    "decayed; any counts and class weights",
    applies=lambda problem: (
        _applies(problem, DotRegression) and (problem.dim > 1 or not is_about(problem, features=Sphere))
    ),
)
def fixed_under_dot_regression(problem: Problem) -> Prediction:
    """Value and norms, and class means that form the classifier's simplex ETF however imbalanced the classes.

    Only ⟨h_i, a_{y_i}⟩ matters, and the shortest h_i of a given one is parallel to a_{y_i}: with rows of norm √E and
    target T each class has

        min_q w_k (√E q − T)²/(2T) + ½ Nλ_H q²,    q = √E / (E/T + Nλ_H/w_k), or the radius where that is less.

    Decay in place of a radius leaves the value (T/2)m/(E/T + m), m = Nλ_H, for w = 1. Within a radius R ≤ T/√E all
    means have the norm R, and f = (√E R − T)²/(2T), which is zero at the usual T = √E R. Trap: without decay and beyond
    T = √E R many features reach the target, and only the value, 0, is known.
    """
    w, length, target, radius = (
        problem.group_weights,
        _length(problem),
        float(problem.loss.target),
        radius_of(problem.features),
    )
    decay, share = problem.num_samples * problem.lambda_H, problem.class_counts / problem.num_samples
    q = np.minimum(length / (length**2 / target + decay / w), radius)
    value = float(share @ (w * (length * q - target) ** 2 / (2 * target) + 0.5 * decay * q**2))
    if decay == 0 and length * radius > target * (1 + EQUIANGULAR):
        return Prediction(value=0.0)
    return Prediction(value=value, **_shape(problem, q))
