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
from ufm.metrics.arguments import Batch, batch, check_some, classifier, features_and_labels, named, number_of_classes
from ufm.metrics.classes import Measured
from ufm.metrics.definitions import Metrics
from ufm.metrics.evaluation import Evaluation, evaluation, means_given
from ufm.metrics.formats import opened
from ufm.metrics.formats.stored import Arrays, Stored
from ufm.metrics.labels import checked_labels
from ufm.metrics.layer_passes import Passes, measured_layers
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


class Layers(NamedTuple):
    """Features (N, d_j) of the same samples in several layers, by name, with labels and the last one's classifier."""

    names: tuple[str, ...]
    features: tuple[Stored, ...]
    labels: Any
    A: Any
    b: Any


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
        A, b = _classifier_of(features, arrays, classifier, stack)
        M = None if means is None else _alone(means, stack.enter_context(opened(means)), "means").whole()
        yield Samples(H, y.whole(), A, b, M)


@contextlib.contextmanager
def layers(
    names: tuple[str, ...],
    file: pathlib.Path,
    labels: pathlib.Path | None = None,
    *,
    classifier: pathlib.Path | None = None,
) -> Iterator[Layers]:
    """The same of several layers' features.

    Args:
        names: of each layer, from the first to the one that the classifier reads, an array of `file`, or a file of
            its own.
        file: of the labels and the classifier unless other files are given, and of layers.
        labels: file of the labels.
        classifier: file of the last layer's classifier, as of `samples`.

    Raises:
        ValueError: as `samples`, and for a name of neither.
    """
    with contextlib.ExitStack() as stack:
        arrays = stack.enter_context(opened(file))
        features = tuple(_layer(name, file, arrays, stack) for name in names)
        of_labels = (file, arrays) if labels is None else (labels, stack.enter_context(opened(labels)))
        y = _alone(*of_labels, "labels").whole()
        yield Layers(names, features, y, *_classifier_of(file, arrays, classifier, stack))


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
    labels = _checked_labels(features, y, ignore)
    A, b = classifier(found.A, found.b, None, features.shape[1], np.float64)
    stream = Stream(number_of_classes(labels, A, absent=absent), absent=absent, ignore=ignore)
    with _shown(2 * features.shape[0], [features]) as update:
        for X, at in _batches(features):
            stream.add(X, y[at])
            update(at.stop, "class means")
        for X, at in _batches(features):
            stream.revisit(X, y[at], A, b)
            update(features.shape[0] + at.stop, "spread about them")
    return stream.metrics(per_class=per_class)


def measure_layers(found: Layers, *, absent: str = "error", ignore: Integer | None = None) -> Metrics:
    """Metrics of several layers' features in files, as `ufm.measure` gives them of a list; never held.

    Args:
        found: of `layers`.
        absent: what becomes of classes without a sample: "error", or "drop".
        ignore: a label whose samples are left out.

    Raises:
        ValueError: as `ufm.measure`, naming the layer.
    """
    labels: Any = None
    for name, features in zip(found.names, found.features, strict=True):
        with _named_layer(name):
            labels = _checked_labels(features, found.labels, ignore)
    A, b = classifier(found.A, found.b, None, found.features[-1].shape[1], np.float64)
    K, total = number_of_classes(labels, A, absent=absent), sum(features.shape[0] for features in found.features)

    def passes(name: str, features: Stored) -> Passes:
        def batches() -> Iterator[Batch]:
            nonlocal done
            for X, at in _batches(features):
                with _named_layer(name):
                    samples = batch(X, found.labels[at], ignore)
                yield samples
                done += len(X)
                update(done, name)

        return batches

    done = 0
    with _shown(2 * total, found.features) as update:
        each = [passes(*layer) for layer in zip(found.names, found.features, strict=True)]
        return measured_layers(each, [*[None] * (len(each) - 1), A], b, K, absent)


def evaluate(found: Samples, *, ignore: Integer | None = None) -> Evaluation:
    """Features in files against the class means beside them, as `ufm.measure(means=)`; read once, and never held.

    Args:
        found: of `samples`, with means.
        ignore: a label whose samples are left out.

    Raises:
        ValueError: as `ufm.measure`.
    """
    features, y, *_ = found
    labels, dim = _checked_labels(features, y, ignore), features.shape[1]
    means = means_given(found.means, dim)
    A, b = classifier(found.A, found.b, means.num_classes, dim, np.float64)
    number_of_classes(labels, A, means.num_classes, "drop")

    def batches() -> Iterator[Batch]:
        for X, at in _batches(features):
            yield batch(X, y[at], ignore)
            update(at.stop, "distance from the means")

    with _shown(features.shape[0], [features]) as update:
        return evaluation(means, batches(), A, b)


def _named_layer(name: str) -> contextlib.AbstractContextManager[None]:
    return named(f"layers = {name!r}")


def _checked_labels(features: Stored, y: Any, ignore: Integer | None) -> Any:
    """Labels that are not left out; and whether shapes are right, before any features are read."""
    shapes = ((float, features.shape), (int, np.shape(y)))
    features_and_labels(*(np.broadcast_to(np.zeros(1, kind), shape) for kind, shape in shapes))
    labels, _ = checked_labels("labels", y, features.shape[0], ignore)
    check_some(labels, ignore)
    return labels


def _shown(total: int, several: Iterable[Stored]) -> contextlib.AbstractContextManager[Callable[[int, str], None]]:
    """A bar of so many samples in all passes, where features are more than are read at once."""
    long = any(features.shape[0] > _rows(features.shape[1]) for features in several)
    return progress(total, "samples", show=None if long else False)


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


def _layer(name: str, file: pathlib.Path, arrays: Arrays, stack: contextlib.ExitStack) -> Stored:
    """Features of a layer: an array of a file, or what a file of its own holds."""
    if name in arrays:
        return arrays[name]
    path = pathlib.Path(name)
    if not path.is_file():
        raise ValueError(
            f"layers = {name!r}: an array of {file} is needed, which has {_listed(arrays)}, or a file with features H"
        )
    return _alone(path, stack.enter_context(opened(path)), "H")


def _classifier_of(
    file: pathlib.Path, arrays: Arrays, classifier: pathlib.Path | None, stack: contextlib.ExitStack
) -> tuple[Any, Any]:
    """A and b, or None, that stand beside other arrays, or in a file of their own."""
    if classifier is None:
        A, b = (_read(file, arrays, role) for role in ("A", "b"))
        return A, b
    return _classifier(classifier, stack.enter_context(opened(classifier)))


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
