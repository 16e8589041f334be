"""The lower bound of losses with a known line, as the focal one: of a single variable (Zhou et al. 2022)."""

from typing import Any

import numpy as np

from ufm._core.precision import allowance
from ufm.model.losses import declares
from ufm.model.problem import Problem


def declares_line(loss: Any) -> bool:
    """Whether the loss says on which line it is least (see `Focal.along` and `Focal.steepest`)."""
    return declares(loss, "along") and declares(loss, "steepest")


def focal_bound(problem: Problem) -> float:
    """min over t ≥ 0 of φ(t) + κ(K−1)t, bounded from below by intervals; −∞ beyond where theory proves it.

    φ, the loss where the right logit leads by t, decreases: on [s, t] the sum is at least φ(t) + κ(K−1)s.
    """
    K, loss = problem.num_classes, problem.loss
    free = all(factor.constraint.rotatable and factor.constraint.cone for factor in problem.factors())
    if not (declares_line(loss) and free and problem.balanced and problem.lambda_A > 0 and problem.lambda_H > 0):
        return -np.inf
    weight = float(problem.group_weights[0])
    slope = float(np.sqrt(problem.lambda_A * problem.lambda_H * problem.class_counts[0])) * (K - 1) / weight
    if problem.bias and not slope < loss.steepest(K):
        return -np.inf
    return weight * _least_of_decreasing_plus_line(lambda t: loss.along(t, K), slope)


def _least_of_decreasing_plus_line(phi, slope: float, accuracy: float = 1e-10) -> float:
    """A lower bound on min over t ≥ 0 of φ(t) + slope · t for a decreasing φ ≥ 0, by splitting intervals."""
    end = phi(np.zeros(1))[0] / slope
    points = np.concatenate([[0.0], np.geomspace(min(1e-3, end / 2), end, 2000)])
    left, right = points[:-1], points[1:]
    while True:
        best = np.min(phi(right) + slope * right)
        bounds = phi(right) + slope * left
        least = bounds.min()
        if best - least <= accuracy * best or np.max((right - left)[bounds < best]) < 1e-14 * end:
            return float(least * (1.0 - allowance()))
        hopeful = bounds < best
        cuts = np.linspace(left[hopeful], right[hopeful], 9)
        left, right = cuts[:-1].ravel(), cuts[1:].ravel()
