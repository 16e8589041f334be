"""Anybody's features measured: arrays of any library at once, or traced inside somebody's own jitted code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ufm._core.checks import Integer
from ufm._core.precision import at_once, is_traced
from ufm.metrics.arguments import check_finite, check_present, check_untraced, given
from ufm.metrics.batches import Passes, numbers, of_sums, over_blocks, passes_over
from ufm.metrics.definitions import Metrics, of_columns
from ufm.metrics.passes import Sums


def measure(H: ArrayLike, labels: ArrayLike, A: ArrayLike | None = None, b: ArrayLike | None = None) -> Metrics:
    """Metrics of features, exactly, in the precision of `H` (half precisions are widened to float32).

    Args:
        H: (N, d) features, one sample a row: NumPy, JAX or torch, or what NumPy makes an array of.
        labels: (N,) integers 0..K−1 in any order, each class present.
        A: (K, d) classifier; without it K is the largest label plus one, and nc3, nc4, equinorm_A, self_duality
            and accuracy are None.
        b: (K,) bias; zeros where absent.

    Raises:
        ValueError: for wrong shapes, labels out of range, an absent class, a NaN or an infinity, and inside jit, grad
            or vmap, where `ufm.metrics.evaluate` serves.
    """
    check_untraced(**{"features H": H, "labels": labels, "A": A, "b": b})
    X, y, A, b, K = given(H, labels, A, b)
    passes = passes_over(X, K)
    with passes.scope():
        sums = over_blocks(lambda *block: passes.sums(*block, K), X, y, X.dtype)
        check_finite(sums)
        check_present(sums.count)
        return _measured(passes, sums, X, y, A, b)


def evaluate(
    H: ArrayLike,
    labels: ArrayLike,
    A: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    num_classes: Integer | None = None,
) -> Metrics:
    """The metrics of `measure` as a function that JAX can trace: inside jit, grad and vmap.

    Args:
        H: (N, d) features, one sample a row; the metrics are computed in its precision.
        labels: (N,) integers 0..K−1 in any order. NumPy's are checked; traced ones can't be, and
            metrics are then NaN where a class has no sample.
        A: (K, d) classifier; without it nc3, nc4, equinorm_A, self_duality and accuracy are None.
        b: (K,) bias; zeros where absent.
        num_classes: K, which is needed where A is absent and labels are traced.

    Returns:
        Traced numbers where an argument is traced, else NumPy's.

    Raises:
        ValueError: for wrong shapes and types, and wrong values where these are known: labels out of range, an absent
            class, a NaN or an infinity in A or b. Features that are not finite give NaN.
    """
    X, y, A, b, K = given(H, labels, A, b, num_classes)
    if not is_traced(y):
        check_present(np.bincount(y, minlength=K))
    if is_traced(X, y, A, b):
        y, *classifier = jax.tree.map(jnp.asarray, (y, A, b))
        return of_columns(X.T, y, K, *classifier)
    passes = passes_over(X, K)
    with at_once(X), passes.scope():
        sums = over_blocks(lambda *block: passes.sums(*block, K), X, y, X.dtype)
        return _measured(passes, sums, X, y, A, b)


def _measured(passes: Passes, sums: Sums, X: Any, y: Any, A: Any, b: Any) -> Metrics:
    """Metrics of features with values, whose first pass gave `sums`."""
    about = of_sums(passes.centres, sums.count, sums.means(), dtype=X.dtype)
    spreads = over_blocks(lambda *block: passes.spreads(*block, about, A, b), X, y, X.dtype)
    return numbers(of_sums(passes.summary, about, spreads, A, dtype=X.dtype))
