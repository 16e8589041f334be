"""The two passes over features that people hold, in rows: a block at a time, added up in NumPy."""

import functools as ft
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm._core.blocks import few
from ufm._core.precision import in_precision, to_numpy
from ufm._core.programs import kept
from ufm.metrics.definitions import Metrics, summary
from ufm.metrics.passes import centres, first_pass, second_pass

ROWS_AT_ONCE = 1024  # of features: a block handed to JAX is a copy, and a large one costs more than the work on it


class Passes(NamedTuple):
    """Both passes over rows, and what is made of each: functions of NumPy's arrays, and the scope that they are for."""

    scope: Callable[[], AbstractContextManager]
    sums: Any
    spreads: Any
    centres: Any
    summary: Any


def _sums(H, labels, num_groups):
    return first_pass(H.T, labels, num_groups)


def _spreads(H, labels, about, A, b):
    return second_pass(H.T, labels, about, A, b)


_OF_NUMPY = Passes(one_thread, _sums, _spreads, centres, summary)
_COMPILED = Passes(nullcontext, kept(_sums, static_argnums=2), kept(_spreads), kept(centres), kept(summary))


def passes_over(H: Any, num_groups: int) -> Passes:
    """NumPy's where it holds few features and they have few classes, for which pairs are formed; else programs."""
    return _OF_NUMPY if isinstance(H, np.ndarray) and few(max(H.size, num_groups**2)) else _COMPILED


def over_blocks(one_pass: Callable[[Any, Any], Any], H: Any, labels: np.ndarray, dtype: Any) -> Any:
    """The sum of `one_pass(H, labels)` over blocks of rows, computed in `dtype`."""
    blocks = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(H), ROWS_AT_ONCE)]
    with in_precision(np.dtype(dtype).name), silent():
        passes = (to_numpy(one_pass(_in_rows(H[block], dtype), labels[block])) for block in blocks)
        return ft.reduce(added, passes)


def _in_rows(H: Any, dtype: Any) -> Any:
    """Features in memory one sample after the other, so that sums have one order, however a matrix is laid out."""
    return np.ascontiguousarray(H, dtype) if isinstance(H, np.ndarray) else H.astype(dtype)


def of_sums(function: Callable, *sums: Any, dtype: Any) -> Any:
    """`function` of what passes gave, computed in `dtype`, as NumPy's."""
    with in_precision(np.dtype(dtype).name), silent():
        return to_numpy(function(*sums))


def added(before: Any, batch: Any) -> Any:
    """What passes gave so far, with another batch's; None stands for nothing yet."""
    return batch if before is None else jax.tree.map(np.add, before, batch)


def numbers(metrics: Metrics) -> Metrics:
    """NumPy's numbers, so that nothing float64 is ever computed on outside its scope."""
    return Metrics(*(None if value is None else np.asarray(value)[()] for value in metrics))
