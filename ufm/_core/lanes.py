"""Arithmetic over arrays whose last axis is the lane, one lane a problem."""

import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from ufm._core.arrays import namespace, namespace_of, silent
from ufm._core.interrupts import check
from ufm._core.precision import to_numpy
from ufm._core.programs import plain


def dot(a: Any, b: Any) -> Any:
    """⟨a, b⟩ of every lane, by a product with ones: XLA's own reductions take longer on a CPU."""
    xp = namespace(a, b)
    if xp is np:
        return np.einsum("il,il->l", a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]))
    products = (a * b).reshape(-1, a.shape[-1])
    return (xp.ones((1, products.shape[0]), products.dtype) @ products)[0]


WIDTHS = (8, 32)  # lanes of a batch: these and no others, so that few programs are compiled
ALONE_ABOVE = 2**13  # numbers that a lane holds: side by side such lanes gain nothing, and are solved one by one


def all_places() -> list[Any]:
    """A device for each thread that solves: JAX's default or every local one, or a CPU once for each of its cores."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    devices = [chosen] if isinstance(chosen, jax.Device) else jax.local_devices()
    if len(devices) > 1 or devices[0].platform != "cpu":
        return devices
    return devices * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def width_of(count: int, held: int) -> int:
    """Lanes of a batch for so many problems, the largest arrays of each of which hold so many numbers."""
    if held > ALONE_ABOVE:
        return 1
    return next((width for width in WIDTHS if width >= count), WIDTHS[-1])


def batches(keys: Sequence[Hashable], size_of: Callable[[int], int]) -> list[list[int]]:
    """Indices of equal keys together, in their order, at most `size_of(index of the first)` of them in a batch."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [
        members[first : first + size]
        for members in groups.values()
        for size in [size_of(members[0])]
        for first in range(0, len(members), size)
    ]


def by_batches(function: Callable, *trees: Any, held: int, compiled: bool = True) -> Any:
    """`function` of arrays whose last axis is the lane, on batches of lanes; NumPy arrays, lanes last.

    Batches are as wide as `width_of` says of lanes that hold so many numbers. The last one is filled up with copies, so
    that batches of one width are all that is ever compiled. Where nothing is, NumPy computes all lanes at once.
    """
    if not compiled:
        check()
        with silent():
            return to_numpy(plain(function)(*trees))
    count = jax.tree.leaves(trees)[0].shape[-1]
    width = width_of(count, held)
    results = []
    for first in range(0, count, width):
        check()
        lanes = np.minimum(np.arange(first, first + width), count - 1)
        results.append(to_numpy(function(*(take(tree, lanes) for tree in trees))))
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1)[..., :count], *results)


def each(function: Callable, *trees: Any) -> Any:
    """`function` of every lane, the last axis of all arrays, whose results have lanes last: vectorised by JAX."""
    if namespace_of(trees) is not np:
        return jax.vmap(function, in_axes=-1, out_axes=-1)(*trees)
    lanes = range(jax.tree.leaves(trees)[0].shape[-1])
    found = [function(*jax.tree.map(lambda leaf, i=i: leaf[..., i], trees)) for i in lanes]
    return jax.tree.map(lambda *parts: np.stack(parts, axis=-1), *found)


def take(args, lanes):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[..., lanes], args)


def chosen_lanes(mask, new, old):
    """`new` in the lanes of the mask, `old` in the others."""
    return namespace(mask, new, old).where(mask.reshape((1,) * (new.ndim - 1) + mask.shape), new, old)
