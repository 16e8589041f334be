"""Newton's method on one problem, for what L-BFGS leaves unfinished."""

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.arrays import silent
from ufm._core.interrupts import check
from ufm._core.lanes import take
from ufm._core.precision import to_numpy
from ufm._core.programs import kept, made_once
from ufm._core.status import Status
from ufm.minima.convergence import RESOLUTION, Solution, small_gradient
from ufm.minima.lbfgs import value_and_grad

NEWTON_STEPS = 100
DAMPINGS = 14  # tried for a Newton step before giving up
NEWTON_SIZE = 3000  # variables up to which a dense Hessian is formed
DIFFERENCE = 5e-6  # of a variable, relative to the largest: half the digits, where a Hessian is one of differences
HESSIAN_HELD = 2**22  # numbers of the largest arrays while it is formed, by as many rows at a time as that allows


def polish(fun, found: Solution, lane: int, args, tol, floor, held, compiled) -> None:
    """Newton's method on one problem that L-BFGS left unfinished, damped until the step descends.

    Curvatures enter by their size, since the valley floor may be concave; directions without any, as rotations are,
    are left alone.
    """
    if found.status[lane] is Status.DIVERGED:
        return
    value_and_slope, hessian = _derivatives(fun) if compiled else _differences(fun)
    x = found.x[:, lane]
    f, g = to_numpy(value_and_slope(x, args))
    damping = 0.0
    for _ in range(NEWTON_STEPS):
        check()
        if small_gradient(x[:, None], f, g[:, None], tol, floor)[0]:
            found.status[lane] = Status.CONVERGED
            break
        values, vectors = np.linalg.eigh(np.asarray(hessian(x, args, held)))
        steepest = np.abs(values).max()
        along = vectors.T @ g
        for _ in range(DAMPINGS):
            curvatures = np.abs(values) + damping
            flat = curvatures <= 1e-13 * steepest
            trial = x - vectors @ np.where(flat, 0.0, along / np.where(flat, 1.0, curvatures))
            trial_f, trial_g = to_numpy(value_and_slope(trial, args))
            closer = np.linalg.norm(trial_g) < np.linalg.norm(g)
            if trial_f < f - RESOLUTION * abs(f) or (trial_f <= f + RESOLUTION * abs(f) and closer):
                break
            damping = max(10.0 * damping, 1e-9 * steepest)
        else:
            break
        x, f, g, damping = trial, trial_f, trial_g, damping / 10.0
    found.x[:, lane], found.value[lane] = x, f


@made_once
def _derivatives(fun):
    """Value with gradient, and Hessian, of a single lane whose largest arrays hold so many numbers."""

    def value_and_slope(x, args):
        value, slope = value_and_grad(fun, x[:, None], args)
        return value[0], slope[:, 0]

    def hessian(x, args, held):
        _, pull = jax.vjp(lambda x: value_and_slope(x, args)[1], x)
        coordinates, rows = jnp.arange(x.shape[0]), max(HESSIAN_HELD // held, 1)
        return jax.lax.map(lambda i: pull((coordinates == i).astype(x.dtype))[0], coordinates, batch_size=rows)

    return kept(value_and_slope), kept(hessian, static_argnums=2)


def _differences(fun):
    """The same in NumPy: the Hessian by central differences of the gradient, of as many rows at once as fit."""

    def value_and_slope(x, args):
        with silent():
            value, slope = value_and_grad(fun, x[:, None], args)
        return value[0], slope[:, 0]

    def hessian(x, args, held):
        n, step = len(x), DIFFERENCE * np.abs(x).max()
        rows = np.empty((n, n))
        for some in np.array_split(np.arange(n), -(-2 * n * held // HESSIAN_HELD)):
            moves = step * np.eye(n)[:, some]
            lanes = take(args, np.zeros(2 * len(some), int))
            with silent():
                slopes = value_and_grad(fun, x[:, None] + np.concatenate([moves, -moves], axis=1), lanes)[1]
            rows[some] = (slopes[:, : len(some)] - slopes[:, len(some) :]).T / (2 * step)
        return 0.5 * (rows + rows.T)

    return value_and_slope, hessian
