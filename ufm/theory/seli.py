"""Imbalanced cross-entropy as decay vanishes: simplex-encoded labels."""

import numpy as np

from ufm.model.losses import CrossEntropy
from ufm.model.problem import Problem
from ufm.theory.formulas import is_plain
from ufm.theory.registry import Prediction, theorem


def _grams(problem: Problem, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """VSVᵀ and D^{-1/2}XSXᵀD^{-1/2}, Grams of the cheapest factors of class-mean logits Z̄, D^{1/2}Z̄ = XSVᵀ."""
    root = np.sqrt(problem.class_counts)[:, None]
    X, S, Vt = np.linalg.svd(root * logits)
    S[-1] = 0.0
    return Vt.T * S @ Vt, (X / root) * S @ (X / root).T


def _without_bias(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    K = problem.num_classes
    return _grams(problem, np.eye(K) - 1 / K)


def _with_bias(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    return _grams(problem, np.eye(problem.num_classes) - problem.class_counts / problem.num_samples)


def _applies(problem: Problem, bias_kind: str) -> bool:
    imbalanced = np.ptp(problem.class_counts) > 0 and problem.dim >= problem.num_classes - 1
    return is_plain(problem, CrossEntropy) and problem.bias_kind == bias_kind and bool(imbalanced)


@theorem(
    "simplex-encoded labels",
    paper="Thrampoulidis et al. 2022",
    assumes="cross-entropy, any counts and class weights, no bias, d ≥ K − 1, λ_A, λ_H → 0",
    applies=lambda problem: _applies(problem, "none"),
    limit=_without_bias,
)
def simplex_encoded_labels(problem: Problem) -> Prediction:
    """Nothing at a given decay; in its limit the Grams of simplex-encoded labels.

    As decay vanishes the logits grow along the least ‖D^{1/2}Z̄‖_* with all margins at least 1, D = diag(n), which is
    Z̄ = P = I − J/K whatever the counts: AAᵀ ∝ (PDP)^{1/2}, H̄H̄ᵀ ∝ ((PDP)⁺)^{1/2}. Trap: the distance falls like
    1/log(1/λ); 1e-9 still leaves 0.025. Class weights matter on the way, not in the limit.
    """
    return Prediction()


@theorem(
    "simplex-encoded labels with a free bias",
    paper="after Thrampoulidis et al. 2022",
    assumes="cross-entropy, any counts and class weights, free bias, d ≥ K − 1, λ_A, λ_H → 0",
    applies=lambda problem: _applies(problem, "free"),
    limit=_with_bias,
)
def centred_simplex_encoded_labels(problem: Problem) -> Prediction:
    """Nothing at a given decay; in its limit the Grams of simplex-encoded labels, centred over samples.

    A free bias takes the mean over samples off the logits P, which lowers the nuclear norm: Z̄ ∝ I − 1πᵀ, π = n/N, and
    b ∝ π. So AAᵀ ∝ (D − nnᵀ/N)^{1/2}, and the means' Gram follows from the singular vectors of D^{1/2}Z̄.
    """
    return Prediction()
