"""Where the solver starts: on lines of logits along which the minimum is found at once, or at random."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm._core.arrays import mapped, namespace, repeated
from ufm._core.lanes import each
from ufm._core.linalg import svd
from ufm._core.programs import kept
from ufm.minima.bias import biases_at_zero
from ufm.minima.lane_objective import losses, slopes, variables
from ufm.minima.reduction import LaneParams, Reduced, by_lane, zeros
from ufm.model.losses import curvatures_of_shifts

UNPRICED_SIZE = 5.0  # of the largest logit, where a norm is fixed and decay doesn't price it
DIFFERENCE = 1e-5  # of a size, relative, of which a second derivative is a quotient
LINE_STEPS = 9  # of Newton's method for a size
START_SIZES = np.geomspace(0.03, 300.0, 12)  # of the largest logit, tried for the first starting point


class Start(NamedTuple):
    """Where the solver starts, and what `Reduced` holds of the start from then on.

    Attributes:
        x: (n, L) variables.
        bias_scale: (K, L) that they are in.
        bias_at_zero: (K, L) the best bias where H = A = 0.
    """

    x: Any
    bias_scale: Any
    bias_at_zero: Any


@kept
def informed_start(reduced: Reduced) -> Start:
    """The best point on three lines of logits, t F + b for sizes t; everything has lanes last.

    A line is known by D^{1/2} Fᵀ (M, K), D = diag n_m, of which a factorisation into equally large factors is the
    cheapest: its singular values are what decay prices.

    1. F = T − its mean over outputs, T the targets, treats classes alike, so that the solver need not find the symmetry
       that equal classes leave; b = 0.
    2. F = T, for losses to which the mean logit matters; b = 0.
    3. Where a proximal gradient step from the zero point leads: the gradient there, with its singular values lowered by
       c = √(λ_A λ_H), which under squared error is the solution's direction for any counts; b is the best at zero.

    Then a few sizes are tried on each line, the best line's size is refined, and logits are split into factors.
    """
    xp = namespace(reduced.weights)
    roots = xp.sqrt(reduced.counts)[:, None]  # (M, 1, L)
    price = xp.sqrt(reduced.lambda_A * reduced.lambda_H)  # (L,) of a singular value
    best_b = biases_at_zero(reduced)  # (K, L)

    rows = reduced.target_rows
    targets = roots * rows  # (M, K, L)
    at_zero = zeros(reduced, reduced.num_classes, reduced.num_groups) + best_b[:, None]  # (K, M, L)
    pull = -(reduced.weights[None] * slopes(at_zero, reduced)).swapaxes(0, 1) / roots  # (M, K, L)

    centred = targets - roots * reduced.masses / reduced.num_classes
    frames = xp.stack([centred, targets, pull])  # (3, M, K, L)
    lowered = xp.stack([xp.zeros_like(price), xp.zeros_like(price), price])  # (3, L)
    biases = xp.stack([xp.zeros_like(best_b), xp.zeros_like(best_b), best_b])  # (3, K, L)

    def try_line(line):
        return _coarsely(reduced, price, _line(reduced, *line))

    values, sizes, lines = mapped(try_line, (frames, lowered, biases))  # one after the other, at a third's memory
    best = xp.argmin(xp.where(xp.isnan(values), xp.inf, values), axis=0)
    size, line = jax.tree.map(lambda of_lines: _of_lanes(of_lines, best), (sizes, lines))
    finer = repeated(LINE_STEPS, lambda size: _newton_on_line(reduced, price, line, size), size)
    size = xp.where(price > 0, finer, size)

    scale = bias_scale(reduced, line.logits(size))
    params = line.factors(size * xp.where(price > 0, price, 1.0), reduced.dim)
    x = variables(params, dataclasses.replace(reduced, bias_scale=scale))
    return Start(x, scale, best_b)


class _Line(NamedTuple):
    """Logits t · direction + b, and the singular value decomposition of D^{1/2} directionᵀ (M, K).

    Of rank q ≤ min(M, K): direction is (K, M, L), b (K, L), left (M, q, L), singular (q, L), right (K, q, L).
    """

    direction: Any
    b: Any
    left: Any
    singular: Any
    right: Any

    @property
    def largest(self):
        """(L,) largest entry of the direction."""
        xp = namespace(self.direction)
        largest = xp.abs(self.direction).max(axis=(0, 1))
        return xp.where(largest > 0, largest, 1.0)

    def logits(self, size):
        """(K, M, L) at sizes (L,)."""
        return size[None, None] * self.direction + self.b[:, None]

    def factors(self, size, dim):
        """Equally large factors, of `dim` columns, whose product is the line's at sizes (L,), and the bias."""
        half = namespace(size).sqrt(self.singular * size[None])[None]  # (1, q, L)
        return LaneParams(_to_width(self.left * half, dim), _to_width(self.right * half, dim), self.b)


def _line(reduced, frame, lowered, b) -> _Line:
    """The line of a frame D^{1/2} Fᵀ (M, K, L) with singular values lowered by (L,), at rank r."""
    xp = namespace(frame)
    left, singular, right = each(svd, frame)
    right = right.swapaxes(0, 1)
    within_rank = (xp.arange(singular.shape[0]) < reduced.dim)[:, None]
    singular = xp.where(within_rank, xp.maximum(singular - lowered[None], 0.0), 0.0)
    product = xp.einsum("kql,mql->kml", right, left * singular[None])
    return _Line(product / xp.sqrt(reduced.counts)[None], b, left, singular, right)


def _along(reduced, price, line: _Line, size):
    """The objective (L,) on the line, its factors balanced."""
    decay = size * price * line.singular.sum(axis=0) + 0.5 * reduced.lambda_b * (line.b**2).sum(axis=0)
    return (reduced.weights * losses(line.logits(size), reduced)).sum(axis=0) + decay


def _slope_along(reduced, price, line: _Line, size):
    """Its derivative (L,) by the size."""
    risk = (reduced.weights[None] * slopes(line.logits(size), reduced) * line.direction).sum(axis=(0, 1))
    return risk + price * line.singular.sum(axis=0)


def _coarsely(reduced, price, line: _Line):
    """The least value of some sizes on a line, that size, and the line."""
    xp = namespace(price)
    sizes = xp.where(price > 0, xp.asarray(START_SIZES)[:, None], UNPRICED_SIZE) / line.largest[None]
    values = mapped(lambda size: _along(reduced, price, line, size), sizes)
    least = xp.argmin(values, axis=0)
    return _of_lanes(values, least), _of_lanes(sizes, least), line


def _of_lanes(stacked, index):
    """What each lane (the last axis) chooses of the first axis."""
    index = index.reshape((1,) * (stacked.ndim - 1) + index.shape)
    return namespace(stacked).take_along_axis(stacked, index, axis=0)[0]


def random_start(reduced: Reduced, x: np.ndarray, draws: list[np.random.Generator]) -> np.ndarray:
    """Starting points (n, L) with factors as large as those of `x` and directions at random, at a zero bias."""
    size = reduced.factor_size
    noise = np.stack([draw.normal(size=size) for draw in draws], axis=-1)
    start = np.zeros_like(x)
    start[:size] = noise * np.sqrt(np.mean(x[:size] ** 2, axis=0))
    return start


def _newton_on_line(reduced, price, line, size):
    """A Newton step towards the least value on the line, lane by lane, where it is convex."""
    xp = namespace(size)
    first, beside = (_slope_along(reduced, price, line, size * scale) for scale in (1.0, 1.0 + DIFFERENCE))
    second = (beside - first) / (DIFFERENCE * size)
    step = xp.where(second > 0, first / xp.where(second > 0, second, 1.0), 0.0)
    return xp.clip(size - step, 0.8 * size, 1.25 * size)


def _to_width(X, r):
    """The first r columns, or zeros where there are fewer."""
    return namespace(X).pad(X[:, :r], ((0, 0), (0, max(r - X.shape[1], 0)), (0, 0)))


def bias_scale(reduced: Reduced, logits: Any) -> Any:
    """(K, L) of 1/√(curvature along each bias), which spans orders of magnitude where classes do."""
    xp = namespace(logits)
    if reduced.bias_kind == "none":
        return xp.ones((reduced.num_classes, logits.shape[-1]))

    def of_lane(lane, logits):
        return curvatures_of_shifts(lane.loss, logits, lane.targets, lane.weights) + lane.lambda_b

    curvature = by_lane(of_lane, reduced, logits)
    return 1.0 / xp.sqrt(xp.maximum(xp.abs(curvature), 1e-12))
