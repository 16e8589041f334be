"""Other features, a test set's, measured against the class means of those that a network was trained on."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ufm._core.arrays import silent
from ufm._core.checks import doubles
from ufm._core.repr import call
from ufm.metrics.arguments import Batch, rounding_of
from ufm.metrics.arithmetic import norm, ratio
from ufm.metrics.decisions import Rule
from ufm.metrics.means import Means
from ufm.metrics.rows import Totals, decisions_of, spreads_of


class Evaluation(NamedTuple):
    """What other features are beside the class means of the training features; dimensionless.

    Where all training means are equal, ratios to their spread are ∞, or 0 where what is measured is but rounding.

    Attributes:
        nc1: mean of ‖W(h − μ_y)‖² with training means μ_k and WᵀW = Cov_B†/K of them: on the training features
            themselves this is `Metrics.nc1`.
        trace_ratio: mean of ‖h − μ_y‖², over Tr Cov_B of the training means.
        nc4: share of samples on which classifier and nearest training mean disagree; None without a classifier.
        accuracy: share of samples that the classifier gets right; None without one.
        nearest_accuracy: share of samples whose nearest training mean is that of their class.
        shift: root mean square over classes of the distance between the mean of these features and the training mean,
            over √Tr Cov_B.
    """

    nc1: Any
    trace_ratio: Any
    nc4: Any
    accuracy: Any
    nearest_accuracy: Any
    shift: Any

    def __repr__(self) -> str:
        return call("Evaluation", {name: value for name, value in self._asdict().items() if value is not None})


def means_given(means: Any, dim: int) -> Means:
    """Class means (K, d) that somebody has, as arrays of features have them."""
    found = doubles("means", means, (None, dim), f"finite class means of shape (K, {dim})")
    if len(found) < 2:
        raise ValueError(f"means of shape {found.shape}: those of at least two classes are needed")
    return Means.of(np.ones(len(found)), found, rounding_of("means", means), None, len(found))


class Counts(NamedTuple):
    """Of a batch: samples, those whose class has a training mean, and sums over these and over all."""

    samples: float
    known: float
    within: float
    whitened: float
    nearest_right: float
    disagreements: float
    right: float


def evaluation(means: Means, batches: Iterable[Batch], A: Any = None, b: Any = None) -> Evaluation:
    """Samples against training means; those of a class without one have no part in spreads and shift.

    Args:
        means: of the training features.
        batches: of samples whose labels are below K.
        A: (K, d) classifier, or None.
        b: (K,) its bias, or None.

    Raises:
        ValueError: for samples none of whose classes has a training mean.
    """
    judges, totals = means.judges(A, b), Totals(*means.about.means.shape)
    rules = (means.nearest(),) if judges is None else (judges.nearest, judges.given)
    counted = [_counted(means, samples, rules, totals) for samples in batches if len(samples.labels)]
    sums = Counts(*np.sum(counted, axis=0)) if counted else Counts(*[0.0] * len(Counts._fields))
    if not sums.known:
        raise ValueError("labels: no sample of a class that has a training mean")
    with silent():
        about, within = means.about, sums.within / sums.known
        between, noise = np.mean(norm(about.centred, axis=1) ** 2), about.rounding**2
        apart = np.any(about.whitener)
        return Evaluation(
            nc1=sums.whitened / sums.known if apart else ratio(within, np.float64(0.0), noise)[()],
            trace_ratio=ratio(within, between, noise)[()],
            nc4=None if judges is None else sums.disagreements / sums.samples,
            accuracy=None if judges is None else sums.right / sums.samples,
            nearest_accuracy=sums.nearest_right / sums.samples,
            shift=ratio(_shift(means, totals), np.sqrt(between), about.rounding)[()],
        )


def _counted(means: Means, samples: Batch, rules: tuple[Rule, ...], totals: Totals) -> Counts:
    """A batch, which is added to the totals too."""
    X, labels, places = samples.H, samples.labels, means.place_of(samples.labels)
    nearest, *decisions = decisions_of(X, means.about, rules)
    nearest = nearest if means.names is None else means.names[nearest]
    judged = [(np.sum(nearest != decision), np.sum(decision == labels)) for decision in decisions]
    known = places >= 0
    at, of = (X, places) if np.all(known) else (X[known], places[known])
    spreads = spreads_of(at, of, means.about, None) if len(at) else None
    totals.add(at, of)
    return Counts(
        len(labels),
        len(at),
        *((0.0, 0.0) if spreads is None else (np.sum(spreads.within), np.sum(spreads.whitened))),
        np.sum(nearest == labels),
        *(judged[0] if judged else (0.0, 0.0)),
    )


def _shift(means: Means, totals: Totals) -> Any:
    """Root mean square of the distances between class means, in the coordinates of the training means."""
    some = totals.count > 0
    moved = totals.features[some] / totals.count[some, None] - means.about.means[some]
    return np.sqrt(np.mean(norm(moved * means.about.scale, axis=1) ** 2))
