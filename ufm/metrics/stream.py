"""Features measured over batches, without holding them."""

from numpy.typing import ArrayLike

from ufm._core.checks import Integer
from ufm.metrics.classes import Measured
from ufm.metrics.fed import Fed


class Stream:
    """Metrics over batches, without holding the features; sums are kept in float64.

    Feed every batch to `add`; the means are then known, and what is relative to them needs the same batches
    again in `revisit`, with the classifier. Without the second pass `metrics` says None for what needs it.

    Args:
        num_classes: K ≥ 2.
        absent: what becomes of classes without a sample: "error", or "drop", which leaves them out (see `measure`).
        ignore: a label whose samples are left out.

    Raises:
        ValueError: as `measure`, and for batches of different dimension, for classifiers that differ between
            calls, and for a second pass over other features: other counts of the classes, or sums of the classes
            that moved by more than a hundredth of the features' root sum of squares (dropout left on, weights
            that went on changing).
    """

    def __init__(self, num_classes: Integer, *, absent: str = "error", ignore: Integer | None = None):
        self._fed = Fed(num_classes, absent=absent, ignore=ignore)
        self.num_classes = self._fed.num_classes

    def add(self, H: ArrayLike, labels: ArrayLike) -> None:
        """First pass: a batch of features (n, d) and labels (n,)."""
        self._fed.add(H, labels)

    def revisit(self, H: ArrayLike, labels: ArrayLike, A: ArrayLike | None = None, b: ArrayLike | None = None) -> None:
        """Second pass: the same batches, in any order, with the classifier that nc4 and accuracy speak of."""
        self._fed.revisit(H, labels, A, b)

    def metrics(self, A: ArrayLike | None = None, b: ArrayLike | None = None, *, per_class: bool = False) -> Measured:
        """Metrics of all that was added; nc1, nc4, trace_ratio, cdnv and accuracy need the second pass.

        Args:
            A: (K, d) classifier; by default the one that `revisit` was given.
            b: (K,) its bias; by default the one that `revisit` was given. Only nc4 and accuracy depend on it.
            per_class: whether to say of each class what is its own (see `measure`).
        """
        return self._fed.metrics(A, b, per_class=per_class)
