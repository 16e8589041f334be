"""What the metrics of collapse are of each class alone: means over classes hide one that doesn't collapse."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import silent
from ufm._core.blas import one_thread
from ufm._core.repr import call
from ufm.metrics.arithmetic import norm, over, power_of_two
from ufm.metrics.definitions import Metrics, numbers, summary
from ufm.metrics.means import Means
from ufm.metrics.pairs import neighbours, pairs_of
from ufm.metrics.passes import Spreads

if TYPE_CHECKING:
    import xarray

# What a label of a plot or of a variable says of each.
LONG_NAMES = {
    "count": "samples",
    "nc1": "within-class variability in units of the between-class one",
    "spread": "root mean square distance from the class mean",
    "norm": "distance of the class mean from the mean of class means",
    "alignment": "cosine between classifier row and centred class mean",
    "nearest": "other class whose mean is nearest",
    "distance": "distance to the nearest other class mean",
    "nc4": "disagreement with the nearest class centre",
    "accuracy": "accuracy on these samples",
}


class Uniformity(NamedTuple):
    """How evenly class means are spread over directions, and how evenly the classifier is aligned with them.

    Beside NC2 and NC3 these are what is quoted of vocabularies, where classes outnumber dimensions (Liu et al. 2018,
    minimum hyperspherical energy; Wu and Papyan 2024, their GNC2 and UNC3). With m_k the centred mean of class k, over
    its norm, and a_k the classifier's row, over its own; dimensionless.

    Attributes:
        cosine: mean of ⟨m_k, m_l⟩ over pairs k ≠ l.
        cosine_spread: their standard deviation, which is `Metrics.equiangular`.
        log_distance: mean of log ‖m_k − m_l‖; −∞ where two are the same.
        log_distance_spread: their standard deviation.
        duality: mean of ⟨a_k, m_k⟩ over classes; None without a classifier.
        duality_spread: their standard deviation.
    """

    cosine: Any
    cosine_spread: Any
    log_distance: Any
    log_distance_spread: Any
    duality: Any
    duality_spread: Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classes:
    """Each class's own share in the metrics, (K,) arrays; NaN, and −1 in `nearest`, where a class is absent.

    Attributes:
        count: samples.
        nc1: mean of ‖W(h − μ_k)‖² over the class's samples, WᵀW = Cov_B†/K: their mean over all samples is `nc1`.
            Dimensionless; None without the second pass.
        spread: root mean square of ‖h − μ_k‖ over the class's samples, in units of the features; None like `nc1`.
        norm: ‖μ_k − μ_G‖, in units of the features.
        alignment: cosine between the classifier's row and μ_k − μ_G; None without a classifier.
        nearest: the other class whose mean is nearest.
        distance: of that mean from the class's own, in units of the features.
        nc4: share of the class's samples on which classifier and nearest class centre disagree; None without either.
        accuracy: share of the class's samples that the classifier gets right; None like `nc4`.
    """

    count: Float[np.ndarray, " K"]
    nc1: Float[np.ndarray, " K"] | None
    spread: Float[np.ndarray, " K"] | None
    norm: Float[np.ndarray, " K"]
    alignment: Float[np.ndarray, " K"] | None
    nearest: Int[np.ndarray, " K"]
    distance: Float[np.ndarray, " K"]
    nc4: Float[np.ndarray, " K"] | None
    accuracy: Float[np.ndarray, " K"] | None

    def known(self) -> dict[str, np.ndarray]:
        """What was measured, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def to_xarray(self) -> "xarray.Dataset":
        """What was measured over `class`."""
        import xarray

        variables = {name: ("class", value, {"long_name": LONG_NAMES[name]}) for name, value in self.known().items()}
        return xarray.Dataset(variables, {"class": np.arange(len(self.count))})

    def __repr__(self) -> str:
        return call("Classes", self.known())

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(
            ("class", *self.known()),
            [list(row) for row in zip(range(len(self.count)), *self.known().values(), strict=True)],
        )


class Measured(Metrics):
    """Metrics of features with values, and what else was found of them.

    Attributes:
        rank: of the centred class means: how many directions nc1 is over. At most K − 1 and d; fewer where means lie in
            a subspace, or nearer to one than the rounding of the features (see `ufm.measure`).
        absent: how many of the K classes have no sample; 0 unless `absent="drop"` lets them have none.
        uniformity: `Uniformity` of the class means.
        classes: `Classes`, each class's own; None unless `per_class=True`.
    """

    rank: int = 0
    absent: int = 0
    uniformity: Uniformity | None = None
    classes: Classes | None = None


def measured(means: Means, spreads: Spreads | None, A: Any, per_class: bool) -> Measured:
    """Metrics of what the passes gave; None for what a missing pass or classifier would tell."""
    about, rows = means.about, means.of_rows(A)
    variances = None if spreads is None else spreads.within / about.count
    with one_thread(), silent():
        pairs = pairs_of(about.centred, variances, about.rounding**2)
        found = Measured(*numbers(summary(about, spreads, rows, pairs)))
        cosines = None if A is None else _alignment(about.centred, rows)
        duality = (None, None) if cosines is None else (cosines.mean(), cosines.std())
        found.rank, found.absent = int(np.count_nonzero(np.any(about.whitener != 0, axis=1))), means.absent
        of_pairs = (pairs.cosine, found.equiangular, pairs.log_distance, pairs.log_distance_spread)
        found.uniformity = Uniformity(*(None if each is None else each[()] for each in (*of_pairs, *duality)))
        found.classes = _classes(means, spreads, cosines) if per_class else None
    return found


def _alignment(C, A):
    """(groups,) cosines between rows."""
    A = A * power_of_two(A)
    return np.einsum("ij,ij->i", over(A, norm(A, axis=1)[:, None]), over(C, norm(C, axis=1)[:, None]))


def _classes(means: Means, spreads: Spreads | None, cosines: Any) -> Classes:
    """Each class's own share."""
    about, of_all = means.about, means.for_all
    nearest, distance = neighbours(about.centred)
    nearest = of_all((nearest if means.names is None else means.names[nearest]).astype(float))
    shares: dict[str, Any] = dict.fromkeys(("nc1", "spread", "nc4", "accuracy"))
    if spreads is not None:
        shares |= {"nc1": spreads.whitened / about.count, "spread": np.sqrt(spreads.within / about.count) / about.scale}
        if spreads.right is not None:
            shares |= {"nc4": spreads.disagreements / about.count, "accuracy": spreads.right / about.count}
    return Classes(
        count=np.nan_to_num(of_all(about.count)),
        norm=of_all(norm(about.centred, axis=1) / about.scale),
        alignment=None if cosines is None else of_all(cosines),
        nearest=np.nan_to_num(nearest, nan=-1.0).astype(int),
        distance=of_all(distance / about.scale),
        **{name: None if share is None else of_all(share) for name, share in shares.items()},
    )
