"""A network's features measured where they are: in files, a block of rows at a time.

A file holds, by name, H, features or X (N, d), one sample a row; labels, y or targets (N,); and where known a
classifier A or weight (K, d) with its bias b or bias (K,). Class means that these are to be measured against are in a
file of their own. `ufm.metrics.formats` says which files are read.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ufm._core.checks import Integer
from ufm._core.progress import progress
from ufm.metrics.arguments import Batch, batch, check_some, classifier, features_and_labels, number_of_classes
from ufm.metrics.classes import Measured
from ufm.metrics.evaluation import Evaluation, evaluation, means_given
from ufm.metrics.formats import opened
from ufm.metrics.formats.stored import Arrays, Stored
from ufm.metrics.labels import checked_labels
from ufm.metrics.stream import Stream

ROLES = {
    "H": ("H", "features", "X"),
    "labels": ("labels", "y", "targets"),
    "A": ("A", "weight"),
    "b": ("b", "bias"),
    "means": ("means",),
}
NUMBERS_AT_ONCE = 2**20  # of features
LISTED = 12  # names in an error


class Samples(NamedTuple):
    """Features (N, d) in a file; as arrays labels (N,), and a classifier (K, d), (K,) and means (K, d), or None."""

    features: Stored
    labels: Any
    A: Any
    b: Any
    means: Any


@contextlib.contextmanager
def samples(
    features: pathlib.Path,
    labels: pathlib.Path | None = None,
    *,
    classifier: pathlib.Path | None = None,
    means: pathlib.Path | None = None,
) -> Iterator[Samples]:
    """What files hold; features can be read until the context ends.

    Args:
        features: file of the features, and of the labels and the classifier unless other files are given.
        labels: file of the labels.
        classifier: file of the classifier: A, or weight as in the state of a torch Linear, or its one matrix, with b,
            or bias, or its one vector.
        means: file of class means: means, or its one array.

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
        M = None if means is None else _alone(means, stack.enter_context(opened(means)), "means").whole()
        yield Samples(H, y.whole(), A, b, M)


def measure(
    found: Samples, *, absent: str = "error", ignore: Integer | None = None, per_class: bool = False
) -> Measured:
    """Metrics of features in files, as `ufm.measure` gives them of arrays; read twice, and never held.

    Args:
        found: of `samples`.
        absent: what becomes of classes without a sample: "error", or "drop".
        ignore: a label whose samples are left out.
        per_class: whether to say of each class what is its own.

    Raises:
        ValueError: as `ufm.measure`.
    """
    features, y, *_ = found
    labels = _checked_labels(found, ignore)
    A, b = classifier(found.A, found.b, None, features.shape[1], np.float64)
    stream = Stream(number_of_classes(labels, A, absent=absent), absent=absent, ignore=ignore)
    with _shown(features, passes=2) as update:
        for X, at in _batches(features):
            stream.add(X, y[at])
            update(at.stop, "class means")
        for X, at in _batches(features):
            stream.revisit(X, y[at], A, b)
            update(features.shape[0] + at.stop, "spread about them")
    return stream.metrics(per_class=per_class)


def evaluate(found: Samples, *, ignore: Integer | None = None) -> Evaluation:
    """Features in files against the class means beside them, as `ufm.measure(means=)`; read once, and never held.

    Args:
        found: of `samples`, with means.
        ignore: a label whose samples are left out.

    Raises:
        ValueError: as `ufm.measure`.
    """
    features, y, *_ = found
    labels, dim = _checked_labels(found, ignore), features.shape[1]
    means = means_given(found.means, dim)
    A, b = classifier(found.A, found.b, means.num_classes, dim, np.float64)
    number_of_classes(labels, A, means.num_classes, "drop")

    def batches() -> Iterator[Batch]:
        for X, at in _batches(features):
            yield batch(X, y[at], ignore)
            update(at.stop, "distance from the means")

    with _shown(features, passes=1) as update:
        return evaluation(means, batches(), A, b)


def _checked_labels(found: Samples, ignore: Integer | None) -> Any:
    """Labels that are not left out; and whether shapes are right, before any features are read."""
    shapes = ((float, found.features.shape), (int, np.shape(found.labels)))
    features_and_labels(*(np.broadcast_to(np.zeros(1, kind), shape) for kind, shape in shapes))
    labels, _ = checked_labels("labels", found.labels, found.features.shape[0], ignore)
    check_some(labels, ignore)
    return labels


def _shown(features: Stored, passes: int) -> contextlib.AbstractContextManager[Callable[[int, str], None]]:
    """A bar of so many passes over features, where they are more than are read at once."""
    count, dim = features.shape
    return progress(passes * count, "samples", show=None if count > _rows(dim) else False)


def _rows(dim: int) -> int:
    """How many are read at once."""
    return max(1, NUMBERS_AT_ONCE // dim)


def _batches(features: Stored) -> Iterator[tuple[Any, slice]]:
    """Blocks of features, and where they stand among all."""
    first = 0
    for X in features.blocks(_rows(features.shape[1])):
        yield X, slice(first, first + len(X))
        first += len(X)


def _named(file: pathlib.Path, arrays: Arrays, role: str) -> Stored:
    """The array of a role by its name."""
    name = _name(file, arrays, role)
    if name is not None:
        return arrays[name]
    *others, last = ROLES[role]
    lacking = f"{file}: no key {', '.join(others)}{' or ' if others else ''}{last}"
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
