"""Bounded norms on balanced classes: the simplex ETF on spheres and in balls, with and without decay."""

from typing import Any

import numpy as np

from ufm.model.constraints import Ball, Free, MeanBall, Sphere
from ufm.model.losses import CrossEntropy, LabelSmoothing
from ufm.model.problem import Problem
from ufm.theory._margins import margin_loss
from ufm.theory._scalar import root
from ufm.theory.formulas import COLLAPSED, TOTAL, is_about, near, radius_of, unused_bias
from ufm.theory.registry import Prediction, theorem


def _applies(problem: Problem) -> bool:
    round_or_free = (Free, Sphere, Ball, MeanBall)
    if not is_about(problem, CrossEntropy, LabelSmoothing, features=round_or_free, classifier=round_or_free):
        return False
    bounded = all(factor.bounded for factor in problem.factors())
    unconstrained = is_about(problem, features=Free, classifier=Free)
    if not bounded or unconstrained or not problem.balanced or problem.dim < problem.num_classes - 1:
        return False
    decayed = problem.lambda_A > 0 or problem.lambda_H > 0
    reached = _margin(problem, radius_of(problem.features) * radius_of(problem.classifier))
    return decayed or bool(reached <= margin_loss(problem).best)


def _margin(problem: Problem, product: Any) -> Any:
    """Of a simplex ETF whose two norms have this product."""
    return problem.num_classes / (problem.num_classes - 1) * product


@theorem(
    "simplex ETF of bounded norms",
    paper="Graf et al. 2021; Lu & Steinerberger 2022; E & Wojtowytsch 2022; Yaras et al. 2022; Fang et al. 2021",
    family="constraints",
    assumes="cross-entropy (or label smoothing short of its targets), balanced, d ≥ K − 1, spheres or balls (of each "
    "row or the mean) for features, classifier or both, any decay, any bias",
    applies=_applies,
)
def bounded_norms(problem: Problem) -> Prediction:
    """Value, norms and a simplex ETF for features and classifier; every radius that decay doesn't undercut is reached.

    The loss of sample i is at least φ(m_i), m_i = K/(K−1) ⟨h_i, a_{y_i} − ā⟩ its mean margin over the wrong classes (a
    bias adds a term whose mean is zero where classes are balanced). Jensen and Cauchy–Schwarz give, with r² and q² the
    mean squares of ‖h_i‖ and ‖a_k‖,

        f ≥ w φ(K/(K−1) rq) + ½ Kλ_A q² + ½ Nλ_H r²,    r ≤ R_H, q ≤ R_A,

    with equality iff ā = 0, h_i ∝ a_{y_i} and all margins are equal, which says that A is a simplex ETF and b constant:
    the bounds may be on each row or on the mean. The least decay for a product rq is convex in it, √(KNλ_Aλ_H) rq until
    a radius binds, so one root is left: on two spheres or balls without decay f = log(1 + (K−1)exp(−K/(K−1) R_H R_A)).
    Everything is zero only if both sides are decayed and no sphere, and Kc√n ≥ (1−α)w. Traps: smoothing without decay
    must not reach its targets within the radii, beyond which the norms are not unique; for K > d + 1 there is no
    simplex.
    """
    K, N, w, phi = problem.num_classes, problem.num_samples, problem.group_weights[0], margin_loss(problem)
    a, b = K * problem.lambda_A, N * problem.lambda_H
    threshold = w * (1 - phi.alpha)
    joint = float(np.sqrt(a * b))
    most = radius_of(problem.features) * radius_of(problem.classifier)
    known: dict[str, Any] = unused_bias(problem)
    if joint > 0:
        known["thresholds"] = {TOTAL: float(threshold / np.sqrt(K * N))}
    if joint >= threshold:
        sure = {} if near(joint, threshold) else {"degenerate": True}
        return Prediction(value=float(w * phi(0.0)), **sure, **known)

    def norms(product: float) -> tuple[float, float]:
        """(r, q) of this product with the least decay."""
        ideal = np.sqrt(product * np.sqrt(b / a)) if a > 0 else np.inf
        q = min(max(ideal, product / radius_of(problem.features)), radius_of(problem.classifier))
        return float(product / q), float(q)

    def slope(product: float) -> float:
        r, q = norms(product)
        return max(a * q / r, b * r / q) - w * _margin(problem, phi.descent(_margin(problem, product)))

    if (a == 0 and b == 0) or (most < np.inf and slope(most) <= 0):
        r, q = radius_of(problem.features), radius_of(problem.classifier)
    else:
        high = 1.0
        while slope(high) < 0:
            high *= 2
        r, q = norms(root(slope, 0.0, min(high, most)))
    margin = _margin(problem, r * q)
    value = float(w * phi(margin) + 0.5 * (a * q**2 + b * r**2))
    if joint > 0 and near(joint, threshold):
        return Prediction(value=value, **known)
    simplex = np.eye(K) - 1 / K
    return Prediction(
        value=value,
        degenerate=False,
        gram_H=simplex,
        gram_A=simplex,
        norm_H=np.sqrt(N) * r,
        norm_A=np.sqrt(K) * q,
        norms_H=np.full(K, r),
        norms_A=np.full(K, q),
        singular_values=np.full(K - 1, np.sqrt(N / K) * margin),
        metrics=COLLAPSED,
        **known,
    )
