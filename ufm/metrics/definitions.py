"""Neural collapse in numbers: NC1–NC4 and their relatives, from sums over samples in two passes.

With class means μ_k, the mean of class means μ_G (not the sample mean: the two differ where classes are
unbalanced), C the centred means μ_k − μ_G and M their rows normalised,

    Cov_W = (1/N) Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ,    Cov_B = (1/K) Σ_k (μ_k − μ_G)(μ_k − μ_G)ᵀ.

On balanced classes they add up to the total covariance; on unbalanced ones they do not. A covariance is never
formed: everything follows from the smaller of the K×K and d×d Grams of the centred means.

Classes are what labels name, and K is how many there are: of means, and where class labels are learned also of the
classifier's rows. Beside a classifier of another number of rows, what pairs a row with a mean (nc3, nc4, self_duality,
accuracy) is None; nothing else needs both numbers to be the same.

A zero vector or matrix normalises to zero. So where all means are equal NC2, NC3 and self-duality are 1,
equinorm and cosines are 0; and a ratio to a vanishing between-class spread is ∞, or 0 where the within-class
spread vanishes too. No metric is ever negative.
"""

from numbers import Real
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ufm._core.archive import storable
from ufm._core.arrays import Array, namespace, namespace_of
from ufm._core.repr import call
from ufm.metrics.arithmetic import norm, over, power_of_two, ratio, root
from ufm.metrics.pairs import Pairs, pairs_of
from ufm.metrics.passes import (
    Centres,
    Judges,
    Spreads,
    as_rule,
    centres,
    first_pass,
    nearest_centre,
    second_pass,
    verdicts,
)


@storable
class Metrics(NamedTuple):
    """Dimensionless measures of collapse; what needs a classifier is None where none was given.

    Attributes:
        nc1: (1/K) Tr(Cov_W Cov_B†), within-class over between-class variability.
        nc2: ‖MMᵀ/‖MMᵀ‖ − (I − J/K)/√(K−1)‖, the means' distance to a simplex ETF.
        nc3: ‖AMᵀ/‖AMᵀ‖ − (I − J/K)/√(K−1)‖, the classifier's misalignment with the means.
        nc4: share of samples on which the classifier and the nearest class centre disagree.
        equinorm: standard deviation over mean of the norms of the centred means.
        equinorm_A: the same of the classifier's rows.
        equiangular: standard deviation of the cosines between centred means.
        simplex_angle: mean |cos + 1/(K−1)| between centred means.
        self_duality: ‖A/‖A‖ − C/‖C‖‖ with A as it is and C the centred means, not row-normalised.
        trace_ratio: Tr Cov_W / Tr Cov_B.
        cdnv: class-distance normalised variance, mean over pairs of (σ_k² + σ_l²)/(2‖μ_k − μ_l‖²)
            (Galanti et al. 2022).
        accuracy: share of samples that the classifier gets right.
    """

    nc1: Any
    nc2: Any
    nc3: Any
    nc4: Any
    equinorm: Any
    equinorm_A: Any
    equiangular: Any
    simplex_angle: Any
    self_duality: Any
    trace_ratio: Any
    cdnv: Any
    accuracy: Any

    def __str__(self) -> str:
        """One line for a log: NC1–NC4 and the accuracy, those that are known."""
        values = dict(self.known())
        if not all(isinstance(value, Real) for value in values.values()):
            return repr(self)  # of traced numbers, or of a history's arrays
        formats = {"nc1": ".1e", "nc2": ".1e", "nc3": ".1e", "nc4": ".1e", "accuracy": ".4f"}
        return "  ".join(f"{name} {values[name]:{form}}" for name, form in formats.items() if name in values)

    def __repr__(self) -> str:
        return call("Metrics", dict(self.known()))

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(("metric", "value"), self.known())

    def known(self) -> list[tuple[str, Any]]:
        """Names and values of those that were measured."""
        return [(name, value) for name, value in self._asdict().items() if value is not None]


# What a label of a plot or of a variable says of each metric, and of what stands beside them in a history.
LONG_NAMES = {
    "step": "optimiser steps",
    "loss": "objective",
    "nc1": "NC1: within-/between-class variability Tr(Σ_W Σ_B†)/K",
    "nc2": "NC2: distance of the class means to a simplex ETF",
    "nc3": "NC3: misalignment of classifier and class means",
    "nc4": "NC4: disagreement with the nearest class centre",
    "equinorm": "spread of the class means' norms",
    "equinorm_A": "spread of the classifier's row norms",
    "equiangular": "spread of the cosines between class means",
    "simplex_angle": "mean |cos + 1/(K−1)| between class means",
    "self_duality": "distance of the classifier to the class means, each of norm 1",
    "trace_ratio": "within-/between-class variability Tr Σ_W / Tr Σ_B",
    "cdnv": "class-distance normalised variance",
    "accuracy": "accuracy on these samples",
}


def of_columns(
    H: Float[Array, "d N"],
    labels: Int[Array, " N"],
    num_groups: int,
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"] | None,
    decisions: Int[Array, " N"] | None = None,
) -> Metrics:
    """All metrics of features in columns, as jitted code holds them; in their namespace, traceable.

    With `decisions`, which a classifier of later features made, these are what nc4 and accuracy speak of.
    """
    about, spreads = passes_of_columns(H, labels, num_groups, A, b, decisions)
    return summary(about, spreads, A, pairs_of(about.centred, spreads.within / about.count, about.rounding**2))


def passes_of_columns(
    H: Float[Array, "d N"],
    labels: Int[Array, " N"],
    num_groups: int,
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"] | None,
    decisions: Int[Array, " N"] | None = None,
) -> tuple[Centres, Spreads]:
    """Both passes over features in columns, with a classifier that has a row for each group.

    Features are moved near to zero and to size 1 before anything is added up; no metric and no derivative depends on
    where to, nor on how large they were.
    """
    xp = namespace(H, labels, A, b)
    still = jax.lax.stop_gradient if xp is not np else lambda x: x
    offset = still(H @ xp.full(H.shape[1], 1.0 / H.shape[1], H.dtype))
    H = H - offset[:, None]
    scale = power_of_two(H)
    sums = first_pass(H * scale, labels, num_groups)
    about = centres(sums.count, sums.means(), offset * scale)
    judges = None
    if A is not None and len(A) == num_groups:
        size = power_of_two(A)
        b = (xp.zeros_like(A[:, 0]) if b is None else b * size) + (A * size) @ offset
        judges = judges_of(about, A * size, b * scale)._replace(decisions=decisions)
    return about, second_pass(H * scale, labels, about, judges)


def of_means(
    means: Float[Array, "groups d"],
    count: Float[Array, " groups"],
    A: Float[Array, "K d"],
    b: Float[Array, " K"],
    decisions: Int[Array, " groups"] | None = None,
) -> Metrics:
    """Metrics of features that have collapsed to their means, `count` of each class; in their namespace, traceable."""
    xp, about = namespace(means, count, A, b), centres(count, means)
    zeros, wrong, right = xp.zeros_like(count), None, None
    if len(A) == len(count):
        judges = judges_of(about, A, b)._replace(decisions=decisions)
        judged = verdicts(means.T, xp.arange(len(count), dtype=np.int32), about, judges)
        wrong, right = (xp.where(verdict, count, 0.0) for verdict in judged)
    return summary(about, Spreads(count, zeros, zeros, wrong, right), A, pairs_of(about.centred, zeros))


def of_groups(about: Centres, spreads: Spreads, A: Float[Array, "K d"] | None, accuracy: Any) -> Metrics:
    """Metrics of groups that are no classes, in time linear in their number.

    What is about a simplex, about pairs of groups, or pairs a group with an output is None.
    """
    values = {"equinorm": relative_spread(norm(about.centred, axis=1))}
    if A is not None:
        values["equinorm_A"] = relative_spread(norm(A * power_of_two(A), axis=1))
    values |= {name: value for name, value in _of_spreads(about, spreads, None).items() if value is not None}
    return Metrics(**{**dict.fromkeys(Metrics._fields), **values, "accuracy": accuracy})


def judges_of(about: Centres, A: Float[Array, "K d"], b: Float[Array, " K"], names: Any = None) -> Judges:
    """The nearest centre and a classifier side by side."""
    return Judges(nearest_centre(about), as_rule(A, b, about), names)


def summary(about: Centres, spreads: Spreads | None, A: Any, pairs: Pairs) -> Metrics:
    """Metrics from the sums of the two passes; None for what a missing pass or classifier would tell.

    Args:
        about: what the first pass gave.
        spreads: what the second gave.
        A: a classifier (K, d) or None; what pairs its rows with the means is known where there are as many.
        pairs: of the centred means, with variances where the second pass is known.
    """
    values = dict.fromkeys(Metrics._fields) | _of_centres(about, pairs)
    if A is not None:
        A = A * power_of_two(A)
        values["equinorm_A"] = relative_spread(norm(A, axis=1))
        if len(A) == len(about.centred):
            values |= _of_both(about, A)
    if spreads is not None:
        values |= _of_spreads(about, spreads, pairs)
    return Metrics(**values)


def numbers(metrics: Metrics) -> Metrics:
    """NumPy's numbers, so that nothing float64 is ever computed on outside its scope."""
    return Metrics(*(None if value is None else np.asarray(value)[()] for value in metrics))


def _of_centres(about: Centres, pairs: Pairs) -> dict[str, Any]:
    """What the class means alone say."""
    norms = norm(about.centred, axis=1)
    M = over(about.centred, norms[:, None])
    return {
        "nc2": _simplex_distance(M, M),
        "equinorm": relative_spread(norms),
        "equiangular": pairs.equiangular,
        "simplex_angle": pairs.simplex_angle,
    }


def _of_both(about: Centres, A) -> dict[str, Any]:
    """What class means and a classifier with a row for each say of one another."""
    C = about.centred
    return {
        "nc3": _simplex_distance(A, over(C, norm(C, axis=1)[:, None])),
        "self_duality": norm(over(A, norm(A)) - over(C, norm(C))),
    }


def _of_spreads(about: Centres, spreads: Spreads, pairs: Pairs | None) -> dict[str, Any]:
    """What samples about their means say, and how often the classifier agrees with them."""
    xp, noise, samples = namespace_of(about, spreads), about.rounding**2, spreads.count.sum()
    within = xp.sum(spreads.within) / samples  # Tr Cov_W
    between = xp.mean(norm(about.centred, axis=1) ** 2)  # Tr Cov_B
    apart = xp.any(about.whitener != 0)
    values = {
        # with WᵀW = (CᵀC)† = Cov_B†/K, (1/K) Tr(Cov_W Cov_B†) is the mean over samples of ‖W(h − μ_y)‖²
        "nc1": xp.where(apart, xp.sum(spreads.whitened) / samples, ratio(within, xp.zeros_like(within), noise)),
        "trace_ratio": ratio(within, between, noise),
        "cdnv": None if pairs is None else pairs.cdnv,
    }
    if spreads.disagreements is None:
        return values
    counts = {"nc4": spreads.disagreements, "accuracy": spreads.right}
    known = ~xp.isnan(within)  # between NaNs an argmax takes the first
    return values | {name: xp.where(known, xp.sum(count) / samples, xp.nan) for name, count in counts.items()}


def relative_spread(norms: Any) -> Any:
    """Standard deviation over mean, 0 where that is."""
    xp = namespace(norms)
    return over(root(xp.var(norms)), xp.mean(norms))


def _simplex_distance(X, Y):
    """‖XYᵀ/‖XYᵀ‖ − (I − J/K)/√(K−1)‖ for X and Y (K, d).

    The difference is formed where it can vanish (K ≤ d + 1, and as far as it costs little more). Beyond, with G = XYᵀ
    and the simplex's Gram T of norm 1, the square is [G ≠ 0] + 1 − 2⟨G, T⟩/‖G‖, of which ‖G‖² = Tr(XᵀX YᵀY) and
    ⟨G, T⟩ √(K−1) = Tr G − (sum of G's entries)/K take d×d Grams and sums.
    """
    xp, (K, d) = namespace(X, Y), X.shape
    scale = xp.sqrt(xp.asarray(K - 1, X.dtype))
    if 2 * d >= K:
        G = X @ Y.T
        T = (xp.eye(K, dtype=G.dtype) - 1.0 / K) / scale
        return norm(over(G, norm(G)) - T)
    norm_of_G = root(xp.sum((X.T @ X) * (Y.T @ Y)))
    trace, total = xp.sum(X * Y), xp.sum(xp.sum(X, axis=0) * xp.sum(Y, axis=0))
    present = (norm_of_G > 0).astype(X.dtype)
    cosine = over(trace - total / K, norm_of_G) / scale
    return root(1.0 + present - 2.0 * cosine)
