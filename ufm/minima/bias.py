"""The bias that minimises the risk at given products."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ufm._core.linalg import eigh
from ufm.minima.reduction import Reduced, zeros
from ufm.model.losses import curvature_of_shifts, per_sample

BIAS_STEPS = 60  # of Newton's method for a bias


def best_biases(products: Any, b: Any, reduced: Reduced) -> Any:
    """The biases (K, L) that minimise the objective at given products A Mᵀ (K, K, L); traceable."""
    if reduced.bias_kind == "none":
        return b

    def of_lane(reduced, products, b):
        return best_bias(reduced, products, b)

    return jax.vmap(of_lane, in_axes=-1, out_axes=-1)(reduced, products, b)


def biases_at_zero(reduced: Reduced) -> Any:
    """The best biases (K, L) at A = H = 0, found from the classes' log shares, which are those of cross-entropy."""
    if reduced.bias_kind == "none":
        return jnp.zeros_like(reduced.weights)
    shares = jnp.log(reduced.weights)
    products = zeros(reduced, reduced.num_classes)
    return best_biases(products, shares - jnp.mean(shares, axis=0)[None], reduced)


def risk_of_lane(reduced: Reduced):
    """Risk of one lane as a function of logits (class, sample)."""
    loss, labels = jax.tree.map(lambda leaf: leaf[0], reduced.loss), jnp.arange(reduced.num_classes)
    return lambda Z: jnp.sum(reduced.weights * per_sample(loss, Z, labels))


def best_bias(reduced: Reduced, products: Float[Array, "K K"], b: Float[Array, " K"]) -> Float[Array, " K"]:
    """The bias of one lane that minimises the objective at given products, in memory of order K².

    Newton's method on a convex function, kept by halving.
    """
    loss, labels = jax.tree.map(lambda leaf: leaf[0], reduced.loss), jnp.arange(reduced.num_classes)
    risk, decay = risk_of_lane(reduced), reduced.lambda_b

    def gradient(b):
        return jax.grad(lambda b: risk(products + b[:, None]))(b) + decay * b

    def hessian(b):
        found = curvature_of_shifts(loss, products + b[:, None], labels, reduced.weights)
        return found + decay * jnp.eye(b.shape[0])

    def step(state):
        b, slope, _, count = state
        values, vectors = eigh(hessian(b))
        flat = 1e-14 * values[-1] + jnp.finfo(b.dtype).tiny
        along = jnp.where(values > flat, (vectors.T @ slope) / jnp.where(values > flat, values, 1.0), 0.0)
        moves = (vectors @ along)[None] * 0.5 ** jnp.arange(8.0)[:, None]
        slopes = jax.lax.map(lambda move: gradient(b - move), moves)
        norms = jnp.linalg.norm(slopes, axis=1)
        best = jnp.argmin(norms)
        better = norms[best] < jnp.linalg.norm(slope)
        return jnp.where(better, b - moves[best], b), jnp.where(better, slopes[best], slope), better, count + 1

    settled = 8 * jnp.finfo(b.dtype).eps * jnp.linalg.norm(jax.grad(risk)(products))

    def unfinished(state):
        return state[2] & (state[3] < BIAS_STEPS) & (jnp.linalg.norm(state[1]) > settled)

    return jax.lax.while_loop(unfinished, step, (b, gradient(b), jnp.asarray(True), jnp.asarray(0)))[0]
