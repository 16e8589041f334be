"""Neural collapse in numbers: NC1–NC4 and their relatives, from sums over samples in two passes.

With class means μ_k, the mean of class means μ_G (not the sample mean: the two differ where classes are
unbalanced), C the centred means μ_k − μ_G and M their rows normalised,

    Cov_W = (1/N) Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ,    Cov_B = (1/K) Σ_k (μ_k − μ_G)(μ_k − μ_G)ᵀ.

On balanced classes they add up to the total covariance; on unbalanced ones they do not. A covariance is never
formed: everything follows from the smaller of the K×K and d×d Grams of the centred means.

A zero vector or matrix normalises to zero. So where all means are equal NC2, NC3 and self-duality are 1,
equinorm and cosines are 0; and a ratio to a vanishing between-class spread is ∞, or 0 where the within-class
spread vanishes too. No metric is ever negative.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ufm._core.archive import storable
from ufm._core.blocks import cut, fits, over_blocks, put
from ufm._core.linalg import eigh
from ufm._core.repr import call

GATHERED_FROM = 64  # classes from which scatter and gather beat products with the one-hot matrix
UNROLLED_TO = 64  # classes up to which an argmax is unrolled


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
        if not all(isinstance(value, numbers.Real) for value in values.values()):
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


class Sums(NamedTuple):
    """First pass over the features: counts (K,) and class sums (K, d). Adds up over batches."""

    count: Any
    features: Any


class Centres(NamedTuple):
    """What the first pass gives the second.

    Counts (K,), means (K, d), centred means C (K, d), W with WᵀW = (CᵀC)†, and the rounding of the centring.
    """

    count: Any
    means: Any
    centred: Any
    whitener: Any
    rounding: Any


class Spreads(NamedTuple):
    """Second pass, relative to the means of the first. Adds up over batches.

    Samples seen, Σ‖h−μ_y‖² of each class (K,), Σ‖W(h−μ_y)‖², and how often the classifier disagrees with the
    nearest centre and how often it is right.
    """

    samples: Any
    within: Any
    whitened: Any
    disagreements: Any
    right: Any


def evaluate(
    H: Float[Array, "d N"], labels: Int[Array, " N"], A: Float[Array, "K d"], b: Float[Array, " K"]
) -> Metrics:
    """All metrics in one traceable piece, for use inside jitted code, which holds features in columns."""
    reached = centres(first_pass(H, labels, A.shape[0]))
    return summary(reached, second_pass(H, labels, reached, A, b), A)


def of_means(
    means: Float[Array, "K d"], count: Float[Array, " K"], A: Float[Array, "K d"], b: Float[Array, " K"]
) -> Metrics:
    """Metrics of features that have collapsed to their means, `count` of each class; traceable."""
    reached = centres(Sums(count, means * count[:, None]))
    classes = jnp.arange(len(count), dtype=jnp.int32)
    share = count / jnp.sum(count)
    nearest = _decisions(reached.centred, means.T, -_offset(reached))
    decision = _decisions(A, means.T, b)
    zeros = jnp.zeros_like(count)
    spreads = Spreads(
        samples=jnp.asarray(1.0, count.dtype),
        within=zeros,
        whitened=jnp.zeros((), count.dtype),
        disagreements=jnp.sum(jnp.where(decision != nearest, share, 0.0)),
        right=jnp.sum(jnp.where(decision == classes, share, 0.0)),
    )
    return summary(reached, spreads, A)


def first_pass(H: Float[Array, "d n"], labels: Int[Array, " n"], num_classes: int) -> Sums:
    """Counts and sums of a batch of columns."""
    return Sums(
        _by_class(jnp.ones((1, H.shape[1]), H.dtype), labels, num_classes)[:, 0],
        _by_class(H, labels, num_classes),
    )


def centres(sums: Sums) -> Centres:
    """Means and the whitening of within-class deviations by the between-class spread.

    Directions whose squared singular value is below 4 m ε of the largest (m = min(K, d), ε the rounding unit)
    count as absent, and so does what is below 4 ε ‖means‖, the rounding of the centring itself.
    """
    means = sums.features / sums.count[:, None]
    eps = float(jnp.finfo(means.dtype).eps)
    centred = means - jnp.mean(means, axis=0, keepdims=True)
    rounding = 4 * eps * _norm(means)
    centred = jnp.where(_norm(centred, axis=1)[:, None] <= rounding, 0.0, centred)
    return Centres(sums.count, means, centred, _whitener(centred, rounding), rounding)


@jax.custom_jvp
def _whitener(C, rounding):
    """W (min(K, d), d) with WᵀW = (CᵀC)†, from the smaller Gram of C (K, d)."""
    K, d = C.shape
    values, vectors = eigh(C @ C.T if d >= K else C.T @ C)
    floor = jnp.maximum(4 * min(K, d) * jnp.finfo(C.dtype).eps * values[-1], rounding**2)
    inverse = _over(1.0, jnp.where(values <= floor, 0.0, values))
    if d >= K:  # the centred means' Gram is singular: its least eigenvalue is rounding
        inverse = inverse.at[0].set(0.0)
        return inverse[:, None] * (vectors.T @ C)
    return jnp.sqrt(inverse)[:, None] * vectors.T


@_whitener.defjvp
def _whitener_jvp(primals, tangents):
    """A derivative of W that gives WᵀW the one of (CᵀC)† at fixed rank (Golub and Pereyra 1973).

    W is determined up to a rotation from the left, whose derivative diverges where singular values are equal, as at
    a simplex all are. With S = CᵀC, P = S† = WᵀW and Π = PS the projector on C's rows,

        dP = −P dS P + P² dS (1 − Π) + (1 − Π) dS P²,    which    dW = −½ W dS P + W P dS (1 − Π)

    gives as WᵀdW + dWᵀW; and dS (1 − Π) = Cᵀ dC (1 − Π).
    """
    C, dC = primals[0], tangents[0]
    W = _whitener(*primals)
    left = W @ C.T  # (min(K, d), K)
    inner = ((W @ dC.T) @ left.T + left @ (dC @ W.T)) @ W  # W dS P
    outer = (W @ W.T) @ (left @ dC)  # W P Cᵀ dC
    return W, outer - ((outer @ W.T) @ left) @ C - 0.5 * inner


def second_pass(
    H: Float[Array, "d n"],
    labels: Int[Array, " n"],
    reached: Centres,
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"] | None,
) -> Spreads:
    """Spreads of a batch of columns about the means, and what the classifier says of it."""
    deviations = H - _of_class(reached.means, labels)
    # a product with ones: XLA's own reductions of a matrix take three times as long on a CPU
    squares = jnp.ones((1, H.shape[0]), H.dtype) @ deviations**2
    within = _by_class(squares, labels, reached.means.shape[0])[:, 0]
    whitened = jnp.sum((reached.whitener @ deviations) ** 2)
    samples = jnp.asarray(labels.shape[0], H.dtype)
    if A is None:
        return Spreads(samples, within, whitened, None, None)
    nearest = _decisions(reached.centred, H, -_offset(reached))
    decision = _decisions(A, H, jnp.zeros_like(A[:, 0]) if b is None else b)
    disagreements, right = (jnp.sum(x, dtype=H.dtype) for x in (decision != nearest, decision == labels))
    return Spreads(samples, within, whitened, disagreements, right)


def summary(reached: Centres, spreads: Spreads | None, A: Float[Array, "K d"] | None) -> Metrics:
    """Metrics from the sums of the two passes; None for what a missing pass or classifier would tell."""
    C = reached.centred
    norms = _norm(C, axis=1)
    M = _over(C, norms[:, None])
    spread_cosine, angle = _cosines(M)
    values = dict.fromkeys(Metrics._fields)
    values |= {
        "nc2": _simplex_distance(M, M),
        "equinorm": _relative_spread(norms),
        "equiangular": spread_cosine,
        "simplex_angle": angle,
    }
    if A is not None:
        values |= {
            "nc3": _simplex_distance(A, M),
            "equinorm_A": _relative_spread(_norm(A, axis=1)),
            "self_duality": _norm(_over(A, _norm(A)) - _over(C, _norm(C))),
        }
    if spreads is not None:
        within = jnp.sum(spreads.within) / spreads.samples
        apart, noise = jnp.any(reached.whitener != 0), reached.rounding**2
        values |= {
            "nc1": jnp.where(apart, spreads.whitened / spreads.samples, _ratio(within, 0.0, noise)),
            "trace_ratio": _ratio(within, jnp.mean(norms**2), noise),
            "cdnv": _cdnv(spreads.within / reached.count, C, noise),
        }
        if spreads.disagreements is not None:
            values |= {
                "nc4": spreads.disagreements / spreads.samples,
                "accuracy": spreads.right / spreads.samples,
            }
    return Metrics(**values)


def _one_hot(labels, num_classes, dtype):
    return (labels[None, :] == jnp.arange(num_classes, dtype=labels.dtype)[:, None]).astype(dtype)


def _by_class(columns, labels, num_classes):
    """(K, d) sums over the samples of each class, of (d, n) columns."""
    if num_classes < GATHERED_FROM:
        return _one_hot(labels, num_classes, columns.dtype) @ columns.T
    return jax.ops.segment_sum(columns.T, labels, num_classes)


def _of_class(rows, labels):
    """(d, n): the row of each sample's class, as a column."""
    if len(rows) < GATHERED_FROM:
        return rows.T @ _one_hot(labels, len(rows), rows.dtype)
    return rows[labels].T


def _decisions(rows, H, offsets):
    """(n,) the k with the largest ⟨row_k, h⟩ + offset_k, for each of n columns h."""
    count = H.shape[1]

    def of(columns):
        return _first_largest(rows @ columns + offsets[:, None])

    def step(decisions, first, fresh):
        return put(decisions, of(cut(H, first, fresh, 1)), first)

    return of(H) if fits(count, len(rows)) else over_blocks(step, jnp.zeros(count, jnp.int32), count, len(rows))


def _first_largest(scores):
    """Argmax over the first axis, as comparisons that a CPU vectorises over samples."""
    if scores.shape[0] > UNROLLED_TO:
        return jnp.argmax(scores, axis=0).astype(jnp.int32)
    best, index = scores[0], jnp.zeros(scores.shape[1:], jnp.int32)
    for k in range(1, scores.shape[0]):
        better = scores[k] > best
        best, index = jnp.where(better, scores[k], best), jnp.where(better, k, index)
    return index


def _offset(reached):
    """c_k such that the nearest centre of h is the largest of ⟨C_k, h⟩ − c_k."""
    return reached.centred @ jnp.mean(reached.means, axis=0) + 0.5 * jnp.sum(reached.centred**2, axis=1)


def _over(x, norm):
    """X / norm, and zero where the norm is; NaN where that is."""
    return jnp.where(norm <= 0, 0.0, x / jnp.where(norm <= 0, 1.0, norm))


def _ratio(x, y, noise):
    """X / y of non-negative numbers; where y vanishes ∞, or 0 where x is noise too."""
    return jnp.where(y <= 0, jnp.where(x <= noise, 0.0, jnp.inf), x / jnp.where(y <= 0, 1.0, y))


def _relative_spread(norms):
    return _over(_root(jnp.var(norms)), jnp.mean(norms))


def _norm(X, axis=None):
    return _root(jnp.sum(X**2, axis=axis))


def _root(x):
    """√x, whose derivative at zero is taken as zero: the metrics that are distances have their kink there."""
    return jnp.where(x <= 0, 0.0, jnp.sqrt(jnp.where(x <= 0, 1.0, x)))


def _simplex_distance(X, Y):
    """‖XYᵀ/‖XYᵀ‖ − (I − J/K)/√(K−1)‖ for X and Y (K, d).

    The difference is formed where it can vanish (K ≤ d + 1); beyond, traces and d×d Grams say the same.
    """
    K, d = X.shape
    if 2 * d >= K:
        G = X @ Y.T
        target = (jnp.eye(K, dtype=G.dtype) - 1.0 / K) / jnp.sqrt(jnp.asarray(K - 1, G.dtype))
        return _norm(_over(G, _norm(G)) - target)
    norm = _root(jnp.sum((X.T @ X) * (Y.T @ Y)))
    aligned = jnp.sum(X * Y) - jnp.sum(jnp.sum(X, axis=0) * jnp.sum(Y, axis=0)) / K
    present = jnp.where(norm > 0, 1.0, 0.0)
    cosine = _over(aligned, norm) / jnp.sqrt(jnp.asarray(K - 1, X.dtype))
    return _root(1.0 + present - 2.0 * cosine)


def _cosines(M):
    """Standard deviation of the cosines between distinct rows, and their mean distance to −1/(K−1)."""
    K = M.shape[0]
    pairs = K * (K - 1)
    mean = (jnp.sum(jnp.sum(M, axis=0) ** 2) - jnp.sum(M**2)) / pairs

    def of_rows(take):
        cosines = take(M) @ M.T
        return (cosines - mean) ** 2, jnp.abs(cosines + 1.0 / (K - 1))

    squares, distances = _over_pairs(of_rows, K, (mean, mean))
    return _root(squares / pairs), distances / pairs


def _cdnv(variances, C, noise):
    """Mean over ordered pairs k ≠ l of σ_k²/‖μ_k − μ_l‖², which equals the symmetric definition."""
    K = C.shape[0]
    squares = jnp.sum(C**2, axis=1)

    def of_rows(take):
        distances = take(squares)[:, None] + squares[None, :] - 2.0 * (take(C) @ C.T)
        return _ratio(take(variances)[:, None], jnp.maximum(distances, 0.0), noise)

    return _over_pairs(of_rows, K, noise) / (K * (K - 1))


def _over_pairs(of_rows, K, like):
    """Sums over ordered pairs k ≠ l of arrays (k, l), of which `of_rows(take)` makes the rows that `take` cuts."""

    def summed(distinct, take):
        return jax.tree.map(lambda x: jnp.sum(jnp.where(distinct, x, 0.0)), of_rows(take))

    def step(totals, first, fresh):
        rows = first + jnp.arange(fresh.shape[0], dtype=first.dtype)
        distinct = fresh[:, None] & (rows[:, None] != jnp.arange(K, dtype=first.dtype)[None])
        return jax.tree.map(jnp.add, totals, summed(distinct, lambda x: cut(x, first, fresh)))

    if fits(K, K):
        return summed(~jnp.eye(K, dtype=bool), lambda x: x)
    return over_blocks(step, jax.tree.map(jnp.zeros_like, like), K, K)
