"""The landscape's curvature: the Hessian's smallest eigenvalue at any parameters, and its direction."""

import functools as ft
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm._core.interrupts import interruptible
from ufm._core.precision import float64
from ufm._core.programs import kept
from ufm.model.params import Params, columns
from ufm.model.problem import Problem, as_problem, risk

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
        ValueError: where a shape is not the problem's, or a parameter is NaN or infinite.
    """
    params = as_problem(problem).finite_params(params)
    x = np.concatenate([params.H.ravel(), params.A.ravel(), *([params.b] if problem.bias else [])])
    with float64():
        value, vector = _smallest(problem, x)
    return Curvature(float(value), _unpack(problem, vector))


def _unpack(problem: Problem, x: Any) -> Params:
    """Parameters of one vector, which holds no bias where the problem has none."""
    N, K, d = problem.num_samples, problem.num_classes, problem.dim
    H, A, b = x[: N * d].reshape(N, d), x[N * d : (N + K) * d].reshape(K, d), x[(N + K) * d :]
    return Params(H, A, b if problem.bias else np.zeros(K))


def _smallest(problem, x):
    """Smallest eigenpair of the Hessian of the objective at x."""
    if len(x) <= DENSE_UP_TO:
        values, vectors = np.linalg.eigh(np.asarray(_hessian(problem, x)))
        return values[0], vectors[:, 0]
    from scipy.sparse.linalg import LinearOperator, eigsh  # half a second, which most never need

    matvec: Any = {"matvec": lambda v: np.asarray(_product(problem, x, np.ravel(v))), "dtype": np.float64}
    operator = LinearOperator(shape=(len(x), len(x)), **matvec)
    start = np.random.default_rng(0).normal(size=len(x))
    options: Any = {"k": 1, "which": "SA", "tol": 1e-10, "v0": start, "ncv": 80, "maxiter": 20_000}
    values, vectors = eigsh(operator, **options)
    return values[0], vectors[:, 0]


def _value(problem, x):
    return risk(problem, columns(_unpack(problem, x)))


@kept
def _hessian(problem, x):
    return jax.hessian(_value, argnums=1)(problem, x)


@kept
def _product(problem, x, v):
    return jax.jvp(jax.grad(ft.partial(_value, problem)), (x,), (v,))[1]
