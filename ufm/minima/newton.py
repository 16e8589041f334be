"""Newton's method on one problem, for what L-BFGS leaves unfinished."""

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.interrupts import check
from ufm._core.precision import to_numpy
from ufm._core.programs import kept, made_once
from ufm._core.status import Status
from ufm.minima.convergence import RESOLUTION, Solution, small_gradient

NEWTON_STEPS = 100
DAMPINGS = 14  # tried for a Newton step before giving up
NEWTON_SIZE = 3000  # variables up to which a dense Hessian is formed
HESSIAN_HELD = 2**22  # numbers of the largest arrays while it is formed, by as many rows at a time as that allows


def polish(fun, found: Solution, lane: int, args, tol, floor, held) -> None:
    """Newton's method on one problem that L-BFGS left unfinished, damped until the step descends.

    Curvatures enter by their size, since the valley floor may be concave; directions without any, as rotations are,
    are left alone.
    """
    if found.status[lane] is Status.DIVERGED:
        return
    value_and_grad, hessian = _derivatives(fun)
    x = found.x[:, lane]
    f, g = to_numpy(value_and_grad(x, args))
    damping = 0.0
    for _ in range(NEWTON_STEPS):
        check()
        if small_gradient(jnp.asarray(x)[:, None], f, jnp.asarray(g)[:, None], tol, floor)[0]:
            found.status[lane] = Status.CONVERGED
            break
        values, vectors = np.linalg.eigh(np.asarray(hessian(x, args, held)))
        steepest = np.abs(values).max()
        along = vectors.T @ g
        for _ in range(DAMPINGS):
            curvatures = np.abs(values) + damping
            flat = curvatures <= 1e-13 * steepest
            trial = x - vectors @ np.where(flat, 0.0, along / np.where(flat, 1.0, curvatures))
            trial_f, trial_g = to_numpy(value_and_grad(trial, args))
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

    def value(x, args):
        return fun(x[:, None], args)[0]

    def hessian(x, args, held):
        _, pull = jax.vjp(lambda x: jax.grad(value)(x, args), x)
        coordinates, rows = jnp.arange(x.shape[0]), max(HESSIAN_HELD // held, 1)
        return jax.lax.map(lambda i: pull((coordinates == i).astype(x.dtype))[0], coordinates, batch_size=rows)

    return kept(jax.value_and_grad(value)), kept(hessian, static_argnums=2)
