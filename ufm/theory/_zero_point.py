"""The zero point A = H = 0 with its best bias, for cross-entropies and squared error of any targets."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ufm._core.arrays import silent
from ufm.model.losses import SquaredError, flat_of, per_sample_both, per_sample_curvature
from ufm.model.problem import Problem
from ufm.model.vector_scaling import VectorScaling
from ufm.theory._groups import groups_of, operator_norm
from ufm.theory._scalar import newton
from ufm.theory.formulas import TOTAL, decay_scale, is_about, known_bias, near
from ufm.theory.registry import Prediction


class ZeroPoint(NamedTuple):
    """Value, bias (K,), and the c = √(λ_A λ_H) from which it is the minimum, ‖D^{-1/2}U‖_op of the slopes U there."""

    value: float
    bias: np.ndarray
    reach: float


def at_zero(problem: Problem) -> ZeroPoint:
    """Of a problem with free, decayed factors and a cross-entropy, label smoothing, squared error or vector scaling."""
    if is_about(problem, VectorScaling):
        return _scaled(problem)
    groups = groups_of(problem)
    mass = groups.share * groups.w
    total = np.sum(mass)
    mean = mass @ groups.T / total
    value, b, reached = (_squared if is_about(problem, SquaredError) else _entropic)(problem, total, mean)
    if is_about(problem, SquaredError):
        value += 0.5 * float(mass @ np.sum((groups.T - mean) ** 2, axis=1))
    pulls = (groups.w * np.sqrt(groups.share))[:, None] * (groups.T - reached)
    return ZeroPoint(value, b, operator_norm(pulls) / float(np.sqrt(problem.num_samples)))


def _squared(problem: Problem, total: float, mean: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Value at the mean target, best bias and outputs there: total/2 ‖b − mean‖² + λ_b/2 ‖b‖² is least."""
    b = np.zeros_like(mean) if problem.bias_kind == "none" else mean * (total / (total + problem.lambda_b))
    return 0.5 * float(total * np.sum((b - mean) ** 2) + problem.lambda_b * b @ b), b, b


def _entropic(problem: Problem, total: float, mean: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The same of total (log Σ exp b − mean · b) + λ_b/2 ‖b‖², with probabilities."""
    K = len(mean)

    def risk(b: np.ndarray) -> tuple:
        top = np.max(b)
        p = np.exp(b - top)
        value = total * (top + np.log(np.sum(p)) - mean @ b) + problem.lambda_b / 2 * b @ b
        p /= np.sum(p)
        slope = total * (p - mean) + problem.lambda_b * b
        return value, slope, total * (np.diag(p) - np.outer(p, p)) + problem.lambda_b * np.eye(K)

    b = np.zeros(K)
    if problem.bias_kind == "free":
        b = np.log(mean)
    if problem.bias_kind == "regularised":
        b = newton(risk, np.log(np.maximum(mean, 1e-3 / K)), np.full(K, 3.0), np.zeros(K, bool))
    p = np.exp(b - np.max(b))
    return float(risk(b)[0]), b, p / np.sum(p)


def _scaled(problem: Problem) -> ZeroPoint:
    """Of vector scaling with a direction along which logits move at no change, of which a free bias has nothing.

    The search is in units of each class's own right logit, from where these are logarithms of shares, which is the
    minimum where a free bias can take offsets' place; NaN where it ends elsewhere than at a minimum.
    """
    K, labels, share = problem.num_classes, problem.group_labels, problem.group_counts / problem.num_samples
    w = np.asarray(problem.group_weights, np.float64)
    mass, flat = share * w, np.asarray(flat_of(problem.loss, K), np.float64)
    own = problem.loss.scaling(labels, labels)
    turned = np.eye(K) if problem.bias_kind != "free" else np.linalg.svd(own.own_factor[None] * flat)[2][1:].T
    axes = turned / own.own_factor[:, None]

    def risk(y: np.ndarray) -> tuple:
        b = axes @ y
        logits = np.tile(b[:, None], K)  # of a sample of each class, in columns
        values, slopes = per_sample_both(problem.loss, logits, labels)
        diagonal, factor = per_sample_curvature(problem.loss, logits, labels)
        hessian = np.diag(diagonal @ mass) - (factor * mass) @ factor.T + problem.lambda_b * np.eye(K)
        slope = slopes @ mass + problem.lambda_b * b
        return mass @ values + problem.lambda_b / 2 * b @ b, axes.T @ slope, axes.T @ hessian @ axes

    y = np.zeros(axes.shape[1])
    if problem.bias_kind != "none":
        told = turned.T @ (np.log(mass) - own.own_offset)
        y = _settled(risk, min(y, told, key=lambda start: risk(start)[0]), 1e-7 * np.min(mass))
    b = axes @ y
    if not np.all(np.isfinite(b)):
        return ZeroPoint(np.nan, b, np.nan)
    slopes = per_sample_both(problem.loss, np.tile(b[:, None], K), labels)[1]
    pulls = -(w * np.sqrt(share)) * slopes
    return ZeroPoint(float(risk(y)[0]), b, operator_norm(pulls.T) / float(np.sqrt(problem.num_samples)))


def _settled(convex: Callable, start: np.ndarray, flat: float) -> np.ndarray:
    """The minimiser that Newton's method finds, NaN where the slope isn't that small, or second derivatives vanish."""
    with silent():
        try:
            found = newton(convex, start, np.full(len(start), 3.0), np.zeros(len(start), bool))
        except np.linalg.LinAlgError:
            return np.full_like(start, np.nan)
        return found if np.linalg.norm(convex(found)[1]) <= flat else np.full_like(start, np.nan)


def collapse(problem: Problem) -> Prediction:
    """Whether the minimiser is the zero point, and then its value and bias; nothing where its bias isn't found."""
    value, b, reach = at_zero(problem)
    if np.isnan(reach):
        return Prediction()
    c, thresholds = decay_scale(problem), {TOTAL: reach}
    if near(c, reach):
        return Prediction(value=value if c >= reach else None, thresholds=thresholds)
    if c < reach:
        return Prediction(degenerate=False, thresholds=thresholds)
    return Prediction(value=value, degenerate=True, thresholds=thresholds, **known_bias(problem, b))
