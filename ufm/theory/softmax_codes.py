"""More classes than a simplex has room for, on spheres: softmax codes, whose one-vs-rest distance bounds the loss."""

from typing import Any

import numpy as np

from ufm.model.constraints import Sphere
from ufm.model.losses import CrossEntropy
from ufm.model.problem import Problem
from ufm.theory.formulas import is_about
from ufm.theory.registry import Prediction, theorem


def _applies(problem: Problem) -> bool:
    known = is_about(problem, CrossEntropy, features=Sphere, classifier=Sphere) and problem.bias_kind == "none"
    return known and 2 <= problem.dim < problem.num_classes - 1


def _temperature(problem: Problem) -> float:
    """τ = R_H R_A, the range of the logits."""
    return float(problem.features.radius * problem.classifier.radius)


def _polygon_loss(problem: Problem) -> float:
    """Loss of every sample where features and classifier point to one regular K-gon."""
    angles = 2 * np.pi * np.arange(1, problem.num_classes) / problem.num_classes
    return float(np.log1p(np.sum(np.exp(_temperature(problem) * (np.cos(angles) - 1)))))


@theorem(
    "one-vs-rest distance of softmax codes",
    paper="Jiang et al. 2023; Alcala et al. 2026",
    family="constraints",
    assumes="cross-entropy, features and classifier on spheres, no bias, K > d + 1 > 2; any counts and class weights",
    applies=_applies,
)
def one_vs_rest(problem: Problem) -> Prediction:
    """An interval that the minimum lies in at every temperature, from the best one-vs-rest distance.

    Let ρ be the largest, over K unit vectors u_k, of min_k dist(u_k, conv of the others). By minimax the least margin
    of a sample of class k is at most τ dist(u_k, conv), so that some class has loss log(1 + e^{−τρ}) at least; and with
    h_k along the shortest way of the best code, no sample has more than log(1 + (K−1)e^{−τρ}). With π̃_k = w_kπ_k

        min_k π̃_k · log(1 + e^{−τρ}) ≤ f ≤ Σ π̃_k · log(1 + (K−1)e^{−τρ}),    (1/τ) log f → −ρ as τ → ∞.

    For K ≥ d + 2 Radon's theorem splits the vectors into two sets whose hulls share a point x; Σ_I α_i‖u_i − x‖² = 1 −
    ‖x‖² over one of them, so some u_i is within 1 of x, which lies in the hull of the others: ρ ≤ 1. Up to K = 2d
    equality holds for ± axes with two full pairs, at most log(1 + (K−1)e^{−τ}) in loss. In the plane dist(u_k, conv) is
    2 sin(α/2) sin(β/2) at gaps α, β to the neighbours; log sin is concave and the gaps add up to 2π, so ρ ≤ 2 sin²(π/K)
    = 1 − cos(2π/K), the regular K-gon's. (Where one gap exceeds π use the vectors off it: their K − 1 gaps add up to
    less than π.) In other cases the interval has ρ ≤ 1 below, and above the loss of a K-gon in some plane.
    """
    K, d, tau = problem.num_classes, problem.dim, _temperature(problem)
    mass = problem.group_weights * problem.class_counts / problem.num_samples
    polygon = 1 - np.cos(2 * np.pi / K)
    most = polygon if d == 2 else 1.0
    worst = _polygon_loss(problem)
    thresholds = {"one-vs-rest distance is at most": float(most), "one-vs-rest distance is at least": float(polygon)}
    if d > 2 and 2 * d >= K:
        worst = min(worst, float(np.log1p((K - 1) * np.exp(-tau))))
        thresholds["one-vs-rest distance is at least"] = 1.0
    least = float(np.min(mass) * np.log1p(np.exp(-tau * most)))
    return Prediction(bounds=(least, float(np.sum(mass) * worst)), thresholds=thresholds)


@theorem(
    "regular polygon",
    paper="Jiang et al. 2023",
    family="constraints",
    assumes="conjecture: cross-entropy, balanced, features and classifier on spheres in the plane, no bias, K > 3",
    applies=lambda problem: _applies(problem) and problem.dim == 2 and problem.balanced,
)
def regular_polygon(problem: Problem) -> Prediction:
    """Value and singular values of a regular K-gon with h_i ∥ a_{y_i}, in some order of the classes.

    Each sample's logits are τ cos(2πj/K), so that f = log Σ_j exp(τ(cos(2πj/K) − 1)). It is critical by symmetry and
    best at τ → ∞ by its one-vs-rest distance; at a finite temperature no proof is known here, though no start of a
    solver ends lower. No duality gap closes in so few dimensions: a certificate leaves this undecided, and only a lower
    value refutes it. The Gram depends on the order of the classes round the circle; the logits' two singular values, √n
    τ K/2, don't.
    """
    K, n, w, tau = problem.num_classes, problem.class_counts[0], problem.group_weights[0], _temperature(problem)
    pair: Any = np.full(2, np.sqrt(n) * tau * K / 2)
    known = {"equinorm": 0.0, "nc4": 0.0}
    return Prediction(value=float(w * _polygon_loss(problem)), singular_values=pair, metrics=known)
