"""Problems that mean and covariance of their targets solve: squared error of linear factors, without any iteration."""

from typing import NamedTuple

import numpy as np

from ufm.minima.deep_linear import Posed, minimum
from ufm.minima.reduction import LaneParams
from ufm.minima.symmetry import unbound
from ufm.model.losses import SquaredError, is_one_of
from ufm.model.problem import Problem


class Thresholded(NamedTuple):
    """The minimum: group means (M, r), classifier (K, r), bias (K,); its value and slope there; and a lower bound.

    The slope is the norm of the gradient of the problem as posed; `alive` says how many directions live.
    """

    params: LaneParams
    value: float
    grad_norm: float
    lower_bound: float
    alive: int


def has_moments(problem: Problem) -> bool:
    """Whether the minimum follows from mean and covariance of the targets."""
    decayed = all(f.decay > 0 and unbound(f.constraint) for f in problem.factors())
    if problem.targets is None or not decayed or not is_one_of(problem.loss, SquaredError):
        return False
    return problem.bias_kind != "regularised" and bool(np.ptp(problem.group_weights) == 0)


def thresholded(problem: Problem) -> Thresholded:
    """The minimum of a problem that `has_moments`; in NumPy float64, and passes over blocks of groups on all cores."""
    found = minimum(posed(problem))
    H, _, A, b = found.factors
    alive = int(np.count_nonzero(found.lives))
    return Thresholded(LaneParams(H, A, b), found.value, found.grad_norm, found.lower_bound, alive)


def posed(problem: Problem) -> Posed:
    """The same as arrays; class labels are targets too, the rows of the identity."""
    targets, factors = problem.targets, problem.factors()
    return Posed(
        rows=np.eye(problem.num_classes) if targets is None else np.asarray(targets.rows),
        counts=problem.group_counts,
        weight=float(np.asarray(problem.group_weights)[0]),
        decays=[float(factor.decay) for factor in factors],
        columns=[factor.shape[1] for factor in factors[1:]],
        free_bias=problem.bias_kind == "free",
    )
