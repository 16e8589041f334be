"""How far from optimal anything can be: lower bounds of problems, and what a gap is relative to."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ufm._core.arrays import mapped
from ufm._core.blocks import fits
from ufm._core.interrupts import interruptible
from ufm._core.lanes import by_batches
from ufm._core.linalg import svd
from ufm._core.precision import allowance, float64, is_traced
from ufm._core.programs import kept, plain
from ufm.minima.dual import bound_of_lane, streamed_bound_of_lane
from ufm.minima.focal_bound import declares_line, focal_bound
from ufm.minima.lane_objective import is_closed
from ufm.minima.moments import has_moments, thresholded
from ufm.minima.reduction import (
    LaneParams,
    Reduced,
    by_lane,
    group_means,
    lane_of,
    least_dim,
    reduce,
    row_space,
    without_lanes,
)
from ufm.minima.shallow import Line, bound_of, infimum_of, price_at, scale_of, shallow
from ufm.model.layers import layers
from ufm.model.losses import closed, fact_of, facts_of, per_sample
from ufm.model.params import Params, columns
from ufm.model.problem import Problem, as_problem, with_values

LEAST_UNIT = 1e-4  # of the risk at zero logits: the unit of values where the minimum may be an attained infimum
PRICES = 2.0 ** np.arange(-16, 17)  # of shallow problems, over that at which decay is the risk of the zero point
LEAST_KNOWN = 1e-290  # below, the terms that a value and its bound add up underflow, and digits are lost


def relative_gap(problem: Problem, value: float, bound: float) -> float:
    """How far from the minimum a value can be, by a lower bound, in its `unit`: what `certified` and `verify` judge by.

    Infinite where the value's digits are lost. A value below its bound is as far off, since rounding put it there.
    """
    if not keeps_digits(problem, value):
        return np.inf
    gap, size = abs(float(value) - float(bound)), float(unit(problem, value))
    return gap / size if size > 0 else 0.0 if gap == 0 else np.inf


def unit(problem: Problem, value: float) -> float:
    """What differences of values are relative to: |value|, however small.

    A bound that is only the loss's infimum thus proves nothing of what lies above it. Where the minimum may be that
    infimum, since the loss attains it and factors cost nothing, rounding leaves values that mean nothing: there the
    unit is at least 10⁻⁴ of the risk at zero logits above the infimum, which doesn't vanish with the value.
    """
    priced = any(factor.decay > 0 for factor in problem.factors())
    return abs(value) if priced or not _attained(problem) else max(abs(value), LEAST_UNIT * _height_of_zero(problem))


def keeps_digits(problem: Problem, value: float) -> bool:
    """Whether float64 tells a value from others: a tail of exponentials underflows before it is zero."""
    return _attained(problem) or not abs(value) < LEAST_KNOWN


def _attained(problem: Problem) -> bool:
    """Whether the loss declares that its infimum is a value of it."""
    return bool(fact_of(problem.loss, "attained"))


def _height_of_zero(problem: Problem) -> float:
    """The risk at zero logits above the loss's infimum."""
    lane = lane_of(problem)
    of_zero = plain(_losses_of_zero) if closed(problem.loss) else _losses_of_zero
    with float64():
        heights = of_zero(lane.loss, lane.targets, np.zeros((lane.num_classes, 1))) - lane.infima
        return float(np.asarray(heights) @ lane.weights)


@kept
def _losses_of_zero(loss, targets, zero):
    """Loss of each group's target at zero logits (K, 1), one after the other."""
    return mapped(lambda target: per_sample(loss, zero, target[..., None])[0], targets.T)


@interruptible
def lower_bound(problem: Problem, params: Params) -> float:
    """A number that the objective is nowhere below, found from a candidate; tight where the candidate is optimal.

    Valid for any parameters, with an allowance for rounding. It needs a loss that declares itself convex, and its
    infimum; with a free bias, its conjugate too. For any other loss it is −∞, except on balanced classes for the focal
    loss, and others that declare their line, where the bound is one of a single variable (Zhou et al. 2022). With
    hidden layers it is the minimum itself where that is known in closed form (linear ones, squared error, equal
    weights, no or a free bias), whatever the candidate; for other convex losses what the candidate gives of shallow
    problems beneath, at a grid of prices: tight where decay is large, and elsewhere mostly below `Optimum.lower_bound`.
    Where K² > 2²⁴ no K × K matrix is held, and an operator norm is bounded with probability 1 − 10⁻¹² over a random
    draw, the same at each call.

    Args:
        problem: any problem.
        params: H (N, d), A (K, d), b (K,), feasible or not.

    Returns:
        A float in the unit of the objective.

    Raises:
        ValueError: where a shape is not the problem's, or a parameter is NaN or infinite.
    """
    params = with_values(problem).finite_params(params)
    if problem.widths:
        return _beneath_layers(problem, params)
    means, A = group_means(problem, params.H), params.A
    if problem.classifier.fixed:
        axes = row_space(problem)
        means, A = means @ axes.T, problem.classifier.matrix @ axes.T
    at = LaneParams(*(part[..., None] for part in (means, A, params.b)))
    return float(lower_bounds([problem], reduce([problem]), at, compiled=not is_closed(problem))[0])


def _beneath_layers(problem: Problem, params: Params) -> float:
    """The same with hidden layers: from lines of shallow problems beneath, at what the classifier reads."""
    if has_moments(problem):
        return next(thresholded([problem])).lower_bound
    infimum, height = infimum_of(problem), _height_of_zero(problem)
    if not (scale_of(problem) > 0 and np.isfinite(infimum) and height > 0):
        return infimum
    prices = [float(price_at(problem, height) * factor) for factor in PRICES]
    posed = [(price, below) for price in prices if (below := shallow(problem, price)) is not None]
    if not posed:
        return infimum
    read = group_means(problem, layers(problem.activation, columns(params))[-1].T)
    at = LaneParams(*(np.stack([part] * len(posed), axis=-1) for part in (read, params.A, params.b)))
    problems = [below for _, below in posed]
    bounds = lower_bounds(problems, reduce(problems), at, compiled=not is_closed(problems[0]))
    return bound_of(problem, [Line(price, float(bound)) for (price, _), bound in zip(posed, bounds, strict=True)])[0]


def lower_bounds(problems: list[Problem], reduced: Reduced, params: LaneParams, *, compiled: bool = True) -> np.ndarray:
    """`lower_bound` of many problems side by side, (L,); none is known here of those with hidden layers."""
    if reduced.widths:
        return np.full(len(problems), -np.inf)
    if not facts_of(reduced.loss).convex:
        return np.array([focal_bound(problem) for problem in problems])
    with float64():
        if fits(reduced.num_groups, reduced.num_classes):
            return by_batches(_bounds, reduced, params, held=reduced.held, compiled=compiled)
        taken = (
            jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[..., i], (reduced, params)) for i in range(len(problems))
        )
        return np.array([streamed_bound_of_lane(without_lanes(lane), at) for lane, at in taken])


@kept
def _bounds(reduced, params):
    return by_lane(bound_of_lane, reduced, params)


def dual_bound(problem: Problem, params: Params) -> Float[Array, ""]:
    """`lower_bound` as a function that JAX traces: inside a user's own jit, vmap and grad, as a JAX scalar.

    Within `jax.enable_x64()` it is computed in float64 and equals `lower_bound`. Otherwise it is computed in float32,
    with the allowance of that precision: 64 · 2⁻²³ of what it adds up, so that it is a bound up to float32's rounding
    and stays that much below the best. K × K matrices are held whatever K is, and decomposed. Where the loss isn't
    convex the bound depends on the problem alone, whose numbers must be known while it is traced. With hidden layers it
    is the minimum where that is known in closed form, of a problem whose numbers are known, and −∞ elsewhere.

    Args:
        problem: any problem; an argument of the traced function, or known to it.
        params: H (N, d), A (K, d), b (K,), feasible or not; the derivative in them is that of the bound where it has
            one. What is not finite is refused unless it is traced.

    Returns:
        A scalar in the unit of the objective.

    Raises:
        ValueError: where a shape is not the problem's, or a known parameter is NaN or infinite; or where numbers of a
            problem are traced whose loss isn't convex but has a bound.
    """
    params = as_problem(problem).check_params(params)
    if problem.widths:
        known = not is_traced(problem) and has_moments(problem)
        return _rounded_down(next(thresholded([problem])).lower_bound if known else -np.inf)
    if not facts_of(problem.loss).convex:
        return _bound_of_line(problem)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((problem, params))):
        return _traced_bound(problem, params)
    return _dual_bound(problem, problem.finite_params(params))


def _traced_bound(problem, params):
    problem, params = _in_default_precision((problem, params))
    lane = _in_default_precision(lane_of(problem))
    means, A = _group_means(problem, params.H), params.A
    if problem.classifier.fixed:
        A = problem.classifier.matrix
        if least_dim(problem) < problem.dim:  # only what lies in its row space counts
            axes = svd(jax.lax.stop_gradient(A))[2]
            means, A = means @ axes.T, A @ axes.T
    return bound_of_lane(lane, LaneParams(means, A, params.b))


_dual_bound = kept(_traced_bound)


def _in_default_precision(tree):
    """Numbers as JAX has them by default: float64 within `jax.enable_x64()`, else float32."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), tree)


def _group_means(problem, H):
    """(M, d) means of the features (N, d) of each group, which stand together in H."""
    groups = np.repeat(np.arange(problem.num_groups, dtype=np.int32), problem.group_counts)
    sums = jax.ops.segment_sum(H, groups, problem.num_groups, indices_are_sorted=True)
    return sums / jnp.asarray(problem.group_counts, H.dtype)[:, None]


def _bound_of_line(problem):
    """`focal_bound`, rounded down."""
    if declares_line(problem.loss) and any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        raise ValueError(
            "problem: its numbers are traced, and the bound of its loss, which isn't convex, is found by a search; a "
            "problem that is known while it is traced, and no argument of the traced function, is needed"
        )
    return _rounded_down(focal_bound(problem))


def _rounded_down(bound: float):
    """A bound in JAX's default precision."""
    dtype = jnp.result_type(float)
    return jnp.asarray(bound - allowance(dtype) * abs(bound) if np.isfinite(bound) else bound, dtype)
