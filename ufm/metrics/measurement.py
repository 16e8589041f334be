"""Anybody's features measured: arrays of any library at once, or traced inside somebody's own jitted code."""

import functools as ft
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ufm._core.checks import Integer, choice, flag
from ufm._core.precision import is_traced
from ufm.metrics.arguments import (
    ABSENT,
    Batch,
    batch,
    check_present,
    check_some,
    check_untraced,
    classifier,
    given,
    named,
    number_of_classes,
    rounding_of,
)
from ufm.metrics.classes import Measured
from ufm.metrics.definitions import Metrics, of_columns
from ufm.metrics.evaluation import Evaluation, evaluation, means_given
from ufm.metrics.fed import Fed
from ufm.metrics.layer_passes import measured_layers


@overload
def measure(
    H: ArrayLike,
    labels: ArrayLike,
    A: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    means: None = None,
    absent: Literal["error", "drop"] = "error",
    ignore: Integer | None = None,
    per_class: bool = False,
) -> Measured: ...


@overload
def measure(
    H: ArrayLike,
    labels: ArrayLike,
    A: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    means: ArrayLike,
    ignore: Integer | None = None,
) -> Evaluation: ...


@overload
def measure(
    H: Sequence[np.ndarray | jax.Array],
    labels: ArrayLike,
    A: ArrayLike | Sequence[ArrayLike | None] | None = None,
    b: ArrayLike | None = None,
    *,
    absent: Literal["error", "drop"] = "error",
    ignore: Integer | None = None,
) -> Metrics: ...


def measure(
    H: ArrayLike | Sequence[np.ndarray | jax.Array],
    labels: ArrayLike,
    A: ArrayLike | Sequence[ArrayLike | None] | None = None,
    b: ArrayLike | None = None,
    *,
    means: ArrayLike | None = None,
    absent: str = "error",
    ignore: Integer | None = None,
    per_class: bool = False,
) -> Measured | Evaluation | Metrics:
    """Metrics of features, exactly: whatever their precision, what is computed of them is computed in float64.

    Directions of the centred class means count as absent where their singular value is below (u/2) r (√K + √d), with r
    the root mean square of the means' entries and u half the spacing of numbers near 1 in the type of `H`: that is what
    rounding `H` adds to means, as a random matrix (or below the rounding of float64, which is less but for float64).
    The result's `rank` counts the others.

    With `absent="drop"` K' classes that have samples are measured, as if they were relabelled 0..K'−1: nc2 and nc3 are
    then distances to the simplex of K' vertices, nc1 to nc3, equinorm_A and self_duality take the classifier's rows of
    these classes alone, while for nc4 and accuracy all K rows compete.

    Of a network's layers a list of features gives arrays, one entry a layer. The classifier reads the last; its
    decisions are what nc4 and accuracy of every layer speak of. What pairs a layer with what reads it (nc3, equinorm_A,
    self_duality) is NaN but for the last, unless A is a list too: of layers that are linear, A, A W_L, A W_L W_{L−1}, …
    from the last to the first.

    Args:
        H: (N, d) features, one sample a row: NumPy, JAX or torch, or what NumPy makes an array of. Or a list
            of such arrays, (N, d_j) each, of the same samples.
        labels: (N,) integers 0..K−1 in any order, each class present.
        A: (K, d) classifier; without it K is the largest label plus one, and nc3, nc4, equinorm_A, self_duality
            and accuracy are None. Of a list of features the last one's, or a list of as many, None where there is none.
        b: (K,) bias; zeros where absent.
        means: (K, d) class means of other features, which these are to be measured against.
        absent: what becomes of classes without a sample: "error", or "drop".
        ignore: a label whose samples are left out, as -100 in PyTorch.
        per_class: whether to say of each class what is its own, as `result.classes`.

    Returns:
        Dimensionless metrics in float64, with `rank`, `absent`, `uniformity` and `classes` beside them (see
        `ufm.metrics.Measured`); an `Evaluation` where `means` are given; or of a list `Metrics` of arrays.

    Raises:
        ValueError: for wrong shapes, labels out of range, an absent class, a NaN or an infinity, and inside jit, grad
            or vmap, where `ufm.metrics.evaluate` serves.
    """
    check_untraced(A=A, b=b, means=means)
    choice("absent", absent, ABSENT)
    flag("per_class", per_class)
    if _is_list(H):
        if means is not None or per_class:
            raise ValueError("H of several layers with means or per_class: only whole metrics of each are measured")
        return _of_layers(H, labels, A, b, absent, ignore)
    samples = batch(H, labels, ignore)
    check_some(samples.labels, ignore)
    dim = samples.H.shape[1]
    about = None if means is None else means_given(means, dim)
    A, b = classifier(A, b, None if about is None else about.num_classes, dim, np.float64)
    if about is not None:
        check_options(absent, per_class)
        number_of_classes(samples.labels, A, about.num_classes, "drop")
        return evaluation(about, [samples], A, b)
    return _measured(samples, A, b, number_of_classes(samples.labels, A, absent=absent), absent, per_class)


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
        H: (N, d) features, one sample a row; traced ones are computed on in their precision.
        labels: (N,) integers 0..K−1 in any order. NumPy's are checked; traced ones can't be, and
            metrics are then NaN where a class has no sample.
        A: (K, d) classifier; without it nc3, nc4, equinorm_A, self_duality and accuracy are None.
        b: (K,) bias; zeros where absent.
        num_classes: K, which is needed where A is absent and labels are traced.

    Returns:
        Traced numbers where an argument is traced, else NumPy's, in the precision of `H`.

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
    A, b = (None if each is None else np.asarray(each, np.float64) for each in (A, b))
    samples = Batch(np.asarray(X), y, rounding_of("features H", H))
    found = _measured(samples, A, b, K, "error", False)
    return Metrics(*(None if value is None else value.astype(X.dtype) for value in found))


def _is_list(tables: Any) -> bool:
    """Whether these are arrays of several layers, of which some may be absent."""
    listed = isinstance(tables, list | tuple) and any(each is not None for each in tables)
    return listed and all(each is None or getattr(each, "ndim", 0) == 2 for each in tables)


def _of_layers(features: Any, labels: Any, A: Any, b: Any, absent: str, ignore: Any) -> Metrics:
    """Metrics of the same samples' features in several layers, the last of which a classifier reads."""
    layers = []
    for j, H in enumerate(features):
        with named(f"H[{j}]"):
            layers.append(batch(H, labels, ignore))
    last = layers[-1]
    check_some(last.labels, ignore)
    readers = list(A) if _is_list(A) else [*[None] * (len(layers) - 1), A]
    if len(readers) != len(layers):
        raise ValueError(
            f"A of {len(readers)} entries: one classifier, or {len(layers)} of them, one a layer, are needed"
        )
    A, b = classifier(readers[-1], b, None, last.H.shape[1], np.float64)
    K = number_of_classes(last.labels, A, absent=absent)
    return measured_layers([ft.partial(list, [samples]) for samples in layers], [*readers[:-1], A], b, K, absent)


def _measured(samples: Batch, A: Any, b: Any, num_classes: int, absent: str, per_class: bool) -> Measured:
    """Metrics of samples that are all there."""
    fed = Fed(num_classes, absent=absent)
    fed.take(samples)
    fed.take_again(samples, (A, b))
    return fed.metrics(per_class=per_class)


def check_options(absent: str, per_class: bool) -> None:
    """Refuse what has no meaning for features that are measured against other ones' means."""
    if absent != "error" or per_class:
        raise ValueError(
            "means with absent or per_class: classes without a sample are left out beside given means, and what is "
            "measured is of all classes"
        )
