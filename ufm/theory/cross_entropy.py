"""Cross-entropy and label smoothing on balanced classes: the simplex ETF."""

from typing import Any

import numpy as np

from ufm.model.losses import CrossEntropy, LabelSmoothing
from ufm.model.problem import Problem
from ufm.theory.formulas import TOTAL, balanced_shape, is_plain, margin_price, near, unused_bias
from ufm.theory.registry import Prediction, theorem


@theorem(
    "simplex ETF",
    paper="Zhu et al. 2021",
    family="balanced classes",
    assumes="cross-entropy, balanced classes, d ≥ K − 1, weight decay on A and H, any bias",
    applies=lambda problem: _applies(problem, CrossEntropy),
)
def cross_entropy(problem: Problem) -> Prediction:
    """Value, norms and a simplex ETF for features and classifier.

    The decay of factors of Z is at least c‖Z‖_*, c = √(λ_A λ_H). Symmetry under permutations of classes and convexity
    leave Z = t (Y − J/K), with K − 1 singular values √n t, so that with κ = c√n

        f = min_{t ≥ 0} log(1 + (K−1)e^{−t}) + κ(K−1)t.

    There each wrong class has probability κ: e^t = 1/κ − (K−1), and f is the entropy of (1−(K−1)κ, κ, …, κ). For
    Kκ ≥ 1 all is zero and f = log K. Logits sum to zero at every critical point, so a bias can only be a multiple of 1,
    which costs or does nothing. Equal class weights w divide the decays. Trap: for d < K − 1 neither shape nor value
    holds, and there the bias matters.
    """
    return _smoothed(problem, 0.0)


@theorem(
    "simplex ETF under label smoothing",
    paper="Zhou et al. 2022",
    family="balanced classes",
    assumes="label smoothing, balanced classes, d ≥ K − 1, weight decay on A and H, any bias",
    applies=lambda problem: _applies(problem, LabelSmoothing),
)
def label_smoothing(problem: Problem) -> Prediction:
    """Value, norms and a simplex ETF for features and classifier, at a smaller scale.

    As for cross-entropy, but targets add (α/K)(K−1)t to the loss of Z = t (Y − J/K), which is what κ(K−1)t does: each
    wrong class has probability κ + α/K, f is the entropy of the probabilities, and all is zero from Kκ = 1 − α.
    """
    return _smoothed(problem, float(problem.loss.alpha))


def _applies(problem: Problem, loss: type) -> bool:
    return is_plain(problem, loss) and problem.balanced and problem.dim >= problem.num_classes - 1


def _smoothed(problem: Problem, alpha: float) -> Prediction:
    K, n, w = problem.num_classes, problem.class_counts[0], problem.group_weights[0]
    kappa = margin_price(problem)
    known: dict[str, Any] = {"thresholds": {TOTAL: float(w * (1 - alpha) / (K * np.sqrt(n)))}, **unused_bias(problem)}
    wrong = min(kappa + alpha / K, 1 / K)
    log_right = np.log1p(-(K - 1) * wrong)
    margin = log_right - np.log(wrong)
    value = float(w * ((K - 1) * wrong * margin - log_right))
    if near(K * kappa, 1 - alpha):
        return Prediction(value=value, **known)
    if K * kappa > 1 - alpha:
        return Prediction(value=value, degenerate=True, **known)
    return Prediction(value=value, degenerate=False, **balanced_shape(problem, float(np.sqrt(n) * margin)), **known)
