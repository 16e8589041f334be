"""float64 as a scope: what is certified is computed in it, and no global flag of JAX is ever changed."""

import contextlib
from collections.abc import Iterator, ValuesView
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

DTYPES = {"float32": np.float32, "float64": np.float64}


def float64() -> contextlib.AbstractContextManager:
    """The scope inside which JAX computes in double precision.

    Arrays leave it through `numpy.asarray`: a float64 JAX array used outside would be computed in float32.
    """
    return jax.enable_x64(True)


def scope(*trees: Any) -> contextlib.AbstractContextManager:
    """`float64()` where any leaf is a float64 array, else nothing."""
    double = any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(trees))
    return float64() if double else contextlib.nullcontext()


def is_traced(*trees: Any) -> bool:
    """Whether JAX traces a leaf, so that results are traced too."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees, is_leaf=_is_no_tree))


def _is_no_tree(node: Any) -> bool:
    """What is nobody's tree: what would be used up by looking into it, and a dictionary's values."""
    return isinstance(node, Iterator | ValuesView)


@contextlib.contextmanager
def at_once(*trees: Any) -> Iterator[None]:
    """`scope` of arrays with values, in which results have values too, inside somebody's traced function as well."""
    with scope(*trees), jax.ensure_compile_time_eval():
        yield


def in_precision(name: str) -> contextlib.AbstractContextManager:
    """`float64()` for "float64", else nothing."""
    return float64() if name == "float64" else contextlib.nullcontext()


def to_numpy(tree: Any) -> Any:
    """Every array leaf as a NumPy array of its own precision."""
    return jax.tree.map(np.asarray, tree)


def allowance(dtype: Any = np.float64) -> float:
    """For the rounding of what a bound adds up, relative to its size."""
    return 64 * float(np.finfo(dtype).eps)
