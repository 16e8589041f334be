"""Features in two passes over samples: sums of each class, then spreads about the means that these give.

What a pass returns adds up over batches. Features come in columns (d, n), as jitted code holds them, and what is
computed belongs to their namespace, NumPy's or JAX's. In shapes, `groups` are the classes that have samples and `K` a
classifier's rows, which are as many where class labels are learned and each has samples.

Distances are measured in coordinates of their own, (h − origin) · scale, with the mean of class means at zero and class
means of a size near 1: so squares neither overflow nor vanish, whatever the size of the features and however far from
zero they are. No metric depends on either.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, custom_jvp, namespace
from ufm._core.linalg import right_svd
from ufm.metrics.arithmetic import norm, over, power_of_two
from ufm.metrics.decisions import Rule, decide

SCATTERED_FROM = 64  # classes from which scatter and gather beat products with the one-hot matrix


class Sums(NamedTuple):
    """First pass: samples of each class (groups,) and the sum of their features (groups, d)."""

    count: Any
    features: Any

    def means(self) -> Any:
        """Class means (groups, d); NaN where a class has no sample."""
        return self.features / self.count[:, None]


class Centres(NamedTuple):
    """What the first pass gives the second.

    Samples of each class (groups,), means (groups, d), and in coordinates (h − origin) · scale the centred means C
    (groups, d), W (r, d) with WᵀW = (CᵀC)†, and the most that C's rows are rounded by, a length.
    """

    count: Any
    means: Any
    origin: Any
    scale: Any
    centred: Any
    whitener: Any
    rounding: Any


class Judges(NamedTuple):
    """Two classifiers of a sample in the coordinates of `Centres`: the nearest class centre, and the one that is given.

    Names (groups,) say which of the given classifier's outputs each class mean is of; None stands for 0, 1, ….
    Decisions (n,) are those of a classifier that reads other features of the samples, and stand in for the given one's.
    """

    nearest: Rule
    given: Rule
    names: Any = None
    decisions: Any = None


class Spreads(NamedTuple):
    """Second pass, relative to the means of the first: of each class (groups,).

    Samples seen, Σ‖h − μ_y‖², Σ‖W(h − μ_y)‖², and how often the classifier disagrees with the nearest centre and how
    often it is right: None without a classifier that has a row for each class.
    """

    count: Any
    within: Any
    whitened: Any
    disagreements: Any
    right: Any


def first_pass(H: Float[Array, "d n"], labels: Int[Array, " n"], num_groups: int) -> Sums:
    """Counts and sums of a batch."""
    ones = namespace(H, labels).ones((1, H.shape[1]), H.dtype)
    return Sums(_by_class(ones, labels, num_groups)[:, 0], _by_class(H, labels, num_groups))


def centres(
    count: Float[Array, " groups"], means: Float[Array, "groups d"], offset: Any = None, unit: float | None = None
) -> Centres:
    """Centred means, and the whitening of within-class deviations by the between-class spread.

    Directions of C whose singular value is below what rounding leaves count as absent: below 4 ε ‖means‖ or r ε of the
    largest (r = min(groups, d), ε the spacing of the numbers computed with), or below the norm of a random matrix whose
    entries are half of what the features' own precision rounds the means' entries by. A centred mean that is smaller
    than its features' rounding is zero.

    Args:
        count: samples of each class.
        means: class means.
        offset: (d,) what is to be added to the means for the size of the features as they were given; nothing where
            absent.
        unit: relative rounding of the features as they were given; of their type where absent.
    """
    xp, eps, (groups, d) = namespace(count, means), float(np.finfo(means.dtype).eps), means.shape
    unit = eps / 2 if unit is None else max(unit, eps / 2)
    offset = xp.zeros_like(means[0]) if offset is None else offset
    shrink = power_of_two(means)
    M = means * shrink
    middle = xp.mean(M, axis=0)
    C, sizes = M - middle[None], norm(M + offset[None] * shrink, axis=1)
    stretch = power_of_two(C)
    arithmetic, sizes = 4 * eps * norm(M) * stretch, sizes * stretch
    # of a mean and of the mean of all, so that one that is large doesn't drown the others
    rounding = xp.maximum(arithmetic, 0.5 * unit * (sizes + xp.mean(sizes)))
    C = xp.where((norm(C * stretch, axis=1) <= rounding)[:, None], 0.0, C * stretch)
    # a random matrix of entries of size s has norm s (√groups + √d)
    noise = 0.5 * unit * norm(sizes) * float(groups**-0.5 + d**-0.5)
    W = _whitener(C, xp.maximum(arithmetic, noise))
    return Centres(count, means, middle / shrink, shrink * stretch, C, W, xp.max(rounding))


def nearest_centre(about: Centres) -> Rule:
    """The nearest class centre as a classifier: ‖x − c_k‖² is least where ⟨c_k, x⟩ − ‖c_k‖²/2 is largest."""
    return Rule(about.centred, -0.5 * namespace(about.centred).sum(about.centred**2, axis=1))


def as_rule(A: Float[Array, "K d"], b: Float[Array, " K"], about: Centres) -> Rule:
    """The decisions of a classifier of features, in the coordinates of the class centres."""
    size = power_of_two(A)  # whose decisions are those of any multiple
    return Rule(A * size, (b * size + (A * size) @ about.origin) * about.scale)


def second_pass(
    H: Float[Array, "d n"], labels: Int[Array, " n"], about: Centres, judges: Judges | None = None
) -> Spreads:
    """Spreads of a batch about the means, and what classifiers say of it; labels name rows of the means."""
    xp, groups = namespace(H, labels, *about), len(about.means)
    deviations = (H - _of_class(about.means, labels)) * about.scale
    parts = [xp.ones_like(H[0]), _squares(deviations), _squares(about.whitener @ deviations)]
    if judges is not None:
        parts += [verdict.astype(H.dtype) for verdict in verdicts(H, labels, about, judges)]
    count, within, whitened, *judged = _by_class(xp.stack(parts), labels, groups).T
    disagreements, right = judged or (None, None)
    return Spreads(count, within, whitened, disagreements, right)


def verdicts(H: Float[Array, "d n"], labels: Int[Array, " n"], about: Centres, judges: Judges) -> tuple[Any, Any]:
    """Of each sample (n,): whether the classifier disagrees with the nearest centre, and whether it is right."""
    places = (H - about.origin[:, None]) * about.scale
    nearest = decide(judges.nearest, places)
    decision = decide(judges.given, places) if judges.decisions is None else judges.decisions
    if judges.names is not None:
        nearest, labels = judges.names[nearest], judges.names[labels]
    return decision != nearest, decision == labels


@custom_jvp
def _whitener(C, least):
    """W (r, d) with WᵀW = (CᵀC)†: with C = U S Vᵀ, W = S⁻¹Vᵀ, of the singular values above the least."""
    groups, d = C.shape
    S, Vt = right_svd(C)
    xp, eps = namespace(S), float(np.finfo(C.dtype).eps)
    kept = xp.maximum(least, min(groups, d) * eps * S[0]) < S
    if d >= groups:  # rows of C add up to zero: its least singular value is rounding
        kept = kept & (xp.arange(len(S)) < groups - 1)
    return over(1.0, xp.where(kept | xp.isnan(S), S, 0.0))[:, None] * Vt


@_whitener.defjvp
def _whitener_jvp(primals, tangents):
    """A derivative of W that gives WᵀW the one of (CᵀC)† at fixed rank (Golub and Pereyra 1973).

    W is determined up to a rotation from the left, whose derivative diverges where singular values are equal, as at
    a simplex all are. With S = CᵀC, P = S† = WᵀW and Π = PS the projector on C's rows,

        dP = −P dS P + P² dS (1 − Π) + (1 − Π) dS P²,    which    dW = −½ W dS P + W P dS (1 − Π)

    gives as WᵀdW + dWᵀW; and dS = CᵀdC + dCᵀC, of which dS (1 − Π) = CᵀdC (1 − Π). No d×d matrix is formed where the
    r×groups ones are smaller.
    """
    (C, _), (dC, _) = primals, tangents
    W = _whitener(*primals)
    WCt = W @ C.T  # (r, groups)
    W_dS_P = ((W @ dC.T) @ WCt.T + WCt @ (dC @ W.T)) @ W  # W dS Wᵀ is (r, r)
    W_P_CtdC = (W @ W.T) @ (WCt @ dC)  # W P Cᵀ dC
    along = ((W_P_CtdC @ W.T) @ WCt) @ C  # the same times Π = WᵀW CᵀC
    return W, W_P_CtdC - along - 0.5 * W_dS_P


def _squares(X):
    """(n,) squared norms of the columns of X."""
    if namespace(X) is np:
        return np.einsum("ij,ij->i", X.T, X.T)
    # a product with ones: XLA's own reductions of a matrix take three times as long on a CPU
    return (jax.numpy.ones((1, X.shape[0]), X.dtype) @ X**2)[0]


def _one_hot(labels, num_groups, dtype):
    """(groups, n): 1 where a sample is of the class."""
    return (labels[None, :] == namespace(labels).arange(num_groups, dtype=labels.dtype)[:, None]).astype(dtype)


def _by_class(X, labels, num_groups):
    """(groups, d) sums over the samples of each class, of X (d, n)."""
    if namespace(X, labels) is np:
        return np.stack([np.bincount(labels, row, num_groups) for row in X], axis=1)
    if num_groups < SCATTERED_FROM:
        return _one_hot(labels, num_groups, X.dtype) @ X.T
    return jax.ops.segment_sum(X.T, labels, num_groups)


def _of_class(means, labels):
    """(d, n): the mean of each sample's class."""
    if len(means) < SCATTERED_FROM and namespace(means, labels) is not np:
        return means.T @ _one_hot(labels, len(means), means.dtype)
    return means[labels].T
