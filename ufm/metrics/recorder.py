"""Metrics inside anybody's training loop: features fed by batches, a history and a figure at any time."""

import copy
import dataclasses
from typing import Any

import jax
import numpy as np

from ufm._core import archive
from ufm._core.checks import Integer, Real, instance, integer, number
from ufm.metrics.definitions import Metrics
from ufm.metrics.history import History
from ufm.metrics.stream import Stream

MOST_STEP = 2**53  # that a history counts to, without rounding
NEEDS = {"nc1": "revisit", "nc3": "a classifier", "nc4": "revisit and a classifier"}


def _nothing() -> History:
    empty = np.zeros(0)
    return History(np.zeros(0, int), empty, Metrics(*(empty for _ in Metrics._fields)))


@archive.storable
@dataclasses.dataclass(eq=False)
class Recorder:
    """NC1–NC4 of a network as it trains, exact and streamed in float64 (Papyan, Han and Donoho 2020).

    Whenever the network is to be measured, hold its parameters, put it in evaluation mode and feed the training
    features to `add`, batch by batch; then the same batches, in any order, to `revisit`; then call `epoch`.
    What is relative to the final means (nc1, nc4, trace_ratio, cdnv, accuracy) needs that second pass: without it
    `epoch` says None for them, and `history` NaN. They are never approximated.

    Features and classifier may be NumPy's, JAX's or torch's, on any device and in any precision. Memory is
    O(Kd + K²), and a batch; only a second pass without the classifier keeps its features, N·d numbers in float64
    or float32 (half precisions are widened), because how often the classifier disagrees with the nearest class
    centre cannot be counted before it is known.

    Args:
        num_classes: K ≥ 2.
        history: of an earlier recorder, to go on with.

    Attributes:
        history: arrays over what was recorded, as `Run.history`: `step`, `loss` and every field of `Metrics`.
    """

    num_classes: Integer
    history: History | Any = dataclasses.field(default_factory=_nothing, repr=False)

    def __post_init__(self):
        self.num_classes = integer("num_classes", self.num_classes, least=2)
        instance("history", self.history, History, "the history of an earlier recorder")
        self.discard()

    def add(self, features: Any, labels: Any) -> None:
        """First pass.

        Args:
            features: (n, d), one sample a row: what enters the classifier.
            labels: (n,) integers 0..K−1.

        Raises:
            ValueError: for wrong shapes, labels out of range, a NaN or an infinity, or after `revisit`.
        """
        self._stream.add(features, labels)

    def revisit(self, features: Any, labels: Any, A: Any = None, b: Any = None) -> None:
        """Second pass.

        Args:
            features: (n, d), as in the first pass; a copy is kept until `epoch` where A is not given.
            labels: (n,) integers 0..K−1.
            A: (K, d) classifier, the same for all batches.
            b: (K,) its bias; zeros where absent.

        Raises:
            ValueError: as `add`, before it, for an absent class, or for a classifier that is not the same.
        """
        if A is not None or b is not None:
            self._stream.revisit(features, labels, A, b)
            return
        self._stream.known_centres()
        features, labels = self._stream.checked(features, labels)
        self._deferred.append((np.array(features), labels))  # a copy, for the loop may overwrite its own

    def epoch(self, A: Any = None, b: Any = None, *, step: Integer | None = None, loss: Real = np.nan) -> Metrics:
        """Metrics of what was fed since the last call; they are recorded, and the next epoch begins.

        After an error nothing is recorded and what was fed is kept: mend the cause, or `discard` it.

        Args:
            A: (K, d) classifier; by default the one that `revisit` was given, without either None stands for
                what needs it.
            b: (K,) its bias; by default the one that `revisit` was given, else zeros.
            step: what `history.step` says, greater than before; by default one more.
            loss: of the network, for the history.

        Returns:
            Dimensionless metrics; `print` shows the chief ones on a line.

        Raises:
            ValueError: before any `add`, for a loss that is no number, an absent class, a classifier of another shape
                or other than in the second pass, and where the second pass was over other features (see `Stream`).
        """
        last = int(self.history.step[-1]) if len(self.history.step) else 0
        least = last + 1 if len(self.history.step) else 0
        step = last + 1 if step is None else integer("step", step, least, most=MOST_STEP)
        stream = copy.copy(self._stream)
        for features, labels in self._deferred:
            stream.revisit(features, labels, A, b)
        loss, metrics = number("loss", loss), stream.metrics(A, b)
        known = Metrics(*(np.nan if value is None else value for value in metrics))
        self.history = jax.tree.map(np.append, self.history, History(step, loss, known))
        self.discard()
        return metrics

    def discard(self) -> None:
        """Forget what was fed since the last `epoch`."""
        self._stream = Stream(self.num_classes)
        self._deferred: list[tuple[np.ndarray, np.ndarray]] = []

    def figure(self, name: str | Any = "network") -> Any:
        """The history so far as a matplotlib figure: NC1–NC4, one panel each.

        Several recorders share one by `ufm.plot.collapse({"a": one.history, "b": other.history}, unit="epoch")`.

        Args:
            name: of the line.

        Raises:
            ValueError: before the first `epoch`, or for a name that is no text.
        """
        from ufm import plot

        instance("name", name, str, "a text")
        if not len(self.history.step):
            raise ValueError("figure before epoch: nothing is recorded yet")
        made = plot.collapse({name: self.history}, unit="epoch")
        for axis, metric in zip(made.axes, ("nc1", "nc2", "nc3", "nc4"), strict=True):
            if np.all(np.isnan(getattr(self.history, metric))):
                text = f"not measured:\nneeds {NEEDS[metric]}"
                axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
                axis.set(xticks=[], yticks=[])
        return made

    def save(self, path: Any) -> None:
        """Write the history to exactly `path`, without pickle; `ufm.load` gives a recorder that goes on from it."""
        archive.save(path, self)
