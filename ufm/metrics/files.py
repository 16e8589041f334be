"""A network's features measured where they are: in files, a block of rows at a time.

A file holds, by name, H, features or X (N, d), one sample a row; labels, y or targets (N,); and where known a
classifier A or weight (K, d) with its bias b or bias (K,). `ufm.metrics.formats` says which files are read.
"""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm._core.progress import progress
from ufm.metrics.arguments import classifier, features_and_labels, number_of_classes
from ufm.metrics.definitions import Metrics
from ufm.metrics.formats import opened
from ufm.metrics.formats.stored import Arrays, Stored
from ufm.metrics.labels import checked_labels
from ufm.metrics.stream import Stream

ROLES = {"H": ("H", "features", "X"), "labels": ("labels", "y", "targets"), "A": ("A", "weight"), "b": ("b", "bias")}
NUMBERS_AT_ONCE = 2**20  # of features
LISTED = 12  # names in an error


class Samples(NamedTuple):
    """Features (N, d) in a file, and their labels (N,) and the classifier (K, d) and (K,), or None, as arrays."""

    features: Stored
    labels: Any
    A: Any
    b: Any


@contextlib.contextmanager
def samples(
    features: pathlib.Path, labels: pathlib.Path | None = None, *, classifier: pathlib.Path | None = None
) -> Iterator[Samples]:
    """What files hold; features can be read until the context ends.

    Args:
        features: file of the features, and of the labels and the classifier unless other files are given.
        labels: file of the labels.
        classifier: file of the classifier: A, or weight as in the state of a torch Linear, or its one matrix, with b,
            or bias, or its one vector.

    Raises:
        ValueError: for a file that cannot be read, or that lacks what is needed, or has it twice.
    """
    with contextlib.ExitStack() as stack:
        arrays = stack.enter_context(opened(features))
        if labels is None:
            H, y = (_named(features, arrays, role) for role in ("H", "labels"))
        else:
            H = _alone(features, arrays, "H")
            y = _alone(labels, stack.enter_context(opened(labels)), "labels")
        if classifier is None:
            A, b = (_read(features, arrays, role) for role in ("A", "b"))
        else:
            A, b = _classifier(classifier, stack.enter_context(opened(classifier)))
        yield Samples(H, y.whole(), A, b)


def measure(found: Samples) -> Metrics:
    """Metrics of features in files, as `ufm.measure` gives them of arrays; read twice, and never held.

    Raises:
        ValueError: as `ufm.measure`.
    """
    features, y, A, b = found
    zeros = (np.broadcast_to(np.zeros(1, kind), shape) for kind, shape in ((float, features.shape), (int, np.shape(y))))
    features_and_labels(*zeros)  # whether their shapes are right, before any are read
    count, dim = features.shape
    labels, _ = checked_labels("labels", y, count)
    A, b = classifier(A, b, None, dim, np.float64)
    stream = Stream(number_of_classes(labels, A))
    rows = max(1, NUMBERS_AT_ONCE // dim)
    with progress(2 * count, "samples", show=None if count > rows else False) as update:
        done = 0
        for X, at in _batches(features, rows):
            stream.add(X, y[at])
            update(done := done + len(X), "class means")
        for X, at in _batches(features, rows):
            stream.revisit(X, y[at], A, b)
            update(done := done + len(X), "spread about them")
    return stream.metrics()


def _batches(features: Stored, rows: int) -> Iterator[tuple[Any, slice]]:
    """Blocks of features, and where they stand among all."""
    first = 0
    for X in features.blocks(rows):
        yield X, slice(first, first + len(X))
        first += len(X)


def _named(file: pathlib.Path, arrays: Arrays, role: str) -> Stored:
    """The array of a role by its name."""
    name = _name(file, arrays, role)
    if name is not None:
        return arrays[name]
    *others, last = ROLES[role]
    lacking = f"{file}: no key {', '.join(others)} or {last}"
    if list(arrays) == [""]:
        raise ValueError(f"{lacking} in a single array; a file of labels beside it is needed, as in {file} LABELS")
    raise ValueError(f"{lacking}; it has {_listed(arrays)}")


def _alone(file: pathlib.Path, arrays: Arrays, role: str) -> Stored:
    """The array of a role in a file that is read for it alone: by its name, or the only one there."""
    only = next(iter(arrays)) if len(arrays) == 1 else None
    others = {name for names in ROLES.values() for name in names}
    return _named(file, arrays, role) if only is None or only in others else arrays[only]


def _read(file: pathlib.Path, arrays: Arrays, role: str) -> Any:
    """The array of a role, read; None where there is none."""
    name = _name(file, arrays, role)
    return None if name is None else arrays[name].whole()


def _name(file: pathlib.Path, arrays: Arrays, role: str) -> str | None:
    """What a role is called in a file."""
    names = [name for name in ROLES[role] if name in arrays]
    if len(names) > 1:
        raise ValueError(f"{file}: {' and '.join(names)} mean the same, and it has both: keep one of them")
    return names[0] if names else None


def _classifier(file: pathlib.Path, arrays: Arrays) -> tuple[Any, Any]:
    """A and b, or None, of a file that is read for them alone: by their names, or the only ones of their shapes."""
    if _name(file, arrays, "A") is not None or len(arrays) == 1:
        return _alone(file, arrays, "A").whole(), _read(file, arrays, "b")
    A, b = (_only(file, arrays, ndim) for ndim in (2, 1))
    if A is None:
        raise ValueError(f"{file}: no key {' or '.join(ROLES['A'])}, and no matrix; it has {_listed(arrays)}")
    return A, b


def _only(file: pathlib.Path, arrays: Arrays, ndim: int) -> Any:
    """The one array of so many axes, read; None where there is none."""
    found = {name: array for name in arrays if len((array := arrays[name]).shape) == ndim}
    if len(found) > 1:
        shapes = _listed(f"{name} {array.shape}" for name, array in found.items())
        raise ValueError(
            f"{file}: which is the classifier's? Its matrix is to be called A or weight, and its bias b or bias; it "
            f"has {shapes}"
        )
    return next((array.whole() for array in found.values()), None)


def _listed(names: Iterable[str]) -> str:
    """The first of names, and how many there are beside."""
    named = [name or "an array without a name" for name in names]
    more = [f"{len(named) - LISTED} others"] if len(named) > LISTED else []
    return ", ".join(named[:LISTED] + more) or "no array"
