"""Problems that mean and covariance of their targets solve: squared error of linear factors, without any iteration."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm.minima.deep_linear import Minima, Posed, minima
from ufm.minima.reduction import LaneParams
from ufm.minima.symmetry import unbound
from ufm.model.losses import SquaredError, is_one_of
from ufm.model.problem import Problem

HELD_TOGETHER = 2**18  # numbers of the targets of problems side by side


class Thresholded(NamedTuple):
    """The minimum, in reduced dimensions and widths; its value and slope there; and a lower bound.

    The slope is the norm of the gradient of the problem as posed; `alive` says how many directions live, and
    `local_values` are those of all local minima (see `deep_linear.Minima`).
    """

    params: LaneParams
    value: float
    grad_norm: float
    lower_bound: float
    alive: int
    local_values: np.ndarray


def has_moments(problem: Problem) -> bool:
    """Whether the minimum follows from mean and covariance of the targets, which class labels are beneath layers."""
    decayed = all(f.decay > 0 and unbound(f.constraint) for f in problem.factors())
    posed_so = problem.activation == "linear" and (problem.targets is not None or bool(problem.widths))
    if not posed_so or not decayed or not is_one_of(problem.loss, SquaredError):
        return False
    return problem.bias_kind != "regularised" and bool(np.ptp(problem.group_weights) == 0)


def stacking_key(problem: Problem) -> Any:
    """What problems that have moments must share to be solved side by side."""
    columns = tuple(factor.shape[1] for factor in problem.factors()[1:])
    return problem.num_groups, problem.num_classes, columns, problem.bias_kind


def thresholded(problems: Sequence[Problem]) -> Iterator[Thresholded]:
    """Minima of problems of one `stacking_key` that have moments, in order, by passes over blocks on all cores."""
    together = max(1, HELD_TOGETHER // (problems[0].num_groups * problems[0].num_classes))
    for first in range(0, len(problems), together):
        with one_thread(), silent():
            found = minima(posed(problems[first : first + together]))
        for lane in range(len(found.value)):
            yield _in_lane(found, lane)


def _in_lane(found: Minima, lane: int) -> Thresholded:
    """What was found of one problem."""
    H, W, A, b = found.factors
    params = LaneParams(H[lane], A[lane], b[lane], tuple(layer[lane] for layer in W))
    value, slope, bound = (float(each[lane]) for each in (found.value, found.grad_norm, found.lower_bound))
    alive = int(np.count_nonzero(found.lives[lane]))
    return Thresholded(params, value, slope, bound, alive, found.local_values[lane])


def posed(problems: Sequence[Problem]) -> Posed:
    """The same as arrays; class labels are targets too, the rows of the identity."""
    _, K, columns, bias_kind = stacking_key(problems[0])
    return Posed(
        rows=_stacked(np.eye(K) if p.targets is None else np.asarray(p.targets.rows) for p in problems),
        counts=_stacked(p.group_counts for p in problems),
        weights=np.array([float(np.asarray(p.group_weights)[0]) for p in problems]),
        decays=np.array([[float(factor.decay) for factor in p.factors()] for p in problems]),
        columns=columns,
        free_bias=bias_kind == "free",
    )


def _stacked(arrays: Any) -> np.ndarray:
    """Side by side; one alone isn't copied, since it may be large."""
    first, *others = arrays
    return np.stack([first, *others]) if others else first[None]
