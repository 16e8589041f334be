"""Imbalanced cross-entropy as decay vanishes: simplex-encoded labels."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ufm.model.losses import CrossEntropy
from ufm.model.problem import Problem
from ufm.theory.formulas import distance_to_gram, is_plain
from ufm.theory.registry import Check, Found, Prediction, theorem

DECAYS = (1e-2, 1e-4)  # factors of both decays, along which the limit is approached


def limit(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Grams (K, K) of the classifier and of the class means, up to scale, as λ_A and λ_H vanish together.

    They are VSVᵀ and D^{-1/2}XSXᵀD^{-1/2}, of the cheapest factors of class-mean logits Z̄ with D^{1/2}Z̄ = XSVᵀ.
    """
    K, n = problem.num_classes, problem.class_counts
    logits = np.eye(K) - (1 / K if problem.bias_kind == "none" else n / problem.num_samples)
    root = np.sqrt(n)[:, None]  # D^{1/2}
    X, S, Vt = np.linalg.svd(root * logits)
    S[-1] = 0.0  # each row of logits sums to zero
    return Vt.T * S @ Vt, (X / root) * S @ (X / root).T


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """The limit is approached, never met: the distance of minima to it must shrink along `DECAYS`."""
    if found.history is not None:  # of a run, whose end is no minimum at smaller decay
        return
    smaller = [replace(problem, lambda_A=f * problem.lambda_A, lambda_H=f * problem.lambda_H) for f in DECAYS]
    minima = [found, *(found.minimum(other) for other in smaller)]
    gram_A, gram_H = limit(problem)
    certified = all(minimum.certified for minimum in minima)
    for quantity, rows, gram in (
        ("distance of classifier to the limit", [minimum.classifier for minimum in minima], gram_A),
        ("distance of class means to the limit", [minimum.means for minimum in minima], gram_H),
    ):
        distances = [distance_to_gram(each, gram) for each in rows]
        yield Check(
            quantity,
            predicted="falling",
            measured=distances,
            error=max(0.0, *(after - before for before, after in pairwise(distances))),
            tolerance=0.0,
            certain=certified,
            doubt=0.0 if certified else np.inf,
        )


def _applies(problem: Problem, bias_kind: str) -> bool:
    imbalanced = np.ptp(problem.class_counts) > 0 and problem.dim >= problem.num_classes - 1
    return is_plain(problem, CrossEntropy) and problem.bias_kind == bias_kind and bool(imbalanced)


@theorem(
    "simplex-encoded labels",
    paper="Thrampoulidis et al. 2022",
    family="vanishing weight decay",
    assumes="cross-entropy, any counts and class weights, no bias, d ≥ K − 1, λ_A, λ_H → 0",
    applies=lambda problem: _applies(problem, "none"),
    checks=_checks,
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
    family="vanishing weight decay",
    assumes="cross-entropy, any counts and class weights, free bias, d ≥ K − 1, λ_A, λ_H → 0",
    applies=lambda problem: _applies(problem, "free"),
    checks=_checks,
)
def centred_simplex_encoded_labels(problem: Problem) -> Prediction:
    """Nothing at a given decay; in its limit the Grams of simplex-encoded labels, centred over samples.

    A free bias takes the mean over samples off the logits P, which lowers the nuclear norm: Z̄ ∝ I − 1πᵀ, π = n/N, and
    b ∝ π. So AAᵀ ∝ (D − nnᵀ/N)^{1/2}, and the means' Gram follows from the singular vectors of D^{1/2}Z̄.
    """
    return Prediction()
