"""Where the solver starts: on lines of logits along which the minimum is found at once, or at random."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm.reduction import Reduced, biases_at_zero, fold, losses
from ufm.solver import kept

UNPRICED_SIZE = 5.0  # of the largest logit, where a norm is fixed and decay doesn't price it
LINE_STEPS = 6  # of Newton's method for a size
START_SIZES = np.geomspace(0.03, 300.0, 24)  # of the largest logit, tried for the first starting point


@kept
def informed_start(reduced: Reduced) -> tuple[Any, Any]:
    """The best point on three lines of logits, t · F for sizes t, and the bias's scale there.

    F = I − J/K treats classes alike, so that the solver need not find the symmetry that equal classes leave; F = I is
    for losses to which the mean logit matters; and the third is where a proximal gradient step from the zero point
    leads: the gradient with its singular values lowered by c, which under squared error is the solution's direction
    for any counts.

    Returns:
        Variables (n, L), and bias_scale (K, L), which those of the same problem need.
    """
    K, L = reduced.num_classes, reduced.counts.shape[1]
    roots = jnp.sqrt(reduced.counts).T[:, :, None]  # lanes first, for the singular value decompositions
    zeros = jnp.zeros((K, K, L))
    b = biases_at_zero(reduced)
    slopes = jax.grad(lambda Z: jnp.sum(reduced.weights * losses(Z, reduced)))(zeros + b[:, None])
    pull = -jnp.transpose(slopes, (2, 1, 0)) / roots
    price = jnp.sqrt(reduced.lambda_A * reduced.lambda_H)
    centred, plain = (roots * jnp.asarray(frame)[None] for frame in (np.eye(K) - 1.0 / K, np.eye(K)))
    lines = jnp.stack([centred, plain, pull]), jnp.stack([0 * price, 0 * price, price]), jnp.stack([0 * b, 0 * b, b])
    values, xs, at = jax.lax.map(lambda line: _along_line(reduced, price, *line), lines)
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values), axis=0)
    x = jnp.take_along_axis(xs, best[None, None], axis=0)[0]
    logits = jnp.take_along_axis(at, best[None, None, None], axis=0)[0]
    scale = _bias_scale(reduced, logits)
    both = sum(reduced.factor_sizes)
    return jnp.concatenate([x[:both], x[both:] / scale[: x.shape[0] - both]]), scale


def _along_line(reduced, price, frame, lowered, b):
    """The least value on a line of D^{1/2} Z along the frame (L, K, K) with singular values lowered by (L,).

    With it the solver's variables there, for a bias not yet scaled, and the logits.
    """
    r = reduced.dim
    left, values, right = jnp.linalg.svd(frame)
    values = jnp.maximum(values - lowered[:, None], 0.0)
    kept = jnp.where((jnp.arange(values.shape[1]) < r)[None], values, 0.0)
    direction = jnp.transpose((left * kept[:, None]) @ right, (2, 1, 0)) / jnp.sqrt(reduced.counts)[None]
    size = jnp.max(jnp.abs(direction), axis=(0, 1))
    size = jnp.where(size > 0, size, 1.0)
    sizes = jnp.asarray(START_SIZES)[:, None] / size[None]
    cost = price * jnp.sum(kept, axis=1)

    def at(size):
        logits = size[None, None] * direction + b[:, None]
        decay = size * cost + 0.5 * reduced.lambda_b * jnp.sum(b**2, axis=0)
        return jnp.sum(reduced.weights * losses(logits, reduced), axis=0) + decay

    chosen = jnp.take_along_axis(sizes, jnp.argmin(jax.lax.map(at, sizes), axis=0)[None], axis=0)[0]
    chosen = jax.lax.fori_loop(0, LINE_STEPS, lambda _, size: _newton_on_line(at, size), chosen)
    chosen = jnp.where(price > 0, chosen, UNPRICED_SIZE / size)
    half = jnp.sqrt(kept * (chosen * jnp.where(price > 0, price, 1.0))[:, None])
    parts = (left * half[:, None], jnp.swapaxes(right, 1, 2) * half[:, None])
    X, Y = (_to_width(jnp.moveaxis(part, 0, -1), r) for part in parts)
    logits = chosen[None, None] * direction + b[:, None]
    return at(chosen), fold(X, Y, b, dataclasses.replace(reduced, bias_scale=jnp.ones_like(b))), logits


def random_start(reduced: Reduced, x: np.ndarray, draws: list[np.random.Generator]) -> np.ndarray:
    """Starting points (n, L) with factors as large as those of `x` and directions at random, at a zero bias."""
    size = sum(reduced.factor_sizes)
    noise = np.stack([draw.normal(size=size) for draw in draws], axis=-1)
    start = np.zeros_like(x)
    start[:size] = noise * np.sqrt(np.mean(x[:size] ** 2, axis=0))
    return start


def _newton_on_line(at, size):
    """A Newton step towards the least of `at`, lane by lane, where it is convex."""
    slope = jax.grad(lambda size: jnp.sum(at(size)))
    first, second = jax.jvp(slope, (size,), (jnp.ones_like(size),))
    step = jnp.where(second > 0, first / jnp.where(second > 0, second, 1.0), 0.0)
    return jnp.clip(size - step, 0.8 * size, 1.25 * size)


def _to_width(X, r):
    """The first r columns, or zeros where there are fewer."""
    return jnp.pad(X[:, :r], ((0, 0), (0, max(r - X.shape[1], 0)), (0, 0)))


def _bias_scale(reduced, logits):
    """1/√(curvature along each bias), which spans orders of magnitude where classes do."""
    if reduced.bias_kind == "none":
        return jnp.ones(reduced.counts.shape)
    slopes = jax.grad(lambda Z: jnp.sum(reduced.weights * losses(Z, reduced)))

    def along(j):
        direction = jnp.zeros_like(logits).at[j].set(1.0)
        return jnp.sum(jax.jvp(slopes, (logits,), (direction,))[1][j], axis=0)

    curvature = jax.lax.map(along, jnp.arange(reduced.num_classes)) + reduced.lambda_b[None]
    return 1.0 / jnp.sqrt(jnp.maximum(jnp.abs(curvature), 1e-12))
