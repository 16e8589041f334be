"""Where the solver starts: on lines of logits along which the minimum is found at once, or at random."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.linalg import svd
from ufm._core.programs import kept
from ufm.minima.bias import biases_at_zero
from ufm.minima.lane_objective import fold, losses
from ufm.minima.reduction import Reduced, zeros
from ufm.model.losses import curvatures_of_shifts

UNPRICED_SIZE = 5.0  # of the largest logit, where a norm is fixed and decay doesn't price it
LINE_STEPS = 9  # of Newton's method for a size
START_SIZES = np.geomspace(0.03, 300.0, 12)  # of the largest logit, tried for the first starting point


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
    K = reduced.num_classes
    roots = jnp.sqrt(reduced.counts).T[:, :, None]  # lanes first, for the singular value decompositions
    b = biases_at_zero(reduced)
    at_zero = zeros(reduced, K) + b[:, None]
    slopes = jax.grad(lambda Z: jnp.sum(reduced.weights * losses(Z, reduced)))(at_zero)
    pull = -jnp.transpose(slopes, (2, 1, 0)) / roots
    price = jnp.sqrt(reduced.lambda_A * reduced.lambda_H)
    plain = roots * jnp.eye(K)[None]
    centred = plain - roots / K
    lines = jnp.stack([centred, plain, pull]), jnp.stack([0 * price, 0 * price, price]), jnp.stack([0 * b, 0 * b, b])
    values, sizes, lines = jax.lax.map(lambda line: _coarsely(reduced, price, _line(reduced, *line)), lines)
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values), axis=0)
    size, line = jax.tree.map(lambda of_lines: _of_lanes(of_lines, best), (sizes, lines))
    finer = jax.lax.fori_loop(0, LINE_STEPS, lambda _, size: _newton_on_line(reduced, price, line, size), size)
    size = jnp.where(price > 0, finer, size)
    logits = line.logits(size)
    scale = _bias_scale(reduced, logits)
    half = jnp.sqrt(line.kept * (size * jnp.where(price > 0, price, 1.0))[None])
    X, Y = (_to_width(part * half[None], reduced.dim) for part in (line.left, line.right))
    return fold(X, Y, line.b, dataclasses.replace(reduced, bias_scale=scale)), scale


class _Line(NamedTuple):
    """Logits t · direction (K, K, L) + b (K, L), and the factors of the direction: singular vectors and values."""

    direction: Any
    b: Any
    left: Any
    kept: Any
    right: Any

    @property
    def largest(self):
        """(L,) largest entry of the direction."""
        largest = jnp.max(jnp.abs(self.direction), axis=(0, 1))
        return jnp.where(largest > 0, largest, 1.0)

    def logits(self, size):
        return size[None, None] * self.direction + self.b[:, None]


def _line(reduced, frame, lowered, b) -> _Line:
    """The line of D^{1/2} Z along a frame (L, K, K) with singular values lowered by (L,), at rank r."""
    left, values, right = jax.vmap(svd)(frame)
    values = jnp.maximum(values - lowered[:, None], 0.0)
    kept = jnp.where((jnp.arange(values.shape[1]) < reduced.dim)[None], values, 0.0)
    direction = jnp.transpose((left * kept[:, None]) @ right, (2, 1, 0)) / jnp.sqrt(reduced.counts)[None]
    return _Line(direction, b, jnp.moveaxis(left, 0, -1), kept.T, jnp.transpose(right, (2, 1, 0)))


def _along(reduced, price, line: _Line, size):
    """The objective (L,) on the line, its factors balanced."""
    decay = size * price * jnp.sum(line.kept, axis=0) + 0.5 * reduced.lambda_b * jnp.sum(line.b**2, axis=0)
    return jnp.sum(reduced.weights * losses(line.logits(size), reduced), axis=0) + decay


def _coarsely(reduced, price, line: _Line):
    """The least value of some sizes on a line, that size, and the line."""
    sizes = jnp.where(price > 0, jnp.asarray(START_SIZES)[:, None], UNPRICED_SIZE) / line.largest[None]
    values = jax.lax.map(lambda size: _along(reduced, price, line, size), sizes)
    least = jnp.argmin(values, axis=0)
    return _of_lanes(values, least), _of_lanes(sizes, least), line


def _of_lanes(stacked, index):
    """What each lane (the last axis) chooses of the first axis."""
    index = index.reshape((1,) * (stacked.ndim - 1) + index.shape)
    return jnp.take_along_axis(stacked, index, axis=0)[0]


def random_start(reduced: Reduced, x: np.ndarray, draws: list[np.random.Generator]) -> np.ndarray:
    """Starting points (n, L) with factors as large as those of `x` and directions at random, at a zero bias."""
    size = sum(reduced.factor_sizes)
    noise = np.stack([draw.normal(size=size) for draw in draws], axis=-1)
    start = np.zeros_like(x)
    start[:size] = noise * np.sqrt(np.mean(x[:size] ** 2, axis=0))
    return start


def _newton_on_line(reduced, price, line, size):
    """A Newton step towards the least value on the line, lane by lane, where it is convex."""
    slope = jax.grad(lambda size: jnp.sum(_along(reduced, price, line, size)))
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

    def of_lane(reduced, logits):
        loss, labels = jax.tree.map(lambda leaf: leaf[0], reduced.loss), jnp.arange(reduced.num_classes)
        return curvatures_of_shifts(loss, logits, labels, reduced.weights) + reduced.lambda_b

    curvature = jax.vmap(of_lane, in_axes=-1, out_axes=-1)(reduced, logits)
    return 1.0 / jnp.sqrt(jnp.maximum(jnp.abs(curvature), 1e-12))
