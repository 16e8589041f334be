"""When a minimisation has ended, and how."""

from typing import NamedTuple

import numpy as np

from ufm._core.arrays import namespace
from ufm._core.lanes import dot
from ufm._core.status import Status

RESOLUTION = 1e-12  # relative; below it a decrease drowns in rounding and the slope decides (Hager & Zhang 2005)


class Solution(NamedTuple):
    """M minimisations: x (n, M), value (M,), steps (M,) and a status each."""

    x: np.ndarray
    value: np.ndarray
    steps: np.ndarray
    status: list[Status]


def small_gradient(x, f, g, tol, floor):
    """Whether the gradient is as small as asked, or as rounding lets it be; lane by lane."""
    xp, squares = namespace(x, f, g), dot(x, x)
    # coordinate by coordinate, since some may be large and settled; the norms guard against vanishing ones
    gap = xp.maximum(dot(xp.abs(g), xp.abs(x)), 1e-3 * xp.sqrt(dot(g, g) * squares))
    rounding = xp.maximum(0.1 * np.finfo(np.float64).eps * xp.abs(f), floor)
    return gap <= xp.maximum(tol * xp.minimum(xp.abs(f), squares), rounding)
