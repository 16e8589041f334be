"""Class means that features are measured against, of the classes that have samples."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm.metrics.definitions import judges_of
from ufm.metrics.passes import Centres, Judges, Rule, centres, nearest_centre

MEAN_ROUNDED = 1e-12  # relative, of a sum over machines by their number


@dataclasses.dataclass(eq=False)
class Means:
    """Means of classes, and the coordinates that they span.

    Attributes:
        about: of the classes that have samples, (groups, d).
        names: (groups,) which of the classes these are; None where all have.
        num_classes: K.
    """

    about: Centres
    names: Int[np.ndarray, " groups"] | None
    num_classes: int
    _judges: Any = dataclasses.field(default=((None, None), None), repr=False)

    @classmethod
    def of(
        cls,
        count: Float[np.ndarray, " groups"],
        means: Float[np.ndarray, "groups d"],
        unit: float,
        names: Any,
        num_classes: int,
    ) -> "Means":
        """Of the means of classes and the relative rounding of the features that they are of."""
        with one_thread(), silent():
            return cls(centres(count, means, unit=unit), names, num_classes)

    @property
    def absent(self) -> int:
        """Of the K classes, how many have no mean."""
        return self.num_classes - len(self.about.means)

    def place_of(self, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """(n,) the row of each label's mean; −1 where it has none."""
        if self.names is None:
            return labels
        places = np.full(self.num_classes, -1)
        places[self.names] = np.arange(len(self.names))
        return places[labels]

    def of_rows(self, A: Any) -> Any:
        """Of an array of a row for each of K classes, those that have a mean; None stays."""
        return A if A is None or self.names is None else A[self.names]

    def for_all(self, values: Float[np.ndarray, " groups"]) -> Float[np.ndarray, " K"]:
        """(K,) of what is known of the classes that have a mean; NaN for the others."""
        if self.names is None:
            return values
        found = np.full(self.num_classes, np.nan)
        found[self.names] = values
        return found

    def judges(self, A: Any, b: Any) -> Judges | None:
        """The nearest class centre and a classifier (K, d), (K,), in a form that serves many batches."""
        if A is None:
            return None
        known, judges = self._judges
        if judges is None or not same((A, b), known):
            with one_thread(), silent():
                judges = judges_of(self.about, A, b, self.names)
                judges = Judges(judges.nearest.prepared(), judges.given.prepared(), judges.names)
            self._judges = (A, b), judges
        return judges

    def judges_of(self, decisions: Int[np.ndarray, " n"]) -> Judges:
        """The nearest class centre, and what a classifier decided that reads other features of the same samples."""
        return Judges(self.nearest(), self.nearest(), self.names, decisions)

    def nearest(self) -> Rule:
        """The nearest class centre, which decides for a row of the means."""
        return nearest_centre(self.about).prepared()


def same(classifier: Any, other: Any) -> bool:
    """Whether two classifiers, or their absence, are the same, but for the rounding of a mean over many machines."""
    return all(map(_equal, classifier, other))


def _equal(one: Any, two: Any) -> bool:
    if one is None or two is None or one.shape != two.shape:
        return one is two
    return np.array_equal(one, two) or np.allclose(one, two, MEAN_ROUNDED, 0.0)
