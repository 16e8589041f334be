"""Features measured over batches, without holding them: two passes, whose sums are kept in float64."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ufm._core.checks import Integer, integer, room_for
from ufm.metrics.arguments import check_finite, check_present, check_untraced, classifier, features_and_labels
from ufm.metrics.batches import added, numbers, of_sums, over_blocks, passes_over
from ufm.metrics.definitions import Metrics
from ufm.metrics.passes import Centres, Spreads, Sums

DRIFT = 1e-2  # of the features between two passes, relative; bfloat16 rounds at 2⁻⁸ and may do so anew at each pass


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

    def add(self, H: ArrayLike, labels: ArrayLike) -> None:
        """First pass: a batch of features (n, d) and labels (n,)."""
        if self._centres is not None:
            raise ValueError("add after revisit: the means of the first pass are already in use; start anew")
        X, y = self.checked(H, labels)
        K, d = self.num_classes, X.shape[1]
        room_for(f"num_classes = {K}: sums of shape ({K}, {d})", K * d)
        passes = passes_over(X, K)
        with passes.scope():
            sums = over_blocks(lambda *block: passes.sums(*block, K), X, y, np.float64)
        check_finite(sums)
        self._sums = added(self._sums, sums)

    def revisit(self, H: ArrayLike, labels: ArrayLike, A: ArrayLike | None = None, b: ArrayLike | None = None) -> None:
        """Second pass: the same batches, in any order, with the classifier that nc4 and accuracy speak of."""
        X, y = self.checked(H, labels)
        given = self._checked_classifier(A, b, X.shape[1])
        about = self.known_centres()
        if self._second is not None and not _same(given, self._classifier):
            raise ValueError("A, b: another classifier than the second pass began with; one for all batches is needed")
        passes = passes_over(X, self.num_classes)

        def both(*block):
            return passes.sums(*block, self.num_classes), passes.spreads(*block, about, *given)

        with passes.scope():
            sums, spreads = over_blocks(both, X, y, np.float64)
        check_finite(sums)
        self._second, self._classifier = added(self._second, (sums, spreads)), given

    def metrics(self, A: ArrayLike | None = None, b: ArrayLike | None = None) -> Metrics:
        """Metrics of all that was added; nc1, nc4, trace_ratio, cdnv and accuracy need the second pass.

        Args:
            A: (K, d) classifier; by default the one that `revisit` was given.
            b: (K,) its bias; by default the one that `revisit` was given. Only nc4 and accuracy depend on it.
        """
        about, (known_A, known_b) = self.known_centres(), self._classifier
        bias = known_b if b is None and A is not None else b
        given = self._checked_classifier(A, bias, about.means.shape[1])
        if self._second is not None:
            _check_same_features(self._sums, *self._second)
        if known_A is not None and A is not None and not _same(given, self._classifier):
            raise ValueError("A, b: another classifier than in the second pass")
        spreads = None if self._second is None else self._second[1]
        A = given[0] if known_A is None else known_A
        passes = passes_over(about.means, self.num_classes)
        with passes.scope():
            return numbers(of_sums(passes.summary, about, spreads, A, dtype=np.float64))

    def checked(self, H: ArrayLike, labels: ArrayLike) -> tuple[Any, np.ndarray]:
        """A batch as arrays, or the ValueError that says why it cannot belong to the stream."""
        check_untraced(**{"features H": H, "labels": labels})
        X, y = features_and_labels(H, labels)
        if self._sums is not None and X.shape[1] != self._sums.features.shape[1]:
            raise ValueError(
                f"features H of shape {X.shape}: {self._sums.features.shape[1]} columns, as before, are needed"
            )
        if y.max() >= self.num_classes:
            raise ValueError(f"labels up to {y.max()}: less than num_classes = {self.num_classes} is needed")
        return X, y

    def known_centres(self) -> Centres:
        """What the first pass says; it ends with the first call."""
        if self._sums is None:
            raise ValueError("no features added: call add first")
        if self._centres is not None:
            return self._centres
        check_finite(self._sums)
        check_present(self._sums.count)
        sums, passes = self._sums, passes_over(self._sums.features, self.num_classes)
        with passes.scope():
            self._centres = about = of_sums(passes.centres, sums.count, sums.means(), dtype=np.float64)
        return about

    def _checked_classifier(self, A, b, dim):
        check_untraced(A=A, b=b)
        return classifier(A, b, self.num_classes, dim, np.float64)


def _same(classifier, other) -> bool:
    """Whether two classifiers, or their absence, are the same."""
    return all(map(np.array_equal, classifier, other))


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
