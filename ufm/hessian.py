"""The landscape's curvature: the Hessian's smallest eigenvalue at any parameters, and its direction."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._interrupts import interruptible
from ufm._precision import float64
from ufm.problem import Params, Problem, columns, risk

DENSE_UP_TO = 600  # parameters, up to which the Hessian is formed


class Curvature(NamedTuple):
    """Smallest eigenvalue of the Hessian and a unit eigenvector.

    Attributes:
        smallest: in the unit of the objective over the squared unit of the parameters.
        direction: `Params` of norm 1; b is zero where the problem has no bias.
    """

    smallest: float
    direction: Params


@interruptible
def curvature(problem: Problem, params: Params) -> Curvature:
    """Smallest Hessian eigenvalue of the objective in all its parameters, in float64.

    Dense for up to 600 parameters, beyond by Lanczos on Hessian-vector products (ARPACK) to 1e-10. Constraints are
    not considered: on a sphere it is the curvature of the ambient objective.

    Args:
        problem: any problem whose loss is twice differentiable.
        params: H (N, d), A (K, d), b (K,).

    Raises:
        ValueError: where a shape is not the problem's.
    """
    params = problem.check_params(params)
    shapes = [(problem.num_samples, problem.dim), (problem.num_classes, problem.dim), (problem.num_classes,)]
    shapes = shapes if problem.bias else shapes[:2]
    sizes = [int(np.prod(shape)) for shape in shapes]

    def unpack(x: Any) -> Params:
        parts = np.split(x, np.cumsum(sizes)[:-1]) if isinstance(x, np.ndarray) else jnp.split(x, np.cumsum(sizes)[:-1])
        H, A, *b = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return Params(H, A, b[0] if problem.bias else np.zeros(problem.num_classes))

    x = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in params[: len(shapes)]])
    with float64():
        value, vector = _smallest(lambda x: risk(problem, columns(unpack(x))), x)
    return Curvature(float(value), unpack(vector))


def _smallest(fun, x):
    """Smallest eigenpair of the Hessian of `fun` at x."""
    if len(x) <= DENSE_UP_TO:
        values, vectors = np.linalg.eigh(np.asarray(jax.hessian(fun)(jnp.asarray(x))))
        return values[0], vectors[:, 0]
    from scipy.sparse.linalg import LinearOperator, eigsh  # half a second, which most never need

    product = jax.jit(lambda v: jax.jvp(jax.grad(fun), (jnp.asarray(x),), (v,))[1])
    matvec: Any = {"matvec": lambda v: np.asarray(product(jnp.asarray(v))), "dtype": np.float64}
    operator = LinearOperator(shape=(len(x), len(x)), **matvec)
    start = np.random.default_rng(0).normal(size=len(x))
    options: Any = {"k": 1, "which": "SA", "tol": 1e-10, "v0": start, "ncv": 80, "maxiter": 20_000}
    values, vectors = eigsh(operator, **options)
    return values[0], vectors[:, 0]
