"""Decompositions of matrices: NumPy's at once, and in JAX such as programs of several threads may do side by side."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ufm._core.arrays import either, namespace

ROWS_AT_ONCE = 4096  # of a long matrix


def in_turn(decompose: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`decompose` of a matrix; under `vmap` on a CPU, of one matrix after the other, at the same cost.

    jaxlib splits a batch over XLA's pool of threads and waits inside it, where two programs side by side may wait for
    each other for ever (`ParallelBatchMap` in its lapack_kernels.cc). Derivatives are those of `decompose`.
    """
    alone = jax.custom_batching.custom_vmap(decompose)
    single = jax.custom_jvp(lambda matrix: alone(matrix))

    @alone.def_vmap
    def _(size, batched, matrices):
        found = jax.lax.map(alone, matrices) if jax.default_backend() == "cpu" else jax.vmap(decompose)(matrices)
        return found, jax.tree.map(lambda _: True, found)

    @single.defjvp
    def _(primals, tangents):
        return jax.jvp(decompose, primals, tangents)

    return single


def decomposition(of_numpy: Callable[[Any], Any], of_jax: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decomposition in the namespace of its matrix; NaNs where there is none, as of a NaN."""

    def at_once(matrix):
        try:
            return of_numpy(matrix)
        except np.linalg.LinAlgError:
            return jax.tree.map(lambda part: np.full_like(part, np.nan), of_numpy(np.zeros_like(matrix)))

    return either(at_once, in_turn(of_jax))


def _largest_singular_value(W):
    """The root of the smaller Gram's largest eigenvalue, which takes a fifth of the time and loses nothing of it."""
    W = W if W.shape[0] <= W.shape[1] else W.T
    size = np.abs(W).max()
    if not 0.0 < size < np.inf:
        return size
    return size * np.sqrt(np.linalg.eigvalsh((W / size) @ (W / size).T)[-1])


def triangle(X: Any) -> Any:
    """R of X = Q R; of many rows, first of blocks of them, which stay in a cache, and then of all blocks' R."""
    xp, rows = namespace(X), max(ROWS_AT_ONCE, 4 * X.shape[1])
    if xp is np and len(X) > 2 * rows:
        X = np.concatenate([np.linalg.qr(X[first : first + rows], mode="r") for first in range(0, len(X), rows)])
    return xp.linalg.qr(X, mode="r")


def _right_svd(xp, X):
    """S (r,) and Vᵀ (r, d) of X = U S Vᵀ, without U where it is long."""
    X = triangle(X) if X.shape[0] >= 2 * X.shape[1] else X
    return tuple(xp.linalg.svd(X, full_matrices=False)[1:])


eigh = decomposition(lambda G: tuple(np.linalg.eigh(G)), lambda G: tuple(jnp.linalg.eigh(G)))
svd = decomposition(
    lambda X: tuple(np.linalg.svd(X, full_matrices=False)), lambda X: tuple(jnp.linalg.svd(X, full_matrices=False))
)
right_svd = decomposition(lambda X: _right_svd(np, X), lambda X: _right_svd(jnp, X))
operator_norm = decomposition(_largest_singular_value, lambda W: jnp.linalg.svd(W, compute_uv=False)[0])
largest_eigenvalue = decomposition(lambda G: np.linalg.eigvalsh(G)[..., -1], lambda G: jnp.linalg.eigvalsh(G)[-1])
