"""Decompositions of small matrices, which programs of several threads may do side by side."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


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


eigh = in_turn(lambda G: tuple(jnp.linalg.eigh(G)))
svd = in_turn(lambda X: tuple(jnp.linalg.svd(X, full_matrices=False)))
operator_norm = in_turn(lambda W: jnp.linalg.svd(W, compute_uv=False)[0])
largest_eigenvalue = in_turn(lambda G: jnp.linalg.eigvalsh(G)[-1])
