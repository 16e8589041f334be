"""Where the solver starts with hidden layers, which leave other minima than the global one.

A start is a factorisation of logits. All factors are scaled alike to the best point on that line, with which a ReLU
commutes, and L-BFGS goes on from there.

- Linear layers: balanced factors of the logits of a shallow problem, at the price that decay has at the largest of its
  own directions; and of its k largest directions alone, since with three factors or more any number may live.
- With ReLUs: the constructions of `ufm.minima.constructions`, and points near them.
- Both: factors at random.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm._core.arrays import mapped, namespace
from ufm._core.programs import kept
from ufm._core.thresholding import geometric_mean
from ufm.minima.bias import biases_at_zero
from ufm.minima.constructions import constructions
from ufm.minima.deep_linear import balanced, spectrum
from ufm.minima.lane_objective import layers, logits, plain_objective, variables
from ufm.minima.reduction import LaneFactor, LaneParams, Reduced, filled_up
from ufm.minima.shallow import scale_of, shallow
from ufm.minima.starts import START_SIZES, Start, bias_scale
from ufm.model.problem import Problem

FIRST_SIZE = 1e3  # of a direction, whose price is the first: so low that all directions live that may
PRICES = 4  # of shallow problems, each at the size that was found at the one before
MOST_DRAWS = 64  # of factors at random, one of which lets something pass
NEAR = 0.3  # of the root mean square of a construction's factor: by how much the points near it are off

Solve = Callable[[Problem], LaneParams]  # a shallow problem's minimum, in its reduced sizes


def starts_of(problem: Problem, lane: Reduced, solve: Solve) -> Iterator[LaneParams]:
    """Good starts of one problem, in its reduced sizes."""
    if problem.activation == "linear":
        yield from _of_shallow(problem, lane, solve)
    else:
        yield from _constructed(lane)


def random_factors(lane: Reduced, draw: np.random.Generator) -> LaneParams:
    """Factors at random, each as large as makes all decay alike; without a bias.

    They are drawn again while ReLUs let nothing pass, as narrow layers do mostly: such a start ends at the zero point.
    """
    for _ in range(MOST_DRAWS - 1):
        drawn = _drawn(lane, draw)
        if np.any(layers(jax.tree.map(lambda part: part[..., None], drawn), lane)[-1]):
            return drawn
    return _drawn(lane, draw)


def _drawn(lane: Reduced, draw: np.random.Generator) -> LaneParams:
    """The same, whether anything passes or not."""
    factors = (draw.normal(size=(f.rows, f.dim)) / np.sqrt(f.rows * f.dim * _priced(f)) for f in lane.factors())
    return lane.assembled(factors, np.zeros(lane.num_classes))


def near(start: LaneParams, lane: Reduced, draw: np.random.Generator) -> LaneParams:
    """Factors that are a little off those of a start, so that no entry that a ReLU stops is exactly zero."""
    matrices = [f.of(start) for f in lane.factors()]
    sizes = [NEAR * np.sqrt(np.mean(matrix**2)) for matrix in matrices]
    moved = (X + size * draw.normal(size=X.shape) for X, size in zip(matrices, sizes, strict=True))
    return lane.assembled(moved, start.b)


def _priced(factor) -> float:
    """Decay of a factor, per unit; 1 where a constraint bounds what costs nothing."""
    mean = float(np.mean(factor.row_decay))
    return mean if mean > 0 else 1.0


class _Logits(NamedTuple):
    """Logits Z (M, K) without the bias b (K,), and the singular values (1, q) and right vectors of Π^{1/2}Z."""

    Z: np.ndarray
    b: np.ndarray
    s: np.ndarray
    V: np.ndarray


def _of_shallow(problem: Problem, lane: Reduced, solve: Solve) -> Iterator[LaneParams]:
    """Balanced factors of a shallow problem's logits, and of their largest directions, halving how many."""
    found = _at_its_price(problem, lane, solve)
    if found is None:
        return
    factors = lane.factors()
    decays = np.array([[_priced(f) for f in factors]])
    decays[0, 0] = float(lane.counts.sum() * lane.lambda_H) or 1.0
    columns = tuple(f.dim for f in factors[1:])
    living = min(int(np.count_nonzero(found.s > 0)), *columns)
    while living:
        x = np.where(np.arange(found.s.shape[1]) < living, found.s, 0.0)
        to_H, W, A = balanced(found.s, found.V, x, geometric_mean(decays)[:, None] / decays, columns)
        yield lane.assembled(_filled_up([found.Z @ to_H[0], *(layer[0] for layer in W), A[0]], factors), found.b)
        living //= 2


def _at_its_price(problem: Problem, lane: Reduced, solve: Solve) -> _Logits | None:
    """Logits of the shallow problem that prices a direction as the deep one does at the size of the largest.

    Prices rise from the first towards that, for what costs more is smaller and costs yet more. None where the price
    isn't one, or leaves no direction.
    """
    scale, roots = scale_of(problem), np.sqrt(lane.counts / lane.counts.sum())
    found, size = None, FIRST_SIZE
    for _ in range(PRICES):
        priced = shallow(problem, scale * size ** (2.0 / (2 + len(problem.widths)) - 1.0))
        at = None if priced is None else solve(priced)
        if at is None or not np.any(at.A):
            break
        Z = at.H @ at.A.T
        s, V = spectrum(Z[None], roots[None], np.zeros((1, Z.shape[1])))
        found, size = _Logits(Z, at.b, s, V), float(s[0, 0])
    return found


def _constructed(lane: Reduced) -> Iterator[LaneParams]:
    """Constructions of the targets, and of these less their mean over outputs, as cross-entropies have them."""
    rows = np.eye(lane.num_classes)[lane.targets] if lane.rows is None else lane.rows
    columns, factors = (lane.dim, *lane.widths), lane.factors()
    for T in (rows, rows - rows.mean(axis=1, keepdims=True)):
        for built in constructions(T, columns):
            if not all(map(np.any, built.factors)):  # of targets that are zero: the zero point is no start
                continue
            filled_up = _filled_up(built.factors, factors)
            alike = (X / np.sqrt(np.sum(X**2) * _priced(f)) for X, f in zip(filled_up, factors, strict=True))
            yield lane.assembled(alike, np.zeros(lane.num_classes))


def _filled_up(matrices: Iterable[np.ndarray], factors: Iterable[LaneFactor]) -> list[np.ndarray]:
    """Matrices in as many rows and columns as their factors have."""
    return [filled_up(X, (f.rows, f.dim)) for X, f in zip(matrices, factors, strict=True)]


@kept
def started(params: LaneParams, reduced: Reduced) -> Start:
    """The best point on the line of each start, all factors growing alike, as the solver has it."""
    xp, factors = namespace(reduced.weights), reduced.factors()
    outputs = logits(params, reduced) - params.b[:, None]
    largest = xp.abs(outputs).max(axis=(0, 1))
    sizes = xp.asarray(START_SIZES)[:, None] / xp.where(largest > 0, largest, 1.0)

    def at(size):
        grown = size ** (1.0 / len(factors))
        return reduced.assembled((f.of(params) * grown for f in factors), params.b)

    values = mapped(lambda size: plain_objective(at(size), reduced), sizes)
    least = xp.argmin(xp.where(xp.isnan(values), xp.inf, values), axis=0)
    best = at(xp.take_along_axis(sizes, least[None], axis=0)[0])
    scale = bias_scale(reduced, logits(best, reduced))
    scaled = reduced.assembled((_in_variables(f, f.of(best)) for f in factors), params.b)
    x = variables(scaled, dataclasses.replace(reduced, bias_scale=scale))
    return Start(x, scale, biases_at_zero(reduced))


def _in_variables(factor: Any, matrix: Any) -> Any:
    """A factor in the solver's scale, in which decay is half a squared norm."""
    xp, decay = namespace(matrix), factor.row_decay
    return matrix * xp.sqrt(xp.where(decay > 0, decay, 1.0))[:, None]
