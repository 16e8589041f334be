"""The two passes over features that people hold, in rows: a block at a time, added up in NumPy."""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ufm._core.precision import in_precision, to_numpy
from ufm._core.programs import kept
from ufm.metrics.definitions import Metrics, of_columns, summary
from ufm.metrics.passes import centres, first_pass, second_pass

ROWS_AT_ONCE = 1024  # of features: a block handed to JAX is a copy, and a large one costs more than the work on it

sums_of = kept(lambda H, labels, num_groups: first_pass(H.T, labels, num_groups), static_argnums=2)
spreads_of = kept(lambda H, labels, about, A, b: second_pass(H.T, labels, about, A, b))
both_of = kept(
    lambda H, labels, about, A, b: (
        first_pass(H.T, labels, about.means.shape[0]),
        second_pass(H.T, labels, about, A, b),
    )
)
metrics_of = kept(lambda H, labels, num_groups, A, b: of_columns(H.T, labels, num_groups, A, b), static_argnums=2)
centres_of = kept(centres)
summary_of = kept(summary)


def over_blocks(one_pass: Callable[[Any, Any], Any], H: Any, labels: np.ndarray, dtype: Any) -> Any:
    """The sum of `one_pass(H, labels)` over blocks of rows, computed in `dtype`."""
    blocks = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(H), ROWS_AT_ONCE)]
    with in_precision(np.dtype(dtype).name):
        passes = (to_numpy(one_pass(H[block].astype(dtype, copy=False), labels[block])) for block in blocks)
        return ft.reduce(added, passes)


def added(before: Any, batch: Any) -> Any:
    """What passes gave so far, with another batch's; None stands for nothing yet."""
    return batch if before is None else jax.tree.map(np.add, before, batch)


def numbers(metrics: Metrics) -> Metrics:
    """NumPy's numbers, so that nothing float64 is ever computed on outside its scope."""
    return Metrics(*(None if value is None else np.asarray(value)[()] for value in metrics))
