"""The landscape's curvature: the Hessian's smallest eigenvalue at any parameters with its direction, or all of them."""

import dataclasses
import functools as ft
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.blas import one_thread
from ufm._core.blocks import LOGITS_IN_BLOCK
from ufm._core.interrupts import interruptible
from ufm._core.precision import float64
from ufm._core.programs import kept
from ufm._core.spectra import Spectrum, lines
from ufm.model.constraints import Free
from ufm.model.factors import assembled
from ufm.model.params import Params, columns
from ufm.model.problem import Problem, risk, with_values
from ufm.model.second_order import has_closed_hessian, hessian

DENSE_UP_TO = 600  # coordinates, up to which the Hessian is formed for one eigenvalue
WHOLE_UP_TO = 4_000  # and up to which for all
ENDS = 6  # how many eigenvalues are found at either end beyond


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

    Where the samples of each group coincide and where dimensions are unused, fewer coordinates hold the eigenvector.
    Dense for up to 600 of them, beyond by Lanczos on Hessian-vector products (ARPACK) to 1e-10. Constraints are
    not considered: on a sphere it is the curvature of the ambient objective.

    Args:
        problem: any problem whose loss is twice differentiable.
        params: H (N, d), A (K, d), b (K,).

    Raises:
        ValueError: where a shape is not the problem's, or a parameter is NaN or infinite.
    """
    params = with_values(problem).finite_params(params)
    return _curvature(problem, params, _coordinates(problem, params))


@interruptible
def spectrum(problem: Problem, params: Params) -> Spectrum:
    """The spectrum of the objective's Hessian in all its parameters, with multiplicities, in float64.

    Where the samples of each group coincide and where dimensions are unused, blocks that are alike are looked at once:
    the cost depends neither on how many samples a group has nor on how many dimensions nothing uses. Complete for up to
    4,000 coordinates of what is left (K classes at a collapsed point have about 2K² + K); beyond by Lanczos (ARPACK) to
    1e-10, a few eigenvalues at either end, with `complete` False: least and largest are right, of copies some may be
    missing. Constraints are not considered.

    Args:
        problem: any problem whose loss is twice differentiable.
        params: H (N, d), A (K, d), b (K,).

    Returns:
        `Spectrum`, whose `values` ascend, in the unit of the objective over the squared unit of the parameters.

    Raises:
        ValueError: where a shape is not the problem's, or a parameter is NaN or infinite.
    """
    params = with_values(problem).finite_params(params)
    return _spectrum(problem, _coordinates(problem, params))


def _spectrum(problem: Problem, within: "_Coordinates") -> Spectrum:
    """The spectrum in coordinates that hold all of it."""
    model = within.groups, within.sizes, problem.lambda_H
    with float64(), one_thread():
        if within.start.size <= WHOLE_UP_TO:
            return _all_lines(problem, within, _matrix(model, within.start))
        values, _ = _lanczos(_products(model, within.start), within.start.size, 2 * ENDS, "BE")
    return lines(values, np.ones(len(values), int), complete=False)


def dense_spectrum(problem: Problem, params: Params) -> Spectrum | None:
    """`spectrum` where that is quick; elsewhere None."""
    within = _few(problem, params)
    return None if within is None else _spectrum(problem, within)


def dense_curvature(problem: Problem, params: Params) -> Curvature | None:
    """`curvature` where that is quick, from a Hessian that can be formed; elsewhere None."""
    within = _few(problem, params)
    return None if within is None else _curvature(problem, params, within)


def _few(problem: Problem, params: Params) -> "_Coordinates | None":
    """Coordinates where few enough are left for the Hessian to be formed in a moment."""
    params = problem.finite_params(params)
    if len(_moving(problem, params.H)[0]) + problem.num_classes > DENSE_UP_TO:  # rows, of one coordinate at least
        return None
    within = _coordinates(problem, params)
    return within if within.start.size <= DENSE_UP_TO else None


@dataclasses.dataclass(frozen=True, eq=False)
class _Coordinates:
    """Orthonormal coordinates of a space that is sure to hold an eigenvector of the smallest eigenvalue.

    Let the samples of each group coincide. To second order a move v of features that leaves their means as they are
    costs λ_H/2 ‖v‖² + (w_k/2N) Σ_i ⟨Av_i, ∇²ℓ_k Av_i⟩; all samples of the group moving by one v_i/‖v_i‖, scaled to ‖v‖,
    cost no more for the best i. So the smallest eigenvalue is one of moves of whole groups.

    Let H and the factor that it meets, A or the first hidden layer, use s of d dimensions. The Hessian is block
    diagonal in the dimensions used and each of the others, which all have one block: one unused dimension stands for
    them.

    Attributes:
        groups: the problem of as many samples as move by themselves, in the dimensions of `basis`, without λ_H.
        sizes: (M,) roots of how many samples move together.
        labels: (N,) which of them each sample moves with.
        basis: (s + 1, d) orthonormal rows that span the dimensions used and an unused one, where there is one.
        unused: d − s, how many it stands for.
        start: the parameters in these coordinates: H scaled by `sizes`, W, A, and b where there is one.
    """

    groups: Problem
    sizes: np.ndarray
    labels: np.ndarray
    basis: np.ndarray
    unused: int
    start: np.ndarray


def _coordinates(problem: Problem, params: Params) -> _Coordinates:
    H, counts, labels = _moving(problem, params.H)
    basis, used = _dimensions(np.vstack([H, problem.factors()[1].of(params)]))
    free: Any = {"features": Free(), "classifier": Free(), "lambda_H": 0.0}
    if len(H) < problem.num_samples:  # the mean is over groups instead
        weights = problem.group_weights * counts * (problem.num_groups / problem.num_samples)
        if problem.targets is None:
            free |= {"per_class": 1, "class_weights": weights}
        else:
            free |= {"targets": dataclasses.replace(problem.targets, counts=1, weights=weights)}
    groups, sizes = dataclasses.replace(problem, dim=len(basis), **free), np.sqrt(counts)
    within = _turned(problem, params._replace(H=sizes[:, None] * H), basis.T)
    return _Coordinates(groups, sizes, labels, basis, problem.dim - used, _packed(groups, within))


def _turned(problem: Problem, params: Params, axes: np.ndarray) -> Params:
    """Parameters whose features' dimensions are turned by `axes` (from, to), in H and in the factor that it meets."""
    factors = problem.factors()
    H, reader, *others = (factor.of(params) for factor in factors)
    return assembled(factors, [H @ axes, reader @ axes, *others], params.b, Params)


def _moving(problem: Problem, H: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that move by themselves, how many samples each stands for, and which of them each sample is: (N,)."""
    counts = problem.group_counts
    first, labels = np.cumsum(counts) - counts, np.repeat(np.arange(problem.num_groups), counts)
    if np.array_equal(H, H[first][labels]):
        return H[first], counts, labels
    return H, np.ones(problem.num_samples), np.arange(problem.num_samples)


def _dimensions(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """(s + 1, d) orthonormal rows, no more than d, whose first s span the given ones (m, d); and s."""
    _, sizes, basis = np.linalg.svd(np.vstack([rows, np.zeros_like(rows[:1])]), full_matrices=False)
    used = int(np.sum(sizes > np.finfo(float).eps * max(rows.shape) * sizes[0]))
    return basis[: used + 1], used


def _curvature(problem: Problem, params: Params, within: _Coordinates) -> Curvature:
    """The smallest eigenpair, as parameters of the problem as posed."""
    with float64(), one_thread():
        value, vector = _smallest((within.groups, within.sizes, problem.lambda_H), within.start)
    found = _unpacked(within.groups, vector)
    found = _turned(problem, found._replace(H=found.H / within.sizes[:, None]), within.basis)
    return Curvature(float(value), found._replace(H=found.H[within.labels]))


def _packed(problem: Problem, params: Params) -> np.ndarray:
    """One vector (..., n) of all parameters (..., rows, columns), without a bias where the problem has none."""
    lead = params.b.shape[:-1]
    factors = [factor.of(params).reshape(*lead, -1) for factor in problem.factors()]
    return np.concatenate([*factors, *([params.b] if problem.bias else [])], axis=-1)


def _unpacked(problem: Problem, x: Any) -> Params:
    """Parameters (..., rows, columns) of one vector (..., n)."""
    lead = x.shape[:-1]
    factors = problem.factors()
    ends = list(itertools.accumulate(math.prod(factor.shape) for factor in factors))
    matrices = (
        x[..., end - math.prod(factor.shape) : end].reshape(*lead, *factor.shape)
        for factor, end in zip(factors, ends, strict=True)
    )
    b = x[..., ends[-1] :] if problem.bias else np.zeros((*lead, problem.num_classes))
    return assembled(factors, matrices, b, Params)


def _smallest(model, x):
    """Smallest eigenpair of the Hessian of the objective at x."""
    if len(x) <= DENSE_UP_TO:
        values, vectors = np.linalg.eigh(_matrix(model, x))
    else:
        values, vectors = _lanczos(_products(model, x), len(x), 1, "SA")
    return values[0], vectors[:, 0]


def _lanczos(product, size: int, count: int, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues at an end of a spectrum, or at both, and their vectors."""
    from scipy.sparse.linalg import LinearOperator, eigsh  # half a second, which most never need

    matvec: Any = {"matvec": lambda v: np.asarray(product(np.ravel(v))), "dtype": np.float64}
    operator = LinearOperator(shape=(size, size), **matvec)
    start = np.random.default_rng(0).normal(size=size)
    options: Any = {"k": count, "which": which, "tol": 1e-10, "v0": start, "ncv": 80, "maxiter": 20_000}
    values, vectors = eigsh(operator, **options)
    return values, vectors


def _products(model, x):
    """The Hessian at x as a function of vectors, in closed form where there is one, else by JAX."""
    return _closed_product(model, x) if has_closed_hessian(model[0]) else ft.partial(_product, model, x)


def _matrix(model, x) -> np.ndarray:
    """The Hessian (n, n) at x."""
    is_closed = has_closed_hessian(model[0])
    return _all_products(_products(model, x), model[0], len(x)) if is_closed else np.asarray(_hessian(model, x))


def _all_lines(problem: Problem, within: _Coordinates, matrix: np.ndarray) -> Spectrum:
    """All eigenvalues, from the Hessian of whole groups' moves in the dimensions used and an unused one.

    Features meet one another in no other group's logits: their own block of a group's is diagonal, and is the Hessian
    of the moves of samples about their mean, of which there are n − 1 in each direction.
    """
    groups = within.groups
    beyond = _in_last_dimension(groups, len(matrix)) & (within.unused > 0)
    parts = [(matrix[np.ix_(~beyond, ~beyond)], 1), (matrix[np.ix_(beyond, beyond)], within.unused)]
    d, counts = groups.dim, np.rint(within.sizes**2).astype(int)
    used = d - (within.unused > 0)
    for group, count in enumerate(counts):
        if count > 1:
            block = slice(group * d, group * d + used)
            parts.append((matrix[block, block], count - 1))
    values = [np.linalg.eigvalsh(part) for part, _ in parts]
    times = [np.full(len(part), count) for part, count in parts]
    about = np.sum(counts - 1) * within.unused  # samples that move where nothing is
    return lines(np.append(np.concatenate(values), problem.lambda_H), np.append(np.concatenate(times), about))


def _in_last_dimension(problem: Problem, size: int) -> np.ndarray:
    """(n,) which coordinates are of the features' last dimension, in H and in the factor that reads it."""
    factors = problem.factors()
    rows = [factor.shape[0] for factor in factors[:2]]
    of_both = np.arange(size) < sum(rows) * problem.dim
    return of_both & (np.arange(size) % problem.dim == problem.dim - 1)


def _closed_product(model, x):
    """The Hessian at x as a function of vectors (..., n), in NumPy."""
    groups, sizes, decay = model
    scale = sizes[:, None]

    def scaled(params):
        return params._replace(H=params.H / scale)

    product = hessian(groups, scaled(_unpacked(groups, x)))

    def of(v):
        move = _unpacked(groups, v)
        found = scaled(product(scaled(move)))
        return _packed(groups, found._replace(H=found.H + decay * move.H))

    return of


def _all_products(product, problem, size):
    """The Hessian (n, n), a row a product, as many at once as their logits allow."""
    at_once = max(LOGITS_IN_BLOCK // (problem.num_samples * problem.num_classes), 1)
    rows = np.eye(size)
    return np.vstack([product(rows[first : first + at_once]) for first in range(0, size, at_once)])


def _value(model, x):
    """The objective at coordinates x; features decay in their own, whatever number of samples moves together."""
    groups, sizes, decay = model
    params = _unpacked(groups, x)
    moved = params._replace(H=params.H / sizes[:, None])
    return risk(groups, columns(moved)) + 0.5 * decay * jnp.sum(params.H**2)


@kept
def _hessian(model, x):
    return jax.hessian(_value, argnums=1)(model, x)


@kept
def _product(model, x, v):
    return jax.jvp(jax.grad(ft.partial(_value, model)), (x,), (v,))[1]
