"""What is too large to hold is computed a block at a time: the one loop over blocks, of samples or of rows.

It runs in the namespace of what it starts with: in NumPy at once, in JAX as a program's own loop.
"""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ufm._core.arrays import namespace, namespace_of, replaced

LOGITS_AT_ONCE = 2**24  # formed whole; more of them are streamed
MOST_AT_ONCE = 2**22  # numbers, of which NumPy has made something long before a program that does is compiled
LOGITS_IN_BLOCK = 2**22  # of the stream: fewer make the products slower, by more than the softmax gains from caches


def fits(count: int, width: int) -> bool:
    """Whether so many rows of so many numbers are formed whole; a fact of shapes, so that each has one program."""
    return count * width <= LOGITS_AT_ONCE


def few(count: int) -> bool:
    """Whether NumPy computes at once what takes so many numbers; beyond, a program is worth being compiled."""
    return count <= MOST_AT_ONCE


def scan_blocks(step: Callable[[Any, Any, Any], Any], start: Any, count: int, width: int) -> Any:
    """`step(carry, first, new)` over blocks of `count` rows of `width` numbers each.

    `first` is a block's first row and `new` (rows,) says which are new: the last block ends with the last row and
    repeats some of the block before, so that no row is ever made up.
    """
    size = min(max(min(LOGITS_IN_BLOCK, LOGITS_AT_ONCE) // width, 1), count)
    xp = namespace_of(start)
    rows = xp.arange(size, dtype=np.int32)

    def one(carry, begin):
        first = xp.minimum(begin, count - size)
        return step(carry, first, first + rows >= begin), None

    begins = size * xp.arange(-(-count // size), dtype=np.int32)
    if xp is np:
        return ft.reduce(lambda carry, begin: one(carry, begin)[0], begins, start)
    return jax.lax.scan(one, start, begins)[0]


def cut(rows: Any, first: Any, new: Any, axis: int = 0) -> Any:
    """A block of an array's rows, or columns."""
    if namespace(rows, first, new) is np:
        return rows[_block(first, new.shape[0], axis)]
    return jax.lax.dynamic_slice_in_dim(rows, first, new.shape[0], axis)


def put(rows: Any, block: Any, first: Any, axis: int = 0) -> Any:
    """The array with a block of rows, or columns, in its place."""
    if namespace(rows, block, first) is np:
        return replaced(rows, _block(first, block.shape[axis], axis), block)
    return jax.lax.dynamic_update_slice_in_dim(rows, block, first, axis)


def _block(first: Any, size: int, axis: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(first, first + size))
