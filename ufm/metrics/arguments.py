"""Features, labels and classifiers as people pass them: arrays of any library, checked as far as values are known."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ufm._core.checks import array_of, choice, integer, numeric
from ufm._core.precision import is_traced
from ufm.metrics.labels import checked_labels
from ufm.metrics.rows import all_finite

ABSENT = ("error", "drop")  # what becomes of classes without a sample


class Batch(NamedTuple):
    """Features (n, d) and labels (n,) in NumPy, and what their precision rounded the features by, relatively."""

    H: Any
    labels: Any
    unit: float


class Given(NamedTuple):
    """Features (N, d), labels (N,), a classifier (K, d) and (K,) or two Nones, and K."""

    H: Any
    labels: Any
    A: Any
    b: Any
    num_classes: int


def given(H: Any, labels: Any, A: Any, b: Any, num_classes: Any = None) -> Given:
    """What people pass as arrays that fit one another: in JAX where one is traced."""
    H, labels = features_and_labels(H, labels)
    H = jnp.asarray(H) if is_traced(H, labels, A, b) else H  # in the precision that JAX computes in
    K = None if num_classes is None else integer("num_classes", num_classes, least=2)
    A, b = classifier(A, b, K, H.shape[1], H.dtype)
    return Given(H, labels, A, b, number_of_classes(labels, A, K))


def check_untraced(**arrays: Any) -> None:
    """Refuse what JAX traces, where values are looked at and results are NumPy's."""
    for name, array in arrays.items():
        if is_traced(array):
            raise ValueError(
                f"{name} is traced by JAX: an array with values is needed; inside jit, grad and vmap, "
                "ufm.metrics.evaluate is what takes it"
            )


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """A ValueError within says first which of several it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def batch(H: Any, labels: Any, ignore: Any = None) -> Batch:
    """Samples with values, less those to be ignored, of which there may be none left; or the ValueError that says why.

    Args:
        H: (n, d) features.
        labels: (n,).
        ignore: the label of samples to leave out.
    """
    check_untraced(**{"features H": H, "labels": labels})
    unit = rounding_of("features H", H)
    H, labels = features_and_labels(H, labels, ignore)
    H = np.asarray(H)
    if not all_finite(H):
        raise ValueError("features H: a NaN or an infinity among them; finite ones are needed")
    return Batch(H, labels, unit)


def rounding_of(name: str, value: Any) -> float:
    """Half the spacing of numbers near 1 in the type that somebody's array has; float64's of what isn't floating."""
    array = value if hasattr(value, "dtype") else array_of(name, value)  # data frames, and lists of rows
    kind = str(array.dtype).rpartition(".")[2]
    try:
        return float(jnp.finfo(kind).eps) / 2
    except (TypeError, ValueError):  # integers, and types of other libraries
        return float(np.finfo(np.float64).eps) / 2


def absent_classes(absent: Any, present: np.ndarray) -> np.ndarray | None:
    """Which classes have samples (groups,), by number, where `absent` lets some have none; None where all have.

    Args:
        absent: "error" or "drop".
        present: (K,) whether each class has a sample.

    Raises:
        ValueError: for classes without samples that are not to be dropped, and where only one is left.
    """
    if np.all(present):
        return None
    if choice("absent", absent, ABSENT) == "error":
        _check_present(present, len(present))
    names = np.flatnonzero(present)
    if len(names) < 2:
        raise ValueError(f"labels: only class {', '.join(map(str, names))} is present; at least two are needed")
    return names


def features_and_labels(H: Any, labels: Any, ignore: Any = None) -> tuple[Any, Any]:
    """Features (N, d) of a floating type and int32 labels (N,), in NumPy where they aren't JAX's.

    Samples whose label is `ignore` are left out of both.
    """
    H = numeric("features H", H)
    if H.ndim != 2 or 0 in H.shape:
        advice = _made_rows(H.shape, array_of("labels", labels).shape)
        raise ValueError(f"features H of shape {H.shape}: (N, d), one sample a row, are needed{advice}")
    labels, keep = checked_labels("labels", labels, H.shape[0], ignore)
    if keep is not None:
        H = H[keep]
    if not jnp.issubdtype(H.dtype, np.floating):
        H = H.astype(float) if is_traced(H) else np.asarray(H, np.float64)
    return H, labels


def _made_rows(shape: tuple[int, ...], labels: tuple[int, ...]) -> str:
    """What to do about features of more axes than two."""
    if len(shape) < 3:
        return ""
    if labels == shape[:1]:
        return "; H.reshape(len(H), -1) makes one of all that a sample has"
    return f"; H.reshape(-1, {shape[-1]}) and labels.reshape(-1) make one of each token"


def classifier(A: Any, b: Any, num_classes: int | None, dim: int, dtype: Any) -> tuple[Any, Any]:
    """A (K, dim) and b (K,) in NumPy or traced, with a bias of zeros where none is given; or two Nones."""
    if A is None:
        if b is not None:
            raise ValueError(f"b of shape {np.shape(numeric('b', b))}: a bias needs its classifier A")
        return None, None
    A = _numpy_or_traced("A", A).astype(dtype)
    if A.ndim != 2 or A.shape[1] != dim or A.shape[0] < 2 or not _finite(A):
        raise ValueError(f"A of shape {A.shape}: a finite (K, {dim}) classifier is needed{_as_rows(A.shape, dim)}")
    b = np.zeros(A.shape[:1], dtype) if b is None else _numpy_or_traced("b", b).astype(dtype)
    if num_classes is not None and A.shape[0] != num_classes:
        raise ValueError(f"A of shape {A.shape}: num_classes = {num_classes} rows are needed")
    if b.shape != A.shape[:1] or not _finite(b):
        raise ValueError(f"b of shape {b.shape}: a finite ({A.shape[0]},) bias, one for each row of A, is needed")
    return A, b


def _as_rows(shape: tuple[int, ...], dim: int) -> str:
    """What to do about one row for two classes, and about rows that are columns, where shapes tell."""
    if shape in ((dim,), (1, dim), (dim, 1)):
        return (
            "; with a = A.ravel(), one logit ⟨a, h⟩ + b, positive for class 1, decides as these two rows do: "
            "A = np.stack([-a / 2, a / 2]), b = np.ravel([-b / 2, b / 2])"
        )
    if len(shape) == 2 and shape[0] == dim != shape[1]:
        return "; a kernel (d, K), as of Flax and Keras, is passed as A.T"
    return ""


def given_as_numpy(A: Any, b: Any) -> tuple[Any, Any]:
    """A classifier as NumPy has it, in whatever precision and shape; zeros for a bias where there is none."""
    A = np.asarray(numeric("A", A))
    return A, np.zeros(A.shape[:1]) if b is None else np.asarray(numeric("b", b))


def number_of_classes(labels: Any, A: Any, num_classes: int | None = None, absent: str = "error") -> int:
    """K: the one that is given, else the rows of A, else the largest label plus one."""
    least = 0 if is_traced(labels) else int(labels.max()) + 1
    K = num_classes or (least if A is None else A.shape[0])
    if K == 0:
        raise ValueError("num_classes = None: their number is needed, where labels are traced and A is absent")
    if K < 2:
        raise ValueError("labels: only class 0 is present; at least two classes are needed")
    if least > K:
        legal = f"K = {K}, the rows of A," if num_classes is None else f"num_classes = {K}"
        raise ValueError(f"labels up to {least - 1}: less than {legal} is needed")
    if absent == "error" and not is_traced(labels) and len(labels) < K:  # before sums of so many classes are made
        _check_present(np.isin(np.arange(len(labels) + 1), labels), K)
    return K


def check_present(count: Any) -> None:
    """Refuse classes without samples."""
    _check_present(np.asarray(count) > 0, len(count))


def check_some(labels: Any, ignore: Any) -> None:
    """Refuse samples all of which are left out."""
    if not len(labels):
        raise ValueError(f"labels: every sample has the one that ignore = {ignore} leaves out; another is needed")


def _check_present(present: np.ndarray, num_classes: int) -> None:
    if not np.all(present):
        first = int(np.argmin(present))
        raise ValueError(f"labels: no sample of class {first}; each of 0..{num_classes - 1} must be present")


def _numpy_or_traced(name: str, value: Any) -> Any:
    array = numeric(name, value)
    return array if is_traced(array) else np.asarray(array, order="C")  # so that sums have one order


def _finite(array: Any) -> bool:
    """Whether all entries are finite, as far as it is known."""
    return is_traced(array) or bool(np.all(np.isfinite(array)))
