"""The bias that minimises the risk at given products."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm._core.linalg import eigh
from ufm.minima.reduction import Reduced, by_lane, zeros
from ufm.model.losses import curvature_of_shifts, per_sample

BIAS_STEPS = 60  # of Newton's method for a bias
HALVINGS = 8  # of a step, all tried at once
FLAT = 45  # rounding's worth of the largest curvature, within which another is none


def biases_at_zero(reduced: Reduced) -> Any:
    """The best biases (K, L) at A = H = 0, found from the classes' log shares, which are those of cross-entropy."""
    K, weights = reduced.num_classes, reduced.weights
    if reduced.bias_kind == "none":
        return zeros(reduced, K)
    shares = zeros(reduced, K).at[reduced.targets].add(weights)
    # a class without samples has the logarithm of rounding's worth of a share
    logs = jnp.log(jnp.maximum(shares, jnp.finfo(shares.dtype).eps * jnp.sum(weights, axis=0)[None]))
    products = zeros(reduced, K, reduced.num_groups)
    return by_lane(best_bias, reduced, products, logs - jnp.mean(logs, axis=0)[None])


def risk_of_lane(lane: Reduced) -> Callable[[Any], Any]:
    """Risk of one lane as a function of logits (K, M)."""
    return lambda Z: jnp.sum(lane.weights * per_sample(lane.loss, Z, lane.targets))


@jax.custom_jvp
def best_bias(lane: Reduced, products: Float[Array, "K M"], b: Float[Array, " K"]) -> Float[Array, " K"]:
    """The bias of one lane that minimises the objective at given products A Hᵀ, from b; in memory of order K² + KM.

    Newton's method on a convex function, kept by halving: the length is tried that leaves the smallest slope, and the
    first step that leaves none smaller is the last.
    """

    def step(state):
        b, slope, _, count = state
        moves = _newton(lane, products, b, slope)[None] * 0.5 ** jnp.arange(HALVINGS, dtype=b.dtype)[:, None]
        slopes = jax.lax.map(lambda move: _slope(lane, products, b - move), moves)
        norms = jnp.linalg.norm(slopes, axis=1)
        best = jnp.argmin(norms)
        better = norms[best] < jnp.linalg.norm(slope)
        return jnp.where(better, b - moves[best], b), jnp.where(better, slopes[best], slope), better, count + 1

    settled = 8 * jnp.finfo(b.dtype).eps * jnp.linalg.norm(jax.grad(risk_of_lane(lane))(products))

    def unfinished(state):
        _, slope, better, count = state
        return better & (count < BIAS_STEPS) & (jnp.linalg.norm(slope) > settled)

    start = b, _slope(lane, products, b), jnp.asarray(True), jnp.asarray(0)
    return jax.lax.while_loop(unfinished, step, start)[0]


@best_bias.defjvp
def _best_bias_jvp(primals, tangents):
    """Of a zero of the slope: what its other arguments add to the slope, a Newton step takes off; b was a start."""
    lane, products, _ = primals
    b = best_bias(*primals)
    _, added = jax.jvp(lambda lane, products: _slope(lane, products, b), (lane, products), tangents[:2])
    return b, -_newton(lane, products, b, added)


def _slope(lane, products, b):
    """Gradient (K,) of the objective along the bias."""
    risk = risk_of_lane(lane)
    return jax.grad(lambda b: risk(products + b[:, None]))(b) + lane.lambda_b * b


def _newton(lane, products, b, slope):
    """∇⁻² slope (K,), nothing along directions without curvature, as that of all ones is under a cross-entropy."""
    hessian = curvature_of_shifts(lane.loss, products + b[:, None], lane.targets, lane.weights)
    values, vectors = eigh(hessian + lane.lambda_b * jnp.eye(b.shape[0], dtype=b.dtype))
    curved = values > FLAT * jnp.finfo(b.dtype).eps * values[-1] + jnp.finfo(b.dtype).tiny
    along = jnp.where(curved, (vectors.T @ slope) / jnp.where(curved, values, 1.0), 0.0)
    return vectors @ along
