"""Features in two passes over samples: sums of each class, then spreads about the means that these give.

What a pass returns adds up over batches. Features come in columns (d, n), as jitted code holds them, and what is
computed belongs to their namespace, NumPy's or JAX's. In shapes, `groups` are the classes that labels name and `K` a
classifier's rows, which are as many where class labels are learned.
"""

from typing import Any, NamedTuple, TypeGuard

import jax
import numpy as np
from jaxtyping import Float, Int

from ufm._core.arrays import Array, custom_jvp, namespace, replaced
from ufm._core.blocks import cut, fits, put, scan_blocks
from ufm._core.linalg import eigh
from ufm.metrics.arithmetic import norm, over

GATHERED_FROM = 64  # classes from which scatter and gather beat products with the one-hot matrix
UNROLLED_TO = 64  # classes up to which an argmax is unrolled


class Sums(NamedTuple):
    """First pass: samples of each class (groups,) and the sum of their features (groups, d)."""

    count: Any
    features: Any

    def means(self) -> Any:
        """Class means (groups, d); NaN where a class has no sample."""
        return self.features / self.count[:, None]


class Centres(NamedTuple):
    """What the first pass gives the second.

    Samples of each class (groups,), means (groups, d), centred means C (groups, d), W (r, d) with WᵀW = (CᵀC)†, and the
    rounding of the centring, a length.
    """

    count: Any
    means: Any
    centred: Any
    whitener: Any
    rounding: Any


class Spreads(NamedTuple):
    """Second pass, relative to the means of the first.

    Samples seen, Σ‖h − μ_y‖² of each class (groups,), Σ‖W(h − μ_y)‖², and how often the classifier disagrees with the
    nearest centre and how often it is right: None where it has not one row for each class.
    """

    samples: Any
    within: Any
    whitened: Any
    disagreements: Any
    right: Any


def first_pass(H: Float[Array, "d n"], labels: Int[Array, " n"], num_groups: int) -> Sums:
    """Counts and sums of a batch."""
    ones = namespace(H, labels).ones((1, H.shape[1]), H.dtype)
    return Sums(_by_class(ones, labels, num_groups)[:, 0], _by_class(H, labels, num_groups))


def centres(count: Float[Array, " groups"], means: Float[Array, "groups d"]) -> Centres:
    """Centred means, and the whitening of within-class deviations by the between-class spread.

    Directions whose squared singular value is below 4 r ε of the largest (r = min(groups, d), ε the rounding unit)
    count as absent, and so does what is below 4 ε ‖means‖, the rounding of the centring itself.
    """
    xp, eps = namespace(count, means), float(np.finfo(means.dtype).eps)
    centred = means - xp.mean(means, axis=0, keepdims=True)
    rounding = 4 * eps * norm(means)
    centred = xp.where(norm(centred, axis=1)[:, None] <= rounding, 0.0, centred)
    return Centres(count, means, centred, _whitener(centred, rounding), rounding)


def second_pass(
    H: Float[Array, "d n"],
    labels: Int[Array, " n"],
    about: Centres,
    A: Float[Array, "K d"] | None,
    b: Float[Array, " K"] | None,
) -> Spreads:
    """Spreads of a batch about the means, and what the classifier says of it."""
    xp = namespace(H, labels, *about, A, b)
    deviations = H - _of_class(about.means, labels)
    # a product with ones: XLA's own reductions of a matrix take three times as long on a CPU
    squares = xp.ones((1, H.shape[0]), H.dtype) @ deviations**2
    within = _by_class(squares, labels, about.means.shape[0])[:, 0]
    whitened = xp.sum((about.whitener @ deviations) ** 2)
    samples = xp.asarray(labels.shape[0], H.dtype)
    if not paired(A, about):
        return Spreads(samples, within, whitened, None, None)
    judged = verdicts(H, labels, about, A, xp.zeros_like(A[:, 0]) if b is None else b)
    disagreements, right = (xp.sum(verdict, dtype=H.dtype) for verdict in judged)
    return Spreads(samples, within, whitened, disagreements, right)


def paired(A: Any, about: Centres) -> TypeGuard[Any]:
    """Whether there is a classifier, with one row for each class mean: the classes that labels name are its outputs."""
    return A is not None and A.shape[0] == about.means.shape[0]


def verdicts(
    H: Float[Array, "d n"],
    labels: Int[Array, " n"],
    about: Centres,
    A: Float[Array, "K d"],
    b: Float[Array, " K"],
) -> tuple[Any, Any]:
    """Of each sample (n,): whether the classifier disagrees with the nearest centre, and whether it is right."""
    # ‖h − μ_k‖² is least where ⟨C_k, h⟩ − ⟨C_k, μ_G⟩ − ‖C_k‖²/2 is largest: a classifier too, with rows C
    xp, C = namespace(H, labels, *about), about.centred
    nearest = _decisions(C, H, -(C @ xp.mean(about.means, axis=0) + 0.5 * xp.sum(C**2, axis=1)))
    decision = _decisions(A, H, b)
    return decision != nearest, decision == labels


@custom_jvp
def _whitener(C, rounding):
    """W (r, d) with WᵀW = (CᵀC)†, from the smaller Gram of C (groups, d), r = min(groups, d).

    With C = U S Vᵀ, (CᵀC)† = V S⁻² Vᵀ. The d×d Gram gives V and S²: W = S⁻¹Vᵀ. The groups×groups Gram gives U and S²:
    W = S⁻²UᵀC, which is the same.
    """
    xp, (groups, d) = namespace(C), C.shape
    values, vectors = eigh(C @ C.T if d >= groups else C.T @ C)  # S² from least to largest, and U or V
    floor = xp.maximum(4 * min(groups, d) * float(np.finfo(C.dtype).eps) * values[-1], rounding**2)
    inverse = over(1.0, xp.where(values <= floor, 0.0, values))  # S⁻²
    if d >= groups:  # the centred means' Gram is singular: its least eigenvalue is rounding
        inverse = replaced(inverse, 0, 0.0)
        return inverse[:, None] * (vectors.T @ C)
    return xp.sqrt(inverse)[:, None] * vectors.T


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


def _one_hot(labels, num_groups, dtype):
    """(groups, n): 1 where a sample is of the class."""
    return (labels[None, :] == namespace(labels).arange(num_groups, dtype=labels.dtype)[:, None]).astype(dtype)


def _by_class(X, labels, num_groups):
    """(groups, d) sums over the samples of each class, of X (d, n)."""
    if num_groups < GATHERED_FROM:
        return _one_hot(labels, num_groups, X.dtype) @ X.T
    if namespace(X, labels) is np:
        return _sums_in_order(X, labels, num_groups)
    return jax.ops.segment_sum(X.T, labels, num_groups)


def _sums_in_order(X, labels, num_groups):
    """The same in NumPy, which sums over what stands together."""
    order, count = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=num_groups)
    present = np.flatnonzero(count)
    sums = np.zeros((num_groups, X.shape[0]), X.dtype)
    sums[present] = np.add.reduceat(X.T[order], (np.cumsum(count) - count)[present], axis=0)
    return sums


def _of_class(means, labels):
    """(d, n): the mean of each sample's class."""
    if len(means) < GATHERED_FROM and namespace(means, labels) is not np:
        return means.T @ _one_hot(labels, len(means), means.dtype)
    return means[labels].T


def _decisions(A, H, b):
    """(n,) the k with the largest logit ⟨A_k, h⟩ + b_k, for each column h of H; logits that don't fit in blocks."""
    xp, count = namespace(A, H, b), H.shape[1]

    def decide(block):
        return _first_largest(A @ block + b[:, None])

    def step(decisions, first, is_new):
        return put(decisions, decide(cut(H, first, is_new, 1)), first)

    return decide(H) if fits(count, len(A)) else scan_blocks(step, xp.zeros(count, np.int32), count, len(A))


def _first_largest(scores):
    """Argmax over the first axis, as comparisons that a CPU vectorises over samples."""
    xp = namespace(scores)
    if xp is np or scores.shape[0] > UNROLLED_TO:
        return xp.argmax(scores, axis=0).astype(np.int32)
    best, index = scores[0], xp.zeros(scores.shape[1:], np.int32)
    for k in range(1, scores.shape[0]):
        better = scores[k] > best
        best, index = xp.where(better, scores[k], best), xp.where(better, k, index)
    return index
