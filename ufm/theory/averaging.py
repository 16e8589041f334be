"""Global minimality by averaging: replacing features by their class means never raises the objective."""

from collections.abc import Iterator

import numpy as np

from ufm.model.constraints import Ball, Free, MeanBall, Nonnegative
from ufm.model.losses import CrossEntropy, LabelSmoothing, SquaredError
from ufm.model.params import Params
from ufm.model.problem import Problem, class_means
from ufm.theory.formulas import is_about
from ufm.theory.registry import Check, Found, Prediction, theorem

ROUNDING = 1e-12  # of objectives of order one, and relative to larger ones


def _applies(problem: Problem) -> bool:
    convex_sets = (Free, Ball, MeanBall, Nonnegative)  # which hold the means of what they hold
    return is_about(problem, CrossEntropy, LabelSmoothing, SquaredError, features=convex_sets)


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """The fall of the objective at the parameters found and at random ones: arithmetic alone decides."""
    for where, params in (("here", found.params), ("at random", problem.init(seed=1))):
        predicted, measured = _falls(problem, params)
        scale = max(abs(float(problem.objective(params))), 1.0)
        yield Check(
            f"fall of the objective, {where}",
            predicted=predicted,
            measured=measured,
            error=abs(measured - predicted) / scale,
            tolerance=ROUNDING,
        )


def _falls(problem: Problem, params: Params) -> tuple[float, float]:
    """f(H, A, b) − f(H̄, A, b), from the divergence and as measured."""
    H, A, b = (np.asarray(x, np.float64) for x in params[:3])
    b = b if problem.bias else np.zeros_like(b)
    counts = problem.group_counts
    H_bar = np.repeat(class_means(problem, H), counts, axis=0)
    divergence = _divergence(problem, H @ A.T + b, H_bar @ A.T + b)
    share = np.repeat(problem.group_weights, counts) / problem.num_samples
    predicted = share @ divergence + 0.5 * problem.lambda_H * np.sum((H - H_bar) ** 2)
    before, after = (problem.objective(Params(X, A, b)) for X in (H, H_bar))
    return float(predicted), float(before - after)


def _divergence(problem: Problem, Z: np.ndarray, Z_bar: np.ndarray) -> np.ndarray:
    """Bregman divergence of each sample's loss between its logits and its class's mean logits."""
    if is_about(problem, SquaredError):
        return 0.5 * np.sum((Z - Z_bar) ** 2, axis=1)
    log_p, log_q = (X - np.logaddexp.reduce(X, axis=1, keepdims=True) for X in (Z_bar, Z))
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=1)


@theorem(
    "Averaging within classes",
    paper="E & Wojtowytsch 2022; Zhu et al. 2021",
    family="any problem",
    assumes="cross-entropy, label smoothing or squared error; features not on a sphere; any counts",
    applies=_applies,
    checks=_checks,
)
def averaging(problem: Problem) -> Prediction:
    """Replacing features by class means lowers the objective by a Bregman divergence; at an optimum NC1 = 0.

    A loss ℓ_y with slope ∇ℓ_y affine in a common function (softmax, identity) satisfies
    Σ_i [ℓ(z_i) − ℓ(z̄)] = Σ_i D(z_i, z̄) within a class, since ⟨∇ℓ(z̄), z_i − z̄⟩ sums to zero over it; D is
    KL(softmax z̄ ‖ softmax z_i) for cross-entropies and ½‖A(h_i − h̄)‖² for squared error. The decay falls by
    λ_H/2 Σ‖h_i − h̄_{y_i}‖². Both are non-negative, so a minimiser of positive λ_H has no variability within classes.
    """
    return Prediction(metrics={"nc1": 0.0} if problem.lambda_H > 0 else {})
