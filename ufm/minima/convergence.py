"""When a minimisation has ended, and how."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ufm._core.lanes import dot
from ufm._core.programs import kept
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
    squares = dot(x, x)
    # coordinate by coordinate, since some may be large and settled; the norms guard against vanishing ones
    gap = jnp.maximum(dot(jnp.abs(g), jnp.abs(x)), 1e-3 * jnp.sqrt(dot(g, g) * squares))
    rounding = jnp.maximum(0.1 * np.finfo(np.float64).eps * jnp.abs(f), floor)
    return gap <= jnp.maximum(tol * jnp.minimum(jnp.abs(f), squares), rounding)


has_converged = kept(small_gradient)
