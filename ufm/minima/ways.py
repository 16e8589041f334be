"""Which way problems are minimised: a function of the problems alone, of how many share a shape and how large they are.

- On sizes, by `ufm.minima.quadrature`: a convex problem in which classes of equal count and weight are exchangeable,
  at a cost that depends on how many different sizes there are.
- At once, in lanes that NumPy goes through: any other whose loss and constraints have their slopes in closed form.
- Compiled, in lanes: many problems of one shape, where compiling pays, and whatever is a user's own.
"""

import enum

from ufm.minima.lane_objective import is_closed
from ufm.minima.reduction import lane_of
from ufm.minima.symmetry import symmetric
from ufm.model.problem import Problem, relaxed_rank

COMPILED_FROM = 256  # problems of one shape, side by side
RANDOM_STARTS = 8  # where a first solution stays uncertified
FEW = 8  # lanes that NumPy goes through whatever their size
HELD_AT_ONCE = 2**14  # numbers of an array of all lanes, up to which NumPy's calls take longer than their work
HELD_ALONE = 2**17  # numbers of a lane, from which compiled code is worth its wait


class Way(enum.Enum):
    """How problems of one shape and kind are minimised."""

    ON_SIZES = "on sizes"
    AT_ONCE = "at once"
    COMPILED = "compiled"


def way_of(problem: Problem, count: int) -> Way:
    """The way of `count` problems that share the shape and kind of one."""
    return Way.ON_SIZES if count < COMPILED_FROM and symmetric(problem) else way_in_lanes(problem, count)


def way_in_lanes(problem: Problem, count: int) -> Way:
    """The same where problems are not solved on sizes, or this didn't settle them."""
    held = lane_of(problem).held
    # what has no certificate is tried from other starts
    lanes = count if problem.dim >= relaxed_rank(problem) else (1 + RANDOM_STARTS) * count
    small = held <= HELD_ALONE and (lanes <= FEW or lanes * held <= HELD_AT_ONCE)
    return Way.AT_ONCE if small and count < COMPILED_FROM and is_closed(problem) else Way.COMPILED
