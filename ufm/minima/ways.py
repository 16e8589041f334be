"""Which way problems are minimised: a function of the problems alone, of how many share a shape and how large they are.

- On moments, by `ufm.minima.moments`: squared error of any targets, of which mean and covariance say all.
- On rows, by `ufm.minima.proximal_newton`: a convex problem of targets, whose groups are rows of their own.
- On sizes, by `ufm.minima.quadrature`: a convex problem in which classes of equal count and weight are exchangeable,
  at a cost that depends on how many different sizes there are.
- At once, in lanes that NumPy goes through: any other whose loss and constraints have their slopes in closed form.
- Compiled, in lanes: many problems of one shape, where compiling pays, and whatever is a user's own.
"""

import enum
from typing import Any

from ufm.minima.lane_objective import is_closed
from ufm.minima.moments import has_moments, stacking_key
from ufm.minima.reduction import lane_of, shape_key
from ufm.minima.rows import on_rows
from ufm.minima.symmetry import symmetric
from ufm.model.problem import Problem, as_classes, relaxed_rank

COMPILED_FROM = 256  # problems of one shape, side by side
RANDOM_STARTS = 8  # where a first solution stays uncertified
FEW = 8  # lanes that NumPy goes through whatever their size
HELD_AT_ONCE = 2**14  # numbers of an array of all lanes, up to which NumPy's calls take longer than their work
HELD_ALONE = 2**17  # numbers of a lane, from which compiled code is worth its wait


class Way(enum.Enum):
    """How problems of one shape and kind are minimised."""

    ON_MOMENTS = "on moments"
    ON_ROWS = "on rows"
    ON_SIZES = "on sizes"
    AT_ONCE = "at once"
    COMPILED = "compiled"


def batch_key(problem: Problem) -> Any:
    """What problems must share to be solved by one call: shape, kind and way."""
    problem = as_classes(problem)
    return (Way.ON_MOMENTS, stacking_key(problem)) if has_moments(problem) else shape_key(problem)


def way_of(problem: Problem, count: int) -> Way:
    """The way of `count` problems that share the shape and kind of one."""
    if has_moments(problem):
        return Way.ON_MOMENTS
    if on_rows(problem):
        return Way.ON_ROWS
    return Way.ON_SIZES if count < COMPILED_FROM and symmetric(problem) else way_in_lanes(problem, count)


def way_in_lanes(problem: Problem, count: int) -> Way:
    """The same where problems are not solved on sizes, or this didn't settle them."""
    held = lane_of(problem).held
    # what has no certificate is tried from other starts
    lanes = count if problem.dim >= relaxed_rank(problem) else (1 + RANDOM_STARTS) * count
    small = held <= HELD_ALONE and (lanes <= FEW or lanes * held <= HELD_AT_ONCE)
    return Way.AT_ONCE if small and count < COMPILED_FROM and is_closed(problem) else Way.COMPILED
