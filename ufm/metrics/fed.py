"""What batches of features add up to: two passes, whose sums are kept in float64, and may be of several machines."""

import copy
from typing import Any

import numpy as np

from ufm._core.checks import choice, flag, instance, integer, room_for
from ufm.metrics.arguments import ABSENT, Batch, absent_classes, batch, check_untraced, classifier, given_as_numpy
from ufm.metrics.classes import Measured, measured
from ufm.metrics.labels import checked_ignore
from ufm.metrics.means import Means, same
from ufm.metrics.passes import Spreads
from ufm.metrics.rows import Totals, added, spreads_of
from ufm.metrics.states import SAME, packed, unpacked

HALF = 2**32  # of an integer of 64 bits, which float64 doesn't hold whole
DRIFT = 1e-2  # of the features between two passes, relative; bfloat16 rounds at 2⁻⁸ and may do so anew at each pass


class Fed:
    """Sums of what was fed: of the first pass, then of the second, with the classifier that it is about.

    Args:
        num_classes: K ≥ 2.
        absent: what becomes of classes without a sample: "error" or "drop".
        ignore: a label whose samples are left out.
    """

    def __init__(self, num_classes: Any, *, absent: Any = "error", ignore: Any = None):
        self.num_classes = integer("num_classes", num_classes, least=2)
        self.absent = choice("absent", absent, ABSENT)
        self.ignore = checked_ignore(ignore)
        room_for(f"num_classes = {self.num_classes}: counts of classes", self.num_classes)
        self._first: Totals | None = None
        self._rounding = 0.0  # of the features, relative: that of each sample, added up
        self._means: Means | None = None
        self._again: Totals | None = None
        self._spreads: Spreads | None = None
        self._classifier: Any = (None, None)

    def add(self, H: Any, labels: Any) -> None:
        """First pass: a batch of features (n, d) and labels (n,)."""
        if self._means is not None:
            raise ValueError("add after revisit: the means of the first pass are already in use; start anew")
        self.take(self.checked(H, labels))

    def take(self, samples: Batch) -> None:
        """First pass over samples that are checked."""
        K, d = self.num_classes, samples.H.shape[1]
        if self._first is None:
            room_for(f"num_classes = {K}: sums of shape ({K}, {d})", K * d)
            self._first = Totals(K, d)
        self._first.add(samples.H, samples.labels)
        self._rounding += samples.unit * len(samples.labels)

    def revisit(self, H: Any, labels: Any, A: Any = None, b: Any = None) -> None:
        """Second pass: the same batches, in any order, with the classifier that nc4 and accuracy speak of."""
        samples, first = self.checked(H, labels), self.first_sums()
        self.means()
        given = self._checked_classifier(A, b, samples.H.shape[1])
        if self._spreads is not None and not same(given, self._classifier):
            raise ValueError("A, b: another classifier than the second pass began with; one for all batches is needed")
        _check_known(first.count, samples.labels)
        again = Totals(*first.features.shape) if self._again is None else self._again
        self.take_again(samples, given)
        again.add(samples.H, samples.labels)
        self._again = again

    def take_again(self, samples: Batch, given: tuple[Any, Any], decisions: Any = None) -> None:
        """Second pass over samples that are checked, and known to be those of the first.

        With `decisions` (n,), of a classifier that reads other features, these are what nc4 and accuracy speak of.
        """
        means, self._classifier = self.means(), given
        judges = means.judges(*given) if decisions is None else means.judges_of(decisions)
        spreads = spreads_of(samples.H, means.place_of(samples.labels), means.about, judges)
        self._spreads = spreads if self._spreads is None else added(self._spreads, spreads)

    def metrics(self, A: Any = None, b: Any = None, *, per_class: Any = False) -> Measured:
        """Metrics of all that was added; nc1, nc4, trace_ratio, cdnv and accuracy need the second pass.

        Args:
            A: (K, d) classifier; by default the one that `revisit` was given.
            b: (K,) its bias; by default the one that `revisit` was given. Only nc4 and accuracy depend on it.
            per_class: whether to say of each class what is its own (see `ufm.measure`).
        """
        flag("per_class", per_class)
        means, (known_A, known_b) = self.means(), self._classifier
        bias = known_b if b is None and A is not None else b
        given = self._checked_classifier(A, bias, means.about.means.shape[1])
        if self._again is not None:
            _check_same_features(self.first_sums(), self._again, self._spreads, means)
        if known_A is not None and A is not None and not same(given, self._classifier):
            raise ValueError("A, b: another classifier than in the second pass")
        return measured(means, self._spreads, given[0] if known_A is None else known_A, per_class)

    def checked(self, H: Any, labels: Any, dim: int | None = None) -> Batch:
        """A batch as arrays, or the ValueError that says why it cannot belong to the others."""
        samples = batch(H, labels, self.ignore)
        dim = self._first.features.shape[1] if dim is None and self._first is not None else dim
        if dim is not None and samples.H.shape[1] != dim:
            raise ValueError(f"features H of shape {samples.H.shape}: {dim} columns, as before, are needed")
        if samples.labels.size and samples.labels.max() >= self.num_classes:
            raise ValueError(
                f"labels up to {samples.labels.max()}: less than num_classes = {self.num_classes} is needed"
            )
        return samples

    def means(self) -> Means:
        """What the first pass says; it ends with the first call."""
        first = self.first_sums()
        if self._means is None:
            names = absent_classes(self.absent, first.count > 0)
            count, sums = (of if names is None else of[names] for of in (first.count, first.features))
            self._means = Means.of(count, sums / count[:, None], self._rounding / count.sum(), names, self.num_classes)
        return self._means

    def checked_against(self, means: Means, H: Any, labels: Any, A: Any, b: Any) -> tuple[Batch, tuple[Any, Any]]:
        """Other samples and a classifier, to be held against means."""
        dim = means.about.means.shape[1]
        samples = self.checked(H, labels, dim)
        return samples, self._checked_classifier(A, b, dim)

    def any_added(self) -> bool:
        """Whether the first pass has begun."""
        return self._first is not None

    def first_sums(self) -> Totals:
        """What was added."""
        if self._first is None or not self._first.count.any():
            raise ValueError("no features added: call add first")
        return self._first

    def state(self) -> dict[str, np.ndarray]:
        """What was fed so far, as a flat dict of float64 arrays that add up over ranks (see `ufm.Recorder.state`)."""
        shared: dict[str, Any] = {"num_classes": self.num_classes, "drop": self.absent == "drop"}
        shared |= {} if self.ignore is None else {"ignore": divmod(self.ignore, HALF)}
        first = {} if self._first is None else {**vars(self._first), "rounding": self._rounding}
        if self._again is None or self._spreads is None:
            return packed(shared, first)
        shared |= {**first, "scale": self.means().about.scale}
        shared |= {} if self._classifier[0] is None else dict(zip("Ab", self._classifier, strict=True))
        spreads = {name: array for name, array in self._spreads._asdict().items() if array is not None}
        again = {f"{name}_again": array for name, array in vars(self._again).items()}
        return packed(shared, again | {f"spread_{name}": array for name, array in spreads.items()})

    @classmethod
    def from_state(cls, state: Any) -> "Fed":
        """The one that gave a state, or that was fed all that several were whose states are added up here.

        Raises:
            ValueError: for what is no such state, and for states of different streams.
        """
        shared, sums = unpacked(state)
        try:
            ignore = int(np.dot(shared["ignore"].astype(int), (HALF, 1))) if "ignore" in shared else None
            found = cls(int(shared["num_classes"]), absent=ABSENT[int(shared["drop"])], ignore=ignore)
            second = "count" in shared
            first = shared if second else sums
            if "count" in first:
                found._first = Totals.of(np.rint(first["count"]), first["features"])
                found._rounding = float(first["rounding"])
            if second:
                found._resume(shared, sums)
        except KeyError as error:
            raise ValueError(f"state: it has no {error}; all that state() gives is needed") from error
        return found

    def _resume(self, shared, sums) -> None:
        """A second pass that was begun elsewhere."""
        self._again = Totals.of(sums["count_again"], sums["features_again"])
        self._classifier = shared.get("A"), shared.get("b")
        spreads = Spreads(*(sums.get(f"spread_{name}") for name in Spreads._fields))
        self._spreads = _rescaled(spreads, float(self.means().about.scale / shared["scale"]))

    def merge(self, other: "Fed", again: bool = False) -> None:
        """Add what another was fed: both in the first pass, or both in the second after the same first one.

        Args:
            other: with the same options.
            again: whether a second pass has begun of which neither knows yet.
        """
        instance("other", other, Fed, "what was fed to another of the same kind")
        for name in ("num_classes", "absent", "ignore"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"other: its {name} is {getattr(other, name)!r}; {getattr(self, name)!r} is needed")
        if self._first is None or other._first is None:
            self._take_over(other)
        elif self._first.features.shape != other._first.features.shape:
            raise ValueError(
                f"other: {other._first.features.shape[1]} columns; {self._first.features.shape[1]} are needed"
            )
        elif not again and self._again is None and other._again is None:
            self._first.join(other._first)
            self._rounding, self._means = self._rounding + other._rounding, None
        else:
            self._merge_second(other)

    def _take_over(self, other) -> None:
        """All of another's, where this one has nothing yet."""
        if self._first is None:
            copied = other.copied()
            for name in ("_first", "_rounding", "_means", "_again", "_spreads", "_classifier"):
                setattr(self, name, getattr(copied, name))

    def _merge_second(self, other) -> None:
        mine, theirs = self.first_sums(), other.first_sums()
        size = np.abs(mine.features).max()  # for sums may cancel, and are rounded in the order they are added up in
        if not np.array_equal(mine.count, theirs.count) or not np.allclose(
            mine.features, theirs.features, SAME, SAME * size
        ):
            raise ValueError(
                "other: another first pass; before a second pass begins anywhere, merge all first passes, and give "
                "each rank the result"
            )
        if other._again is None:
            return
        spreads = _rescaled(other._spreads, float(self.means().about.scale / other.means().about.scale))
        if self._again is None:
            self._again, self._spreads, self._classifier = other._again.copied(), spreads, other._classifier
            return
        if not same(self._classifier, other._classifier):
            raise ValueError("other: its second pass has another classifier; one for all is needed")
        self._again.join(other._again)
        self._spreads = spreads if self._spreads is None else added(self._spreads, spreads)

    def copied(self) -> "Fed":
        """One that may be fed without this one being changed."""
        other = copy.copy(self)
        other._first, other._again = (None if each is None else each.copied() for each in (self._first, self._again))
        return other

    def _checked_classifier(self, A, b, dim):
        check_untraced(A=A, b=b)
        if A is not None and self._classifier[0] is not None and same(given_as_numpy(A, b), self._classifier):
            return self._classifier  # as for every batch but the first, of which it need not be made again
        return classifier(A, b, self.num_classes, dim, np.float64)


def _rescaled(spreads: Spreads, ratio: float) -> Spreads:
    """Spreads in coordinates of another scale, a power of two times as large."""
    return spreads._replace(within=spreads.within * ratio**2)


def _check_known(count: np.ndarray, labels: np.ndarray) -> None:
    """Refuse samples of a class that the first pass had none of."""
    strange = labels[count[labels] == 0]
    if len(strange):
        raise ValueError(f"labels: revisited a sample of class {strange[0]}, of which none was added")


def _check_same_features(first: Totals, again: Totals, spreads: Any, means: Means) -> None:
    """Refuse a second pass over other samples or other features than the first's."""
    if not np.array_equal(first.count, again.count):
        k = np.flatnonzero(first.count != again.count)[0]
        raise ValueError(
            f"revisited {again.count.sum():.0f} samples, added {first.count.sum():.0f} "
            f"(of class {k} {again.count[k]:.0f} and {first.count[k]:.0f}): the same are needed"
        )
    if not np.array_equal(means.of_rows(again.count), spreads.count):
        raise ValueError("features H of the second pass: a batch was interrupted, and counted by halves; start anew")
    # independent errors of relative size r in each sample give r here, whatever the number of samples
    about = means.about
    squares = np.sum(spreads.within) + np.sum(about.count[:, None] * (about.means * about.scale) ** 2)
    drift = np.linalg.norm((again.features - first.features) * about.scale) / np.sqrt(squares) if squares > 0 else 0.0
    if drift > DRIFT:
        raise ValueError(
            f"features H of the second pass: their class sums are off by {drift:.1e} of the features' norm; the "
            "features of the first pass are needed again (evaluation mode, and no step between the passes)"
        )
