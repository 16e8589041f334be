"""The bias that minimises the risk at given products."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ufm._core.arrays import Array, custom_jvp, mapped, namespace, while_loop
from ufm._core.linalg import eigh
from ufm._core.precision import allowance
from ufm.minima.reduction import Reduced, by_lane, zeros
from ufm.model.losses import curvature_of_shifts, declares, flat_of, per_sample_curvature, per_sample_slope

BIAS_STEPS = 60  # of Newton's method for a bias
HALVINGS = 8  # of a step, all tried at once
SHIFTS = 3  # of slopes, to zero: where they are far off, what the first leaves is rounding of what it takes
FLAT = 45  # rounding's worth of the largest curvature, within which another is none


def biases_at_zero(reduced: Reduced) -> Any:
    """The best biases (K, L) at A = H = 0, found from the classes' log shares, which are those of cross-entropy."""
    K, weights, xp = reduced.num_classes, reduced.weights, namespace(reduced.weights)
    if reduced.bias_kind == "none":
        return zeros(reduced, K)
    shares = weights if reduced.groups_are_classes else (reduced.target_rows * weights[:, None]).sum(axis=0)
    # a class without samples has the logarithm of rounding's worth of a share
    logs = xp.log(xp.maximum(shares, np.finfo(shares.dtype).eps * weights.sum(axis=0)[None]))
    products = zeros(reduced, K, reduced.num_groups)
    return by_lane(best_bias, reduced, products, logs - logs.mean(axis=0)[None])


@custom_jvp
def best_bias(lane: Reduced, products: Float[Array, "K M"], b: Float[Array, " K"]) -> Float[Array, " K"]:
    """The bias of one lane that minimises the objective at given products A Hᵀ, from b; in memory of order K² + KM.

    Newton's method on a convex function, kept by halving: the length is tried that leaves the smallest slope, and the
    first step that leaves none smaller is the last.
    """
    xp = namespace(products, b)

    def step(state):
        b, slope, _, count = state
        moves = _newton(lane, products, b, slope)[None] * 0.5 ** xp.arange(HALVINGS, dtype=b.dtype)[:, None]
        slopes = mapped(lambda move: _slope(lane, products, b - move), moves)
        norms = xp.linalg.norm(slopes, axis=1)
        best = xp.argmin(norms)
        better = norms[best] < xp.linalg.norm(slope)
        return xp.where(better, b - moves[best], b), xp.where(better, slopes[best], slope), better, count + 1

    settled = 8 * np.finfo(b.dtype).eps * xp.linalg.norm(_slopes(lane, products))

    def unfinished(state):
        _, slope, better, count = state
        return better & (count < BIAS_STEPS) & (xp.linalg.norm(slope) > settled)

    start = b, _slope(lane, products, b), xp.asarray(True), xp.asarray(0)
    return while_loop(unfinished, step, start)[0]


@best_bias.defjvp
def _best_bias_jvp(primals, tangents):
    """Of a zero of the slope: what its other arguments add to the slope, a Newton step takes off; b was a start."""
    lane, products, _ = primals
    b = best_bias(*primals)
    _, added = jax.jvp(lambda lane, products: _slope(lane, products, b), (lane, products), tangents[:2])
    return b, -_newton(lane, products, b, added)


def _slopes(lane, logits):
    """Gradient (K, M) of the risk in the logits."""
    return lane.weights[None] * per_sample_slope(lane.loss, logits, lane.targets)


def _slope(lane, products, b):
    """Gradient (K,) of the objective along the bias."""
    return _slopes(lane, products + b[:, None]).sum(axis=1) + lane.lambda_b * b


def without_excess(lane: Reduced, slopes: Any, logits: Any) -> Any:
    """Slopes (K, M) of losses at logits that a free bias has sum to zero, weighted: their excess (K,) is taken off.

    All lose the same, which leaves slopes whose sum is told, that along a flat direction of the loss. Where several
    labels have none in common, each loses what a move ξ of the bias would take, ∇²ℓ ξ, along which its own is kept;
    NaN where there is none that takes all.
    """
    if flat_of(lane.loss, lane.num_classes) is not None or not declares(lane.loss, "scaling"):
        for _ in range(SHIFTS):
            slopes = slopes - ((slopes @ lane.weights) / lane.weights.sum())[:, None]
        return slopes
    xp, (diagonal, factor) = namespace(slopes), per_sample_curvature(lane.loss, logits, lane.targets)
    for _ in range(SHIFTS):
        excess = slopes @ lane.weights
        xi = _newton(lane, logits, xp.zeros_like(excess), excess)[:, None]
        slopes = slopes - (diagonal * xi - factor * (factor * xi).sum(axis=0)[None])
    gone = xp.abs(slopes @ lane.weights) <= allowance(slopes.dtype) * (xp.abs(slopes) @ lane.weights)
    return xp.where(gone.all(), slopes, np.nan)


def _newton(lane, products, b, slope):
    """∇⁻² slope (K,), nothing along directions without curvature, as that of all ones is under a cross-entropy."""
    xp = namespace(products, b)
    hessian = curvature_of_shifts(lane.loss, products + b[:, None], lane.targets, lane.weights)
    values, vectors = eigh(hessian + lane.lambda_b * xp.eye(b.shape[0], dtype=b.dtype))
    curved = values > FLAT * np.finfo(b.dtype).eps * values[-1] + np.finfo(b.dtype).tiny
    along = xp.where(curved, (vectors.T @ slope) / xp.where(curved, values, 1.0), 0.0)
    return vectors @ along
