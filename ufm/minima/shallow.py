"""Shallow problems beneath one with hidden layers, which bound it from below.

Let a problem have L factors, C = (N λ_H Π λ_W λ_A)^{1/L}, and Z be the logits without their bias, of which Π^{1/2}Z,
Π = diag(n_m/N), has the nuclear norm z. What a layer gives, linear or with a ReLU, is in norm at most its matrix times
what it is given, so z is at most the product of the factors' norms, and by the inequality of means

    decay ≥ D(z) = (L/2) C z^{2/L},    f* ≥ min over z ≥ 0 of R(z) + D(z),

R(z) being the least risk of logits of norm z. For L = 2 both are equalities; so the minimum S(p) of the shallow problem
in which a unit of z costs p has R(z) ≥ S(p) − p z for all z. The largest of these lines, of any prices, is convex and
linear between its kinks, where D is concave: the sum is least at one of the kinks, at z = 0, or nowhere below the
infimum. So a few shallow problems give a bound, and another at a price between those of the two lines that meet in the
least kink raises it. It ends below f* where layers need more than one direction.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ufm._core.precision import allowance
from ufm.minima.reduction import lane_of
from ufm.model.constraints import Free
from ufm.model.factors import common_decay
from ufm.model.losses import facts_of
from ufm.model.problem import LARGEST_DECAY, SMALLEST_DECAY, Problem, relaxed_rank

FIRST_FACTOR = 1e3  # between the prices of a unit of z that are tried first
WORTH = 1e-3  # of the distance to a value, by which another price has to raise the bound
MOST_LINES = 64


class Line(NamedTuple):
    """R(z) ≥ at_zero − price z for all z ≥ 0."""

    price: float
    at_zero: float


def scale_of(problem: Problem) -> float:
    """C; 0 where a factor costs nothing."""
    return common_decay(problem.factors(), problem.num_samples)


def shallow(problem: Problem, price: float) -> Problem | None:
    """The problem without hidden layers and constraints, in which a unit of z costs `price`; None beyond legal decays.

    It has as many dimensions as its relaxation needs.
    """
    decay = price / np.sqrt(problem.num_samples)
    if not SMALLEST_DECAY <= decay <= LARGEST_DECAY:
        return None
    without = dataclasses.replace(
        problem,
        widths=(),
        lambda_W=None,
        activation="linear",
        features=Free(),
        classifier=Free(),
        lambda_H=decay,
        lambda_A=decay,
    )
    return dataclasses.replace(without, dim=max(relaxed_rank(without), 1))


def price_at(problem: Problem, height: float) -> float:
    """D(z)/z where D(z) is `height`: what a unit of z costs at least where decay is no more."""
    L, C = 2 + len(problem.widths), scale_of(problem)
    return 0.5 * L * C * (2.0 * height / (L * C)) ** (1.0 - 0.5 * L)


def infimum_of(problem: Problem) -> float:
    """What the objective is nowhere below, since the risk isn't; −∞ where the loss isn't convex, and says nothing."""
    if not facts_of(problem.loss).convex:
        return -np.inf
    lane = lane_of(problem)
    return float(np.asarray(lane.weights) @ np.asarray(lane.infima))


def bound_of(problem: Problem, lines: list[Line]) -> tuple[float, tuple[Line, Line] | None]:
    """What lines make of a problem's bound, up to rounding, and the two that meet where it is attained, if it isn't 0.

    The infimum is a line too, at no price.
    """
    hull = _hull([*lines, Line(0.0, infimum_of(problem))])
    L, C = 2 + len(problem.widths), scale_of(problem)
    steepest = hull[0].at_zero
    least, where = steepest - allowance() * abs(steepest), None
    for upper, lower in itertools.pairwise(hull):
        z = (upper.at_zero - lower.at_zero) / (upper.price - lower.price)
        parts = np.array([lower.at_zero, -lower.price * z, 0.5 * L * C * z ** (2.0 / L)])
        there = float(parts.sum() - allowance() * np.abs(parts).sum())
        if there < least:
            least, where = there, (upper, lower)
    return least, where


def _hull(lines: list[Line]) -> list[Line]:
    """Those that are the largest somewhere on z ≥ 0, from z = 0 on: prices and heights fall."""
    kept: list[Line] = []
    for line in sorted(lines, key=lambda line: (-line.price, -line.at_zero)):
        while kept and kept[-1].at_zero <= line.at_zero:
            kept.pop()  # steeper, and below from the start
        while len(kept) > 1 and _meet(kept[-1], line) <= _meet(kept[-2], kept[-1]):
            kept.pop()
        if not kept or kept[-1].price > line.price:
            kept.append(line)
    return kept


def _meet(steeper: Line, other: Line) -> float:
    """The z at which they do."""
    gap = steeper.price - other.price
    return (steeper.at_zero - other.at_zero) / gap if gap > 0 else np.inf


def raised_bound(problem: Problem, value: float, tol: float, solve: Callable[[Problem], float]) -> float:
    """The bound from shallow problems at ever better prices, until it is near a value or gains little.

    Args:
        problem: with hidden layers.
        value: of the objective somewhere.
        tol: relative distance to the value that is near enough.
        solve: gives a lower bound of a shallow problem.
    """
    infimum = infimum_of(problem)
    if not (scale_of(problem) > 0 and np.isfinite(infimum) and value > infimum):
        return infimum
    first = price_at(problem, value - infimum)
    lines: list[Line] = []

    def add(price):
        posed = shallow(problem, price)
        if posed is not None:
            lines.append(Line(price, solve(posed)))
        return bound_of(problem, lines)

    for price in (first / FIRST_FACTOR, first, first * FIRST_FACTOR):
        bound, where = add(price)
    while where is not None and len(lines) < MOST_LINES and value - bound > tol * abs(value):
        steep, flat = where
        before = bound
        bound, where = add(np.sqrt(steep.price * flat.price) if flat.price > 0 else steep.price / FIRST_FACTOR)
        if bound - before <= WORTH * (value - bound):
            break
    return bound
