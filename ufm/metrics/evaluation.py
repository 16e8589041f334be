"""Other features, a test set's, measured against the class means of those that a network was trained on."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ufm._core.arrays import silent
from ufm._core.checks import doubles
from ufm._core.repr import call
from ufm.metrics.arguments import Batch, rounding_of
from ufm.metrics.arithmetic import norm, over
from ufm.metrics.means import Means
from ufm.metrics.rows import Totals, decisions_of, spreads_of


class Evaluation(NamedTuple):
    """What other features are beside the class means of the training features; dimensionless.

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
    return Means.of(np.ones(len(found)), found, rounding_of(means), None, len(found))


def evaluation(means: Means, samples: Batch, A: Any = None, b: Any = None) -> Evaluation:
    """Samples against training means; those of a class without one have no part in spreads and shift.

    Args:
        means: of the training features.
        samples: at least one, whose labels are below K.
        A: (K, d) classifier, or None.
        b: (K,) its bias, or None.

    Raises:
        ValueError: for samples none of whose classes has a training mean.
    """
    X, labels, about = samples.H, samples.labels, means.about
    places = means.place_of(labels)
    known = places >= 0
    if not np.any(known):
        raise ValueError("labels: no sample of a class that has a training mean")
    at, of = (X, places) if np.all(known) else (X[known], places[known])
    spreads = spreads_of(at, of, about, None)
    nearest, decision = _decisions(means, X, A, b)
    with silent():
        between = np.mean(norm(about.centred, axis=1) ** 2)
        return Evaluation(
            nc1=np.sum(spreads.whitened) / len(at),
            trace_ratio=over(np.sum(spreads.within) / len(at), between)[()],
            nc4=None if decision is None else np.mean(nearest != decision),
            accuracy=None if decision is None else np.mean(decision == labels),
            nearest_accuracy=np.mean(nearest == labels),
            shift=over(_shift(means, at, of), np.sqrt(between))[()],
        )


def _decisions(means: Means, X: Any, A: Any, b: Any) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"] | None]:
    """(n,) classes of the nearest means, and those that the classifier decides for."""
    judges = means.judges(A, b)
    rules = (means.nearest(),) if judges is None else (judges.nearest, judges.given)
    nearest, *decision = decisions_of(X, means.about, rules)
    return nearest if means.names is None else means.names[nearest], decision[0] if decision else None


def _shift(means: Means, X: Any, places: Int[np.ndarray, " n"]) -> Any:
    """Root mean square of the distances between class means, in the coordinates of the training means."""
    totals = Totals(*means.about.means.shape)
    totals.add(X, places)
    some = totals.count > 0
    moved = totals.features[some] / totals.count[some, None] - means.about.means[some]
    return np.sqrt(np.mean(norm(moved * means.about.scale, axis=1) ** 2))
