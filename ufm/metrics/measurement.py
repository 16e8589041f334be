"""Anybody's features measured: arrays of any library at once, or traced inside somebody's own jitted code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ufm._core.checks import Integer, integer
from ufm._core.precision import scope
from ufm.metrics.arguments import (
    check_finite,
    check_present,
    check_untraced,
    classifier,
    features_and_labels,
    number_of_classes,
)
from ufm.metrics.batches import centres_of, metrics_of, numbers, over_blocks, spreads_of, summary_of, sums_of
from ufm.metrics.definitions import Metrics, of_columns


def measure(H: Any, labels: Any, A: Any = None, b: Any = None) -> Metrics:
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
    H, labels = features_and_labels(H, labels)
    A, b = classifier(A, b, None, H.shape[1], H.dtype)
    K = number_of_classes(labels, A)
    with scope(H):
        sums = over_blocks(lambda *block: sums_of(*block, K), H, labels, H.dtype)
        check_finite(sums)
        check_present(sums.count)
        about = centres_of(sums.count, sums.means())
        spreads = over_blocks(lambda *block: spreads_of(*block, about, A, b), H, labels, H.dtype)
        return numbers(summary_of(about, spreads, A))


def evaluate(H: Any, labels: Any, A: Any = None, b: Any = None, *, num_classes: Integer | None = None) -> Metrics:
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
    H, labels = features_and_labels(H, labels)
    traced = any(isinstance(array, Tracer) for array in (H, labels, A, b))
    H = jnp.asarray(H) if traced else H  # in the precision that JAX computes in
    K = None if num_classes is None else integer("num_classes", num_classes, least=2)
    A, b = classifier(A, b, K, H.shape[1], H.dtype)
    K = number_of_classes(labels, A, K)
    if not isinstance(labels, Tracer):
        check_present(np.bincount(labels, minlength=K))
    if traced:
        labels, A, b = jax.tree.map(jnp.asarray, (labels, A, b))
        return of_columns(H.T, labels, K, A, b)
    with scope(H), jax.ensure_compile_time_eval():  # values, inside somebody's jit too
        return numbers(metrics_of(H, labels, K, A, b))
