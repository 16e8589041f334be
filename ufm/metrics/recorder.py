"""Metrics inside anybody's training loop: features fed by batches, a history and a figure at any time."""

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from ufm._core import archive
from ufm._core.checks import Integer, Real, instance, integer, number
from ufm.metrics.arguments import check_some, check_untraced
from ufm.metrics.classes import Measured
from ufm.metrics.definitions import Metrics
from ufm.metrics.evaluation import Evaluation, evaluation
from ufm.metrics.fed import Fed
from ufm.metrics.history import History
from ufm.metrics.means import Means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    Features and classifier may be NumPy's, JAX's or torch's, on any device and in any precision, and batches of any
    sizes: sums are NumPy's, nothing is compiled and no device is taken. Memory is O(Kd), and a batch; only a second
    pass without the classifier keeps its features, N·d numbers in float64 or float32 (half precisions are widened),
    because how often the classifier disagrees with the nearest class centre cannot be counted before it is known.

    Sums over parts of the samples, as several machines have them, add up: `merge`, or `state` and `from_state`.

    Args:
        num_classes: K ≥ 2.
        history: of an earlier recorder, to go on with.
        absent: what becomes of classes without a sample: "error", or "drop", which leaves them out (see
            `ufm.measure`).
        ignore: a label whose samples are left out, as -100 in PyTorch.

    Attributes:
        history: arrays over what was recorded, as `Run.history`: `step`, `loss` and every field of `Metrics`.
    """

    num_classes: Integer
    history: History = dataclasses.field(default_factory=_nothing, repr=False)
    absent: str = dataclasses.field(default="error", kw_only=True)
    ignore: Integer | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        instance("history", self.history, History, "the history of an earlier recorder")
        self._last: Means | None = None
        self.discard()
        self.num_classes, self.ignore = self._fed.num_classes, self._fed.ignore

    def add(self, features: ArrayLike, labels: ArrayLike) -> None:
        """First pass.

        Args:
            features: (n, d), one sample a row: what enters the classifier.
            labels: (n,) integers 0..K−1.

        Raises:
            ValueError: for wrong shapes, labels out of range, a NaN or an infinity, or after `revisit`.
        """
        self._fed.add(features, labels)

    def revisit(
        self, features: ArrayLike, labels: ArrayLike, A: ArrayLike | None = None, b: ArrayLike | None = None
    ) -> None:
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
            self._fed.revisit(features, labels, A, b)
            return
        self._fed.means()
        samples = self._fed.checked(features, labels)
        if len(samples.labels):  # copies, for the loop may overwrite its own
            self._deferred.append((np.array(samples.H), np.array(samples.labels)))

    def epoch(
        self,
        A: ArrayLike | None = None,
        b: ArrayLike | None = None,
        *,
        step: Integer | None = None,
        loss: Real = np.nan,
        per_class: bool = False,
    ) -> Measured:
        """Metrics of what was fed since the last call; they are recorded, and the next epoch begins.

        After an error nothing is recorded and what was fed is kept: mend the cause, or `discard` it.

        Args:
            A: (K, d) classifier; by default the one that `revisit` was given, without either None stands for
                what needs it.
            b: (K,) its bias; by default the one that `revisit` was given, else zeros.
            step: what `history.step` says, greater than before; by default one more.
            loss: of the network, for the history.
            per_class: whether to say of each class what is its own, as `result.classes`.

        Returns:
            Dimensionless metrics; `print` shows the chief ones on a line. `absent`, `uniformity` and `classes` are
            beside them, as of `ufm.measure`.

        Raises:
            ValueError: before any `add`, for a loss that is no number, an absent class, a classifier of another shape
                or other than in the second pass, and where the second pass was over other features (see `Stream`).
        """
        last = int(self.history.step[-1]) if len(self.history.step) else 0
        least = last + 1 if len(self.history.step) else 0
        step = last + 1 if step is None else integer("step", step, least, most=MOST_STEP)
        fed = self._fed.copied() if self._deferred else self._fed
        for features, labels in self._deferred:
            fed.revisit(features, labels, A, b)
        loss, metrics = number("loss", loss), fed.metrics(A, b, per_class=per_class)
        known = Metrics(*(np.nan if value is None else value for value in metrics))
        self.history = jax.tree.map(np.append, self.history, History(step, loss, known))
        self._last = fed.means()
        self.discard()
        return metrics

    def evaluate(
        self, features: ArrayLike, labels: ArrayLike, A: ArrayLike | None = None, b: ArrayLike | None = None
    ) -> Evaluation:
        """Other features, a test set's, against the class means of the training features.

        The means are those of what was added since the last `epoch`, whose first pass ends with this; or, where nothing
        was, of what that epoch measured. Nothing is recorded.

        Args:
            features: (n, d).
            labels: (n,) integers 0..K−1, of which not all need be there.
            A: (K, d) classifier; without it nc4 and accuracy are None.
            b: (K,) its bias; zeros where absent.

        Raises:
            ValueError: as `add`, before it, and for a class without a training mean unless `absent="drop"`.
        """
        means = self._fed.means() if self._last is None or self._fed.any_added() else self._last
        check_untraced(A=A, b=b)
        samples, given = self._fed.checked_against(means, features, labels, A, b)
        check_some(samples.labels, self.ignore)
        return evaluation(means, [samples], *given)

    def discard(self) -> None:
        """Forget what was fed since the last `epoch`."""
        self._fed = Fed(self.num_classes, absent=self.absent, ignore=self.ignore)
        self._deferred: list[tuple[np.ndarray, np.ndarray]] = []

    def merge(self, other: "Recorder") -> "Recorder":
        """Add what another recorder was fed since its last `epoch`, as if it had been fed to this one.

        Either both are in the first pass; or both have the same first pass, that of all samples, and are in the
        second, each with its own part. The other's history is not looked at.

        Args:
            other: a recorder of as many classes, with the same options.

        Returns:
            This recorder.

        Raises:
            ValueError: for another kind of recorder, dimension, first pass or classifier.
        """
        instance("other", other, Recorder, "a Recorder")
        self._fed.merge(other._fed, again=bool(self._deferred or other._deferred))
        self._deferred += other._deferred
        return self

    def state(self) -> dict[str, np.ndarray]:
        """What was fed since the last `epoch`, as a flat dict of float64 arrays that add up over ranks.

        The sum of the arrays of several recorders, name by name, is the state of one that was fed all that they were:
        in the first pass of any samples; in the second, after `from_state` gave every rank the first pass of all, of
        samples that add up to those of the first. A rank needs at least a batch in each pass.

        Raises:
            ValueError: where the second pass was without the classifier, so that features are kept.
        """
        if self._deferred:
            raise ValueError(
                "state after revisit without A: the features are kept for it; give the classifier A to revisit"
            )
        return self._fed.state()

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike], *, history: History | None = None) -> "Recorder":
        """The recorder that a state, or the sum of several, is of.

        Args:
            state: what `state` gave, or a sum of such dicts, of arrays of any library.
            history: to go on with; by default an empty one.

        Raises:
            ValueError: for what is no such state, and for a sum of states of different recorders.
        """
        fed = Fed.from_state(state)
        history = _nothing() if history is None else history
        made = cls(fed.num_classes, history, absent=fed.absent, ignore=fed.ignore)
        made._fed = fed
        return made

    def figure(self, name: str = "network") -> "Figure":
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
                plot.unmeasured(axis, NEEDS[metric])
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to exactly `path`, without pickle; `ufm.load` gives a recorder that goes on from it."""
        archive.save(path, self)

    def _to_file(self) -> dict[str, Any]:
        """The history, and what was fed since."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "fed": self._fed.state(), "kept": self._deferred}

    @classmethod
    def _of_file(cls, fed: Any = None, kept: Any = (), **fields: Any) -> "Recorder":
        """The same; what earlier versions wrote has a history alone."""
        made = cls(**fields)
        made._fed = made._fed if fed is None else Fed.from_state(fed)
        made._deferred = [tuple(each) for each in kept]
        return made
