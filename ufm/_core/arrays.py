"""One mathematics for NumPy and JAX: the namespace that arrays belong to, and the few forms that differ.

What a small problem needs is computed by NumPy at once; JAX traces the same functions where programs serve many
problems, or where derivatives are a user's. A function asks `namespace` of its arguments for the module that it calls.
In NumPy nothing may be compiled: no function of `jax.numpy` is called there, not even of a NumPy array.
"""

import functools as ft
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

if TYPE_CHECKING:
    Array = Any  # a union would leave the methods that both have unknown
else:
    Array = jax.Array | np.ndarray | np.generic  # of either, as annotations take it


def namespace(*arrays: Any) -> Any:
    """`jax.numpy` where an array is JAX's, traced or not; else NumPy."""
    for array in arrays:  # NumPy's first, since this is asked more often than anything else
        if type(array) is not np.ndarray and isinstance(array, jax.Array):
            return jnp
    return np


def namespace_of(*trees: Any) -> Any:
    """The same of all leaves of trees."""
    return namespace(*jax.tree.leaves(trees))


def silent() -> np.errstate:
    """The scope in which NumPy computes as JAX does, infinities and NaNs without warnings; of a function, decorated."""
    return np.errstate(all="ignore")


def while_loop(unfinished: Callable[[Any], Any], step: Callable[[Any], Any], state: Any) -> Any:
    """`step` of the state while it is unfinished."""
    if namespace_of(state) is jnp:
        return jax.lax.while_loop(unfinished, step, state)
    while unfinished(state):
        state = step(state)
    return state


def repeated(count: int, step: Callable[[Any], Any], state: Any) -> Any:
    """`step` of the state, so many times."""
    if namespace_of(state) is jnp:
        return jax.lax.fori_loop(0, count, lambda _, state: step(state), state)
    for _ in range(count):
        state = step(state)
    return state


def mapped(function: Callable[[Any], Any], entries: Any) -> Any:
    """`function` of each entry along the leading axis, one after the other, stacked."""
    if namespace_of(entries) is jnp:
        return jax.lax.map(function, entries)
    count = jax.tree.leaves(entries)[0].shape[0]
    found = [function(jax.tree.map(lambda leaf, i=i: leaf[i], entries)) for i in range(count)]
    return jax.tree.map(lambda *parts: np.stack(parts), *found)


def replaced(array: Any, index: Any, value: Any) -> Any:
    """A copy of the array with `value` at the index."""
    if namespace(array, value) is jnp:
        return jnp.asarray(array).at[index].set(value)
    copy = array.copy()
    copy[index] = value
    return copy


def either(of_numpy: Callable, of_jax: Callable) -> Callable:
    """What is computed in one way of NumPy's arrays and in another of JAX's."""

    @ft.wraps(of_numpy)
    def of(*arguments):
        return (of_numpy if namespace_of(arguments) is np else of_jax)(*arguments)

    return of


def custom_jvp(function: Callable) -> Any:
    """`jax.custom_jvp` of a function that NumPy's arrays go through as it is."""
    traced = jax.custom_jvp(function)
    of: Any = either(function, traced)
    of.defjvp = traced.defjvp
    return of


def held(array: Any) -> Any:
    """NumPy's view of a JAX array whose values a CPU holds; whatever else as it is."""
    if not isinstance(array, jax.Array) or isinstance(array, Tracer) or not array.is_fully_addressable:
        return array
    return np.asarray(array) if all(device.platform == "cpu" for device in array.devices()) else array
