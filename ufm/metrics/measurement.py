"""Anybody's features measured: arrays of any library, checked, at once or streamed over batches in two passes."""

import functools as ft
from typing import Any

import jax
import numpy as np

from ufm._core.checks import Integer, integer, numeric, room_for
from ufm._core.precision import float64, in_precision, scope, to_numpy
from ufm._core.programs import kept
from ufm.metrics.definitions import Centres, Metrics, Spreads, Sums, centres, first_pass, second_pass, summary

ROWS_AT_ONCE = 1024  # of features: a block handed to JAX is a copy, and a large one costs more than the work on it
MOST_LABEL = 2**31 - 2  # so that int32 holds the number of classes too
DRIFT = 1e-2  # of the features between two passes, relative; bfloat16 rounds at 2⁻⁸ and may do so anew at each pass


def measure(H: Any, labels: Any, A: Any = None, b: Any = None) -> Metrics:
    """Metrics of features, exactly, in the precision of `H` (half precisions are widened to float32).

    Args:
        H: (N, d) features, one sample a row: NumPy, JAX or torch, or what NumPy makes an array of.
        labels: (N,) integers 0..K−1 in any order, each class present.
        A: (K, d) classifier; without it K is the largest label plus one, and nc3, nc4, equinorm_A, self_duality
            and accuracy are None.
        b: (K,) bias; zeros where absent.

    Raises:
        ValueError: for wrong shapes, labels out of range, an absent class, a NaN or an infinity.
    """
    H, labels = _checked(H, labels)
    A, b = _checked_classifier(A, b, None, H)
    K = _number_of_classes(labels, A)
    with scope(H):
        sums = _over_blocks(lambda *block: _first(*block, K), H, labels, H.dtype)
        _check_sums(sums)
        reached = _centres_jit(sums)
        spreads = _over_blocks(lambda *block: _second(*block, reached, A, b), H, labels, H.dtype)
        return _plain(_summary_jit(reached, spreads, A))


class Stream:
    """Metrics over batches, without holding the features; sums are kept in float64.

    Feed every batch to `add`; the means are then known, and what is relative to them needs the same batches
    again in `revisit`, with the classifier. Without the second pass `metrics` says None for what needs it.

    Args:
        num_classes: K ≥ 2.

    Raises:
        ValueError: as `measure`, and for batches of different dimension, for classifiers that differ between
            calls, and for a second pass over other features: other counts of the classes, or sums of the classes
            that moved by more than a hundredth of the features' root sum of squares (dropout left on, weights
            that went on changing).
    """

    def __init__(self, num_classes: Integer):
        self.num_classes = integer("num_classes", num_classes, least=2)
        room_for(f"num_classes = {self.num_classes}: counts of classes", self.num_classes)
        self._sums: Sums | None = None
        self._centres: Centres | None = None
        self._second: tuple[Sums, Spreads] | None = None
        self._classifier: Any = (None, None)

    def add(self, H: Any, labels: Any) -> None:
        """First pass: a batch of features (n, d) and labels (n,)."""
        if self._centres is not None:
            raise ValueError("add after revisit: the means of the first pass are already in use; start anew")
        H, labels = self.checked(H, labels)
        K, d = self.num_classes, H.shape[1]
        room_for(f"num_classes = {K}: sums of shape ({K}, {d})", K * d)
        sums = _over_blocks(lambda *block: _first(*block, self.num_classes), H, labels, np.float64)
        _check_finite(sums)
        self._sums = _added(self._sums, sums)

    def revisit(self, H: Any, labels: Any, A: Any = None, b: Any = None) -> None:
        """Second pass: the same batches, in any order, with the classifier that nc4 and accuracy speak of."""
        H, labels = self.checked(H, labels)
        A, b = classifier = _checked_classifier(A, b, self.num_classes, H, np.float64)
        centres = self.known_centres()
        if self._second is not None and not all(map(np.array_equal, classifier, self._classifier)):
            raise ValueError("A, b: another classifier than the second pass began with; one for all batches is needed")
        second = _over_blocks(lambda *block: _both(*block, centres, A, b), H, labels, np.float64)
        _check_finite(second[0])
        self._second, self._classifier = _added(self._second, second), classifier

    def metrics(self, A: Any = None, b: Any = None) -> Metrics:
        """Metrics of all that was added; nc1, nc4, trace_ratio, cdnv and accuracy need the second pass.

        Args:
            A: (K, d) classifier; by default the one that `revisit` was given.
            b: (K,) its bias; by default the one that `revisit` was given. Only nc4 and accuracy depend on it.
        """
        centres, (known_A, known_b) = self.known_centres(), self._classifier
        bias = known_b if b is None and A is not None else b
        classifier = _checked_classifier(A, bias, self.num_classes, centres.means)
        if self._second is not None:
            _check_same_features(self._sums, *self._second)
        if known_A is not None and A is not None and not all(map(np.array_equal, classifier, self._classifier)):
            raise ValueError("A, b: another classifier than in the second pass")
        with float64():
            spreads = None if self._second is None else self._second[1]
            return _plain(_summary_jit(centres, spreads, classifier[0] if known_A is None else known_A))

    def checked(self, H: Any, labels: Any) -> tuple[Any, np.ndarray]:
        """A batch as arrays, or the ValueError that says why it cannot belong to the stream."""
        H, labels = _checked(H, labels)
        if self._sums is not None and H.shape[1] != self._sums.features.shape[1]:
            raise ValueError(
                f"features H of shape {H.shape}: {self._sums.features.shape[1]} columns, as before, are needed"
            )
        if labels.max() >= self.num_classes:
            raise ValueError(f"labels up to {labels.max()}: less than num_classes = {self.num_classes} is needed")
        return H, labels

    def known_centres(self) -> Centres:
        """What the first pass says; it ends with the first call."""
        if self._sums is None:
            raise ValueError("no features added: call add first")
        if self._centres is not None:
            return self._centres
        _check_sums(self._sums)
        with float64():
            self._centres = reached = to_numpy(_centres_jit(self._sums))
        return reached


_first = kept(lambda H, labels, num_classes: first_pass(H.T, labels, num_classes), static_argnums=2)
_second = kept(lambda H, labels, *rest: second_pass(H.T, labels, *rest))
_both = kept(lambda H, labels, *rest: (first_pass(H.T, labels, len(rest[0].means)), second_pass(H.T, labels, *rest)))
_centres_jit = kept(centres)
_summary_jit = kept(summary)


def _over_blocks(one_pass, H, labels, dtype):
    """The sum of a pass over blocks of rows."""
    rows = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(H), ROWS_AT_ONCE)]
    with in_precision(np.dtype(dtype).name):
        passes = (to_numpy(one_pass(H[some].astype(dtype, copy=False), labels[some])) for some in rows)
        return ft.reduce(_added, passes)


def _added(before, batch):
    return batch if before is None else jax.tree.map(np.add, before, batch)


def _plain(metrics: Metrics) -> Metrics:
    """Python-side numbers, so that nothing float64 is ever computed on outside its scope."""
    return Metrics(*(None if value is None else np.asarray(value)[()] for value in metrics))


def _check_finite(sums: Sums) -> None:
    if not np.all(np.isfinite(np.asarray(sums.features))):
        raise ValueError("features H: a NaN or an infinity among them; finite ones are needed")


def _check_sums(sums: Sums) -> None:
    _check_finite(sums)
    _check_present(np.asarray(sums.count) > 0, len(sums.count))


def _check_present(present: np.ndarray, num_classes: int) -> None:
    if not np.all(present):
        first = int(np.argmin(present))
        raise ValueError(f"labels: no sample of class {first}; each of 0..{num_classes - 1} must be present")


def _check_same_features(first: Any, again: Sums, spreads: Spreads) -> None:
    """Refuse a second pass over other samples or other features than the first's."""
    if not np.array_equal(first.count, again.count):
        k = np.flatnonzero(first.count != again.count)[0]
        raise ValueError(
            f"revisited {again.count.sum():.0f} samples, added {first.count.sum():.0f} "
            f"(of class {k} {again.count[k]:.0f} and {first.count[k]:.0f}): the same are needed"
        )
    # independent errors of relative size r in each sample give r here, whatever the number of samples
    squares = np.sum(spreads.within) + np.sum(first.features**2 / first.count[:, None])
    drift = np.linalg.norm(again.features - first.features) / np.sqrt(squares) if squares > 0 else 0.0
    if drift > DRIFT:
        raise ValueError(
            f"features H of the second pass: their class sums are off by {drift:.1e} of the features' norm; the "
            "features of the first pass are needed again (evaluation mode, and no step between the passes)"
        )


def _checked(H, labels):
    """Features and labels of the shapes that `measure` needs, whatever library they came from."""
    H, labels = numeric("features H", H), np.asarray(numeric("labels", labels))
    if H.ndim != 2 or 0 in H.shape:
        raise ValueError(f"features H of shape {H.shape}: (N, d), one sample a row, are needed")
    if labels.shape != (H.shape[0],):
        raise ValueError(
            f"labels of shape {labels.shape}: ({H.shape[0]},), one for each row of the features H, are needed"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of type {labels.dtype}: integers are needed")
    if labels.min() < 0:
        raise ValueError(f"labels down to {labels.min()}: integers from 0 are needed")
    if labels.max() > MOST_LABEL:
        raise ValueError(f"labels up to {labels.max()}: integers from 0 to {MOST_LABEL} are needed")
    if not jax.numpy.issubdtype(H.dtype, np.floating):
        H = np.asarray(H, np.float64)
    return H, labels.astype(np.int32)


def _checked_classifier(A, b, num_classes, H, dtype=None) -> tuple[Any, Any]:
    """The classifier of features H as NumPy arrays, with a bias of zeros where none is given; or two Nones."""
    if A is None:
        if b is not None:
            raise ValueError(f"b of shape {np.shape(numeric('b', b))}: a bias needs its classifier A")
        return None, None
    A = np.asarray(numeric("A", A), dtype or H.dtype)
    b = np.zeros(A.shape[:1], A.dtype) if b is None else np.asarray(numeric("b", b), A.dtype)
    if A.ndim != 2 or A.shape[1] != H.shape[1] or len(A) < 2 or not np.all(np.isfinite(A)):
        raise ValueError(f"A of shape {A.shape}: a finite (K, {H.shape[1]}) classifier is needed")
    if num_classes is not None and len(A) != num_classes:
        raise ValueError(f"A of shape {A.shape}: num_classes = {num_classes} rows are needed")
    if b.shape != (len(A),) or not np.all(np.isfinite(b)):
        raise ValueError(f"b of shape {b.shape}: a finite ({len(A)},) bias, one for each row of A, is needed")
    return A, b


def _number_of_classes(labels, A) -> int:
    K = int(labels.max()) + 1 if A is None else len(A)
    if K < 2:
        raise ValueError("labels: only class 0 is present; at least two classes are needed")
    if labels.max() >= K:
        raise ValueError(f"labels up to {labels.max()}: less than K = {K}, the rows of A, is needed")
    if len(labels) < K:  # before sums of so many classes are made
        _check_present(np.isin(np.arange(len(labels) + 1), labels), K)
    return K
